"""US export rules on accelerators, by date: which one catches a chip, and why.

Total processing performance and performance density are computed from a chip's rates and die area (`Chip.tpp`, `Chip.performance_density`);
thresholds, dates and sources are data (`export_rules.toml`). The destination is China unless stated; a buyer with headquarters there counts
as there. A rule limits sale, not ownership or rent, and changed often: this is no legal advice.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from scaling.errors import InputError
from scaling.hardware.chips import Chip
from scaling.hardware.library import chip as find_chip

# controlled: on the control list; to China a licence is presumed to be denied. licence: needs one, by a letter that names it or its
# class, or with a review that presumes approval. case_by_case: a licence, reviewed case by case. not_applicable: the rule does not
# speak of such a part.
STATUSES = ("controlled", "licence", "case_by_case", "not_controlled", "not_applicable", "unknown")
DESTINATIONS = {
    "China": "with Hong Kong and Macau",
    "D:5": "other countries under a US arms embargo",
    "D:1": "country group D:1, not also A:5 or A:6",
    "D:4": "country group D:4, not also A:5 or A:6",
    "elsewhere": "any other country",
}
FIGURES = {
    "tpp": ("TPP", ""),
    "density": ("performance density", ""),
    "io": ("links", " GB/s"),
    "bandwidth": ("memory bandwidth", " GB/s"),
    "io_and_bandwidth": ("links and memory", " GB/s"),
}


@dataclasses.dataclass(frozen=True)
class Bound:
    """figure >= `at_least` and figure < `below`."""

    at_least: float | None = None
    below: float | None = None

    def holds(self, value: float | None) -> bool | None:
        """Whether `value` lies within; None where it is not known."""
        if value is None:
            return None
        return (self.at_least is None or value >= self.at_least) and (self.below is None or value < self.below)


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a rule: a bound for each figure it names, all of which must hold."""

    bounds: Mapping[str, Bound]
    tier: str = ""
    datacentre: bool | None = None

    def catches(self, chip: Chip) -> bool | None:
        """Whether every bound holds; None where that hangs on a figure that is not known."""
        answers = [bound.holds(figure(chip, name)) for name, bound in self.bounds.items()]
        if self.datacentre is not None:
            answers.append(chip.datacentre == self.datacentre)
        if False in answers:
            return False
        return None if None in answers else True

    def failing(self, chip: Chip) -> dict[str, Bound]:
        """The bounds that do not hold."""
        return {name: bound for name, bound in self.bounds.items() if bound.holds(figure(chip, name)) is False}


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule, letter or guidance; see `export_rules.toml` for the meaning of each key."""

    name: str
    kind: str
    title: str
    citation: str
    announced: datetime.date
    in_force: datetime.date
    summary: str
    destinations: Mapping[str, str]
    aliases: tuple[str, ...] = ()
    published: datetime.date | None = None
    ended: datetime.date | None = None
    enforced: bool = True
    builds_on: str | None = None
    named: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()
    exempt_below_tpp: float | None = None
    nac: bool = False
    stated: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    memory_density_above: float | None = None
    memory_exception_below: float | None = None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the rules say of a chip.

    `rule` is the one that decides, `on` the date or rule that was asked for. `tier` is the paragraph or line that catches the chip,
    `exception` a licence exception open to it. `basis`: figures, named (in the rule's text), or stated (publicly, where figures lack).
    """

    chip: str
    rule: str
    status: str
    reason: str
    on: str
    tier: str = ""
    exception: str = ""
    basis: str = "figures"
    destination: str = "China"
    tpp: float | None = None
    performance_density: float | None = None


def export_control(
    chip: str | Chip, on: str | datetime.date | None = None, *, destination: str = "China", extra: str | Path | None = None
) -> Verdict:
    """The control status of a chip of the table, of one's own, or of the file `extra`.

    `on` is a date (the rules in force that day; today by default) or the name of a rule (what that rule, with those it builds on, says).
    Raises InputError for an unknown chip, rule or destination.
    """
    chip = find_chip(chip, extra)
    if destination not in DESTINATIONS:
        raise InputError(f"destination {destination!r} is not known; there are {', '.join(DESTINATIONS)}")
    asked = _rule_or_date(datetime.date.today() if on is None else on)
    rule = asked if isinstance(asked, Rule) else in_force(asked)
    text = asked.name if isinstance(asked, Rule) else asked.isoformat()
    if rule is None:
        first = min(each.in_force for each in rules())
        found = Verdict(chip.name, "", "not_controlled", f"no rule on accelerators was in force before {first}", text)
    else:
        found = _verdict(rule, chip, destination)
    return dataclasses.replace(found, on=text, destination=destination, tpp=chip.tpp, performance_density=chip.performance_density)


def verdicts(chip: str | Chip, *, destination: str = "China", extra: str | Path | None = None) -> list[Verdict]:
    """The verdict under every rule, oldest first."""
    return [export_control(chip, rule.name, destination=destination, extra=extra) for rule in rules()]


@cache
def rules() -> tuple[Rule, ...]:
    """Every rule, oldest first."""
    text = resources.files("scaling.hardware").joinpath("export_rules.toml").read_text(encoding="utf-8")
    return tuple(sorted((_read(row) for row in tomllib.loads(text)["rules"]), key=lambda rule: rule.announced))


def rule(name: str) -> Rule:
    """The rule of that name, alias, citation or day of announcement. Raises InputError with the nearest names."""
    known = {_simple(key): each for each in rules() for key in (each.name, *each.aliases, each.announced.isoformat())}
    if (found := known.get(_simple(name))) is not None:
        return found
    near = dict.fromkeys(known[key].name for key in difflib.get_close_matches(_simple(name), known, 3, 0.5))
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise InputError(f"{name!r} is neither a date (2023-11-17) nor a rule; {hint}there are {', '.join(each.name for each in rules())}")


def in_force(date: datetime.date) -> Rule | None:
    """The last rule on chips that had come into force by `date`: it replaced those before it or builds on them. None before the first."""
    standing = [each for each in rules() if each.enforced and each.kind != "memory" and each.in_force <= date]
    return max(standing, key=lambda each: each.in_force, default=None)


def memory_control(bandwidth_gbps: float, package_mm2: float, *, on: str = "dec2024") -> Verdict:
    """The verdict on a stack of memory that is sold by itself: GB/s a mm2 of its package (or of the stack, without one) against 3A090.c."""
    found = rule(on)
    if found.memory_density_above is None or found.memory_exception_below is None:
        raise InputError(f"rule {found.name} is not about memory; dec2024 is")
    for name, value in (("bandwidth_gbps", bandwidth_gbps), ("package_mm2", package_mm2)):
        if not 0 < value < float("inf"):
            raise InputError(f"memory: {name} must be a positive finite number, got {value!r}")
    density, above, below = bandwidth_gbps / package_mm2, found.memory_density_above, found.memory_exception_below
    caught = density > above
    reason = f"{density:.3g} GB/s a mm2, {'above' if caught else 'not above'} {above:g}"
    exception = "HBM" if caught and density < below else ""
    if exception:
        reason += f"; below {below:g}, so licence exception HBM is open"
    return Verdict("memory", found.name, "controlled" if caught else "not_controlled", reason, on, "3A090.c" if caught else "", exception)


def figure(chip: Chip, name: str) -> float | None:
    """The figure that a rule's bound is about (`FIGURES`)."""
    if name == "io_and_bandwidth":
        both = chip.scaleup_bidir_gbps, chip.mem_bw_gbps
        return None if None in both else sum(value for value in both if value is not None)
    return {
        "tpp": chip.tpp,
        "density": chip.performance_density,
        "io": chip.scaleup_bidir_gbps,
        "bandwidth": chip.mem_bw_gbps,
    }[name]


def in_words(chip: Chip, name: str, bound: Bound) -> str:
    """A chip's figure against a bound: "TPP 2368 < 2400"."""
    label, unit = FIGURES[name]
    value = figure(chip, name)
    if value is None:
        return f"{label} not known"
    shown = f"{value:.4g}" if value < 1000 else f"{value:.0f}"
    if bound.at_least is not None and (value < bound.at_least or bound.below is None):
        return f"{label} {shown} {'<' if value < bound.at_least else '>='} {bound.at_least:g}{unit}"
    if bound.at_least is None or (bound.below is not None and value >= bound.below):
        return f"{label} {shown} {'<' if bound.holds(value) else '>='} {bound.below:g}{unit}"
    return f"{label} {shown} in {bound.at_least:g} to {bound.below:g}{unit}"


def _verdict(rule: Rule, chip: Chip, destination: str) -> Verdict:
    """The verdict of a rule on top of the one it builds on. `on` is left to the caller."""
    if rule.kind == "memory":
        return Verdict(
            chip.name, rule.name, "not_applicable", "the rule is about memory sold by itself; in a chip's package it does not count", ""
        )
    base = _verdict(_named(rule.builds_on), chip, destination) if rule.builds_on else None
    status = rule.destinations.get(destination)
    if chip.name in rule.named and status:
        return Verdict(chip.name, rule.name, status, f"named in the {rule.title}", "", basis="named")
    if (outside := _outside(chip)) is not None:
        return base or Verdict(chip.name, rule.name, "not_applicable", outside, "")
    if status is None:
        return base or Verdict(chip.name, rule.name, "not_controlled", f"the rule does not reach {destination}", "")
    if rule.kind == "list":
        return _by_list(rule, chip, status, base)
    if base is None:
        return Verdict(chip.name, rule.name, "not_controlled", f"not named in the {rule.title}", "")
    open_to_change = ("controlled",) if rule.kind == "review" else ("not_controlled", "unknown")
    return _on_top(rule, chip, status, base) if rule.lines and base.status in open_to_change else base


def _by_list(rule: Rule, chip: Chip, status: str, base: Verdict | None) -> Verdict:
    """A rule of the control list: the first line that catches the chip."""
    if chip.name in rule.stated and chip.tpp is None:
        return Verdict(chip.name, rule.name, rule.stated[chip.name]["status"], rule.stated[chip.name]["reason"], "", basis="stated")
    exempt = rule.exempt_below_tpp
    if exempt is not None and not chip.datacentre and chip.tpp is not None and chip.tpp < exempt:
        return base or Verdict(
            chip.name, rule.name, "not_controlled", f"exempt: not marketed for datacentres, and TPP {chip.tpp:.0f} < {exempt:g}", ""
        )
    answers = [line.catches(chip) for line in rule.lines]
    if True in answers:
        line = rule.lines[answers.index(True)]
        reason = f"{line.tier}: {_holding(line, chip)}"
        exception = "NAC" if rule.nac and not (chip.datacentre and line.tier.endswith(".a")) else ""
        if exception:
            reason += f"; licence exception {exception} is open to {'a datacentre part of 3A090.b' if chip.datacentre else 'a part not marketed for datacentres'}"
        return Verdict(chip.name, rule.name, status, reason, "", line.tier, exception)
    if base is not None:
        return base
    if None in answers:
        return Verdict(chip.name, rule.name, "unknown", f"cannot be decided: {_missing(rule, chip)}", "")
    return Verdict(chip.name, rule.name, "not_controlled", f"below every line: {_shortfalls(rule, chip)}", "")


def _on_top(rule: Rule, chip: Chip, status: str, base: Verdict) -> Verdict:
    """A letter or review with lines, where the rule it builds on leaves something for it to change."""
    review = rule.kind == "review"
    answers = [line.catches(chip) for line in rule.lines]
    if True in answers:
        line = rule.lines[answers.index(True)]
        reason = _holding(line, chip) + (f" ({line.tier})" if line.tier else "")
        reason += f"; a licence is needed as before ({base.reason})" if review else ""
        return Verdict(chip.name, rule.name, status, reason, "", line.tier or base.tier, base.exception if review else "")
    if None in answers:
        return Verdict(chip.name, rule.name, "unknown", f"cannot be decided: {_missing(rule, chip)}", "")
    if review:
        return dataclasses.replace(base, reason=f"{base.reason}; above the limits for case-by-case review: {_shortfalls(rule, chip)}")
    return base


def _outside(chip: Chip) -> str | None:
    """Why no rule on the sale of US parts speaks of a chip."""
    if not chip.us_item:
        return "not a US item"
    return "rented as a cloud service only: the part is not sold" if chip.cloud_only else None


def _holding(line: Line, chip: Chip) -> str:
    return " and ".join(in_words(chip, name, bound) for name, bound in line.bounds.items())


def _shortfalls(rule: Rule, chip: Chip) -> str:
    """What keeps a chip out of every line: of each figure, the bound nearest to it."""
    nearest: dict[str, Bound] = {}
    for line in rule.lines:
        for name, bound in line.failing(chip).items():
            if name not in nearest or (bound.at_least or 0) < (nearest[name].at_least or 0):
                nearest[name] = bound
    return " and ".join(in_words(chip, name, bound) for name, bound in nearest.items())


def _missing(rule: Rule, chip: Chip) -> str:
    undecided = [line for line in rule.lines if line.catches(chip) is None]
    names = dict.fromkeys(name for line in undecided for name in line.bounds if figure(chip, name) is None)
    return ", ".join(f"{FIGURES[name][0]} not known" for name in names)


@cache
def _named(name: str) -> Rule:
    return next(each for each in rules() if each.name == name)


def _rule_or_date(on: str | datetime.date) -> Rule | datetime.date:
    if isinstance(on, datetime.datetime):
        return on.date()
    if isinstance(on, datetime.date):
        return on
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", on.strip()):
        try:
            return datetime.date.fromisoformat(on.strip())
        except ValueError as error:
            raise InputError(f"{on!r} is not a day of the calendar: {error}") from None
    return rule(on)


def _simple(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _read(row: dict[str, Any]) -> Rule:
    row = dict(row)
    row["lines"] = tuple(
        Line(
            {name: Bound(**line[name]) for name in FIGURES if name in line},
            line.get("tier", ""),
            line.get("datacentre"),
        )
        for line in row.get("lines", ())
    )
    for key in ("aliases", "named"):
        row[key] = tuple(row.get(key, ()))
    return Rule(**row)
