"""What the page asks: one frozen State, read from text (a form or a URL) field by field and written back as a query string."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

import fits
from fits.curve import Curve
from scaling.diffusion.scenario import built_in
from scaling.errors import InputError
from scaling.hardware.architecture import presets
from scaling.hardware.chips import FORMATS
from scaling.hardware.library import chip as find_chip

UNLIMITED, NONE, AS_WRITTEN, THE_GAPS = "unlimited", "none", "as in the scenario", "the gaps above"
FIXED = {"nothing": None, "tokens": "tokens", "size": "params", "tokens per parameter": "tokens_per_param"}
DESTINATIONS = ("China", "D:5", "D:1", "D:4", "elsewhere")
NUMBER_FORMATS = tuple(name for name in FORMATS if name not in ("fp32", "tf32", "int8", "fp16_fp16acc"))
MOST_CURVES = 6
_MOST_CHARACTERS = 2000


@dataclasses.dataclass(frozen=True)
class Range:
    """A number's least and greatest value, and the ends of its slider, which moves in logs."""

    low: float
    high: float
    slider: tuple[float, float]


RANGES = {
    "flops": Range(1e21, 1e29, (1e21, 1e29)),
    "structure": Range(0.01, 100, (0.5, 10)),
    "data": Range(0.01, 100, (0.5, 10)),
    "unique_tokens": Range(1e9, math.inf, (1e12, 1e16)),
    "follower_share": Range(1e-3, 1e3, (0.1, 10)),
    "overtraining": Range(0.01, 1000, (0.1, 100)),
    "served_tokens": Range(0, 1e20, (1e11, 1e16)),
    "leader_chips": Range(1, 1e7, (1, 1e6)),
    "follower_chips": Range(1, 1e7, (1, 1e6)),
}


@dataclasses.dataclass(frozen=True)
class State:
    """The inputs of every answer on the page. `follower_share`: the follower's unique tokens over the leader's; `on`: the date of the export rules.

    Of the scenario, `laggard` says which gaps its second actor has, and `controls_from` to which day its first control is moved.
    """

    curves: tuple[str, ...] = ("besiroglu2024", "hoffmann2022")
    flops: float = 1e26
    structure: float = 2.0
    data: float = 2.0
    fixed: str = "nothing"
    unique_tokens: float = 15e12
    follower_share: float = 1.0
    overtraining: float = 1.0
    served_tokens: float = 0.0
    model: str = "llama-3.1-405b"
    leader_chip: str = "H100-SXM-80GB"
    leader_chips: float = 16384
    leader_format: str = "bf16"
    follower_chip: str = "H20"
    follower_chips: float = 16384
    follower_format: str = "bf16"
    on: str = "2023-11-17"
    destination: str = "China"
    scenario: str = "export-controls-2022"
    laggard: str = AS_WRITTEN
    controls: str = AS_WRITTEN
    controls_from: str = AS_WRITTEN


FIELDS = tuple(field.name for field in dataclasses.fields(State))


@functools.cache
def known_curves() -> dict[str, Curve]:
    """Published curves that give a penalty without further inputs, by name."""
    return {name: curve for name in fits.shipped() if can_answer(curve := fits.load(name))}


def can_answer(curve: Curve) -> bool:
    """Whether a law divides compute between a size and tokens, and has usual values for all else."""
    others = {name for name in curve.law.inputs if name not in (curve.law.size, "tokens", "unique_tokens")}
    return curve.law.size is not None and "tokens" in curve.law.inputs and others <= dict(curve.law.typical).keys()


def read_field(name: str, text: str) -> Any:
    """The value of one field from its text. Raises InputError that says what would be right."""
    text = text.strip()
    if name in RANGES:
        return _number(name, text)
    if name == "curves":
        return _curves(text)
    if name.endswith("_chip"):
        try:
            return find_chip(text).name
        except InputError as error:
            raise InputError(f"{label(name)}: {error}") from None
    if name == "on" or (name == "controls_from" and text != AS_WRITTEN):
        try:
            return datetime.date.fromisoformat(text).isoformat()
        except ValueError:
            other = f", or {AS_WRITTEN}" if name == "controls_from" else ""
            raise InputError(f"{label(name)}: write a date as 2023-11-17{other}, got {text!r}") from None
    if name == "controls_from":
        return text
    return _choice(name, text, CHOICES[name]())


CHOICES = {
    "fixed": lambda: tuple(FIXED),
    "model": lambda: tuple(presets()),
    "leader_format": lambda: NUMBER_FORMATS,
    "follower_format": lambda: NUMBER_FORMATS,
    "destination": lambda: DESTINATIONS,
    "scenario": lambda: (NONE, *built_in()),
    "laggard": lambda: (AS_WRITTEN, THE_GAPS),
    "controls": lambda: (AS_WRITTEN, NONE),
}


def label(name: str) -> str:
    """A field's name in words."""
    return name.replace("_", " ")


def read_form(values: Mapping[str, str]) -> State:
    """The State of a complete form. Raises InputError for the first field that is wrong."""
    return State(**{name: read_field(name, text) for name, text in values.items()})


def read_query(query: str) -> tuple[State, list[str]]:
    """The State of a URL's query and what of it does not fit: such a field keeps its default, and the text says so."""
    if len(query) > _MOST_CHARACTERS:
        return State(), [f"the address holds {len(query)} characters of settings, more than {_MOST_CHARACTERS}: defaults are shown"]
    found: dict[str, Any] = {}
    problems = []
    for name, text in parse_qsl(query.lstrip("?"), keep_blank_values=True):
        if name not in FIELDS:
            problems.append(f"{name!r} is no setting of this version; it was left out")
            continue
        try:
            found[name] = read_field(name, text)
        except InputError as error:
            problems.append(f"{error}; {write_field(name, getattr(State(), name))} is used")
    return State(**found), problems


def write_query(state: State) -> str:
    """The query of what differs from the defaults; read_query gives the same State back."""
    default = State()
    changed = {name: getattr(state, name) for name in FIELDS if getattr(state, name) != getattr(default, name)}
    return urlencode({name: write_field(name, value) for name, value in changed.items()}, safe=":,")


def write_field(name: str, value: object) -> str:
    """A field as text that read_field reads."""
    if isinstance(value, tuple):
        return ",".join(value)
    if not isinstance(value, float | int):
        return str(value)
    return UNLIMITED if math.isinf(value) else number(value)


def number(value: float) -> str:
    """The shortest text of a number: 1e26, 16384, 0.5."""
    mantissa, _, exponent = repr(float(value)).partition("e")
    if exponent:
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    if value >= 1e7:
        digits = f"{value:e}".split("e")
        exact = f"{digits[0].rstrip('0').rstrip('.')}e{int(digits[1])}"
        return exact if float(exact) == value else repr(value).removesuffix(".0")
    return mantissa.removesuffix(".0")


def _number(name: str, text: str) -> float:
    limits = RANGES[name]
    allowed = (
        f"from {number(limits.low)} to {number(limits.high)}" if math.isfinite(limits.high) else f"from {number(limits.low)}, or unlimited"
    )
    try:
        value = math.inf if text.casefold() == UNLIMITED else float(text)
    except ValueError:
        raise InputError(f"{label(name)}: a number {allowed}, such as {write_field(name, getattr(State(), name))}; got {text!r}") from None
    if not limits.low <= value <= limits.high:
        raise InputError(f"{label(name)}: must be {allowed}, got {text}")
    if name.endswith("_chips") and value != round(value):
        raise InputError(f"{label(name)}: must be a whole number, got {text}")
    return value


def _curves(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name for name in text.split(",") if name))
    if not names:
        raise InputError("curves: choose at least one")
    if len(names) > MOST_CURVES:
        raise InputError(f"curves: at most {MOST_CURVES} at a time, got {len(names)}")
    for name in names:
        _choice("curves", name, tuple(known_curves()))
    return names


def _choice(name: str, text: str, choices: tuple[str, ...]) -> str:
    if text in choices:
        return text
    shown = ", ".join(choices[:8]) + (", ..." if len(choices) > 8 else "")
    raise InputError(f"{label(name)}: there is no {text!r}; choose from {shown}")
