"""The ledger: from a baseline to its end step by step, in time and dollars to equal loss, by order and free of order, with the evidence of every part."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import InputError
from scaling.ledger.draws import Draws
from scaling.ledger.effects import EVIDENCE
from scaling.ledger.needed import LEVEL, Band, Needed, band, needed
from scaling.ledger.orders import in_sequence, shares
from scaling.ledger.scenario import Scenario, read_scenario
from scaling.ledger.sets import Sets, impossible, sets

MEASURED = EVIDENCE[0]


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of a step's factor, with its evidence: of the compute that the loss needs, of speed, or of the price. `log` is its ln, below 0: less is needed."""

    of: str
    evidence: str
    log: float


@dataclasses.dataclass(frozen=True)
class Place:
    """A set-up on the way: chips, hours and dollars of the run."""

    chips: int
    hours: float
    usd: float
    chip: str
    model: str
    tokens: float
    format: str
    mfu: float
    memory_gb: float
    layout: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Line:
    """One step. `time` and `usd` are factors (below 1: less), averaged over all orders; None where there is no order.

    `before` and `after` are the set-ups around it in the given order, `sequence_time` and `sequence_usd` the factors there; None with a reason where
    the set-up is impossible, and the next step's factor is then that of both.
    """

    name: str
    change: str
    evidence: str
    parts_time: tuple[Part, ...]
    parts_usd: tuple[Part, ...]
    time: Band | None
    usd: Band | None
    sequence_time: float | None
    sequence_usd: float | None
    before: Place | None
    after: Place | None
    reason: str
    effect: dict[str, Any] | None
    beside: dict[str, Any] | None
    note: str


@dataclasses.dataclass(frozen=True)
class Ledger:
    """A ledger's answer. Bands are of 80%. `time` and `usd` are the end over the baseline; None with a reason where either is impossible.

    `not_measured`: share of the absolute log factors, and of the variance of the total's logarithm, whose evidence is not this project's own runs;
    `shares` has both by kind of evidence. `impossible` explains the sets of steps that cannot be run and are left out of the orders.
    """

    scenario: str
    question: str
    feasible: bool
    reason: str
    baseline: Place | None
    end: Place | None
    time: Band | None
    usd: Band | None
    lines: tuple[Line, ...]
    shares: dict[str, dict[str, dict[str, float]]]
    not_measured: dict[str, dict[str, float]]
    needed: dict[str, Needed | None]
    impossible: tuple[str, ...]
    combinations: int
    dollars: str
    draws: int
    seed: int
    notes: tuple[str, ...]
    reading: str = ""

    def as_dict(self) -> dict[str, Any]:
        """What `isoloss ledger --json` prints."""
        return dataclasses.asdict(self) | {"level": LEVEL}


def ledger(source: str | Path | dict[str, Any] | Scenario, draws: int = 4000, seed: int = 0) -> Ledger:
    """The Ledger of a built-in scenario, a TOML file, a dict of its keys or a Scenario, with bands from so many draws. Raises InputError."""
    if not 100 <= draws <= 1_000_000:
        raise InputError(f"ledger: draws must be 100 to 1,000,000, got {draws}")
    if seed < 0:
        raise InputError(f"ledger: seed must be 0 or more, got {seed}")
    scenario = source if isinstance(source, Scenario) else read_scenario(source)
    found = sets(scenario)
    drawn = Draws(found, draws, seed)
    matrix = shares(found.possible)
    last = len(found.setups) - 1
    ends = [impossible(found, at) for at in (0, last) if not found.possible[at]]
    totals: dict[str, Band | None] = {"time": None, "usd": None}
    if not ends:
        for name, central, values in (("time", found.log_hours, drawn.log_hours()), ("usd", found.log_usd, drawn.log_usd())):
            totals[name] = band(float(central[last] - central[0]), values[last] - values[0])
    lines = _lines(found, drawn, matrix)
    divided = _shares(found, drawn, lines) if matrix is not None else {}
    answer = Ledger(
        scenario=scenario.name,
        question=scenario.question,
        feasible=not ends,
        reason="; ".join(ends) or ("" if matrix is not None else "every order of the steps passes through what cannot be run"),
        baseline=_place(found, 0),
        end=_place(found, last),
        time=totals["time"],
        usd=totals["usd"],
        lines=lines,
        shares=divided,
        not_measured={
            name: {what: sum(share for kind, share in kinds.items() if kind != MEASURED) for what, kinds in each.items()}
            for name, each in divided.items()
        },
        needed={name: None if matrix is None else needed(found, drawn, matrix, name == "usd") for name in ("time", "usd")},
        impossible=tuple(impossible(found, at) for at in np.flatnonzero(~found.possible)),
        combinations=len(found.setups),
        dollars=scenario.baseline.dollars,
        draws=draws,
        seed=seed,
        notes=(),
    )
    from scaling.ledger.reading import notes, reading

    answer = dataclasses.replace(answer, notes=notes(answer, scenario))
    return dataclasses.replace(answer, reading=reading(answer))


def _place(found: Sets, at: int) -> Place | None:
    estimate, setup = found.outcomes[at].estimate, found.setups[at]
    if estimate is None:
        return None
    return Place(
        chips=setup.chips,
        hours=math.exp(found.log_hours[at]),
        usd=math.exp(found.log_usd[at]),
        chip=setup.chip.name,
        model=estimate.model,
        tokens=setup.tokens,
        format=setup.format,
        mfu=estimate.mfu,
        memory_gb=estimate.memory_gb,
        layout=dataclasses.asdict(estimate.layout),
    )


def _lines(found: Sets, drawn: Draws, matrix: np.ndarray | None) -> tuple[Line, ...]:
    hours, usd = found.log_hours, found.log_usd
    many_hours, many_usd = drawn.log_hours(), drawn.log_usd()
    lines, at = [], 0
    for place, (step, before) in enumerate(zip(found.scenario.steps, in_sequence(found.possible), strict=True)):
        at |= 1 << place
        effect = found.effects[place]
        parts = {name: () if matrix is None else _parts(found, place, matrix[place], name == "usd") for name in ("time", "usd")}
        lines.append(
            Line(
                name=step.name or _title(step),
                change=step.change,
                evidence=_label(parts["time"]),
                parts_time=parts["time"],
                parts_usd=parts["usd"],
                time=None if matrix is None else band(float(matrix[place] @ hours), matrix[place] @ many_hours),
                usd=None if matrix is None else band(float(matrix[place] @ usd), matrix[place] @ many_usd),
                sequence_time=None if before is None else math.exp(hours[at] - hours[before]),
                sequence_usd=None if before is None else math.exp(usd[at] - usd[before]),
                before=None if before is None else _place(found, before),
                after=_place(found, at),
                reason=found.outcomes[at].reason,
                effect=effect.as_dict() if effect else None,
                beside=_beside(found, place),
                note=step.note,
            )
        )
    return tuple(lines)


def _title(step: Any) -> str:
    to = {
        "architecture": "model",
        "quantisation": "optimizer_bytes",
        "rdma": "gbps",
        "zero": "stage",
    }.get(step.change, "to")
    value = getattr(step, to, None)
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    words = {
        "chip": f"chip to {shown}",
        "architecture": f"MoE: {shown}",
        "format": f"format to {shown}",
        "quantisation": f"optimizer in {shown} bytes",
        "memory": "all of the chip's memory",
        "rdma": f"RDMA, {shown} Gb/s",
        "zero": f"ZeRO {shown}",
        "peer-to-peer": "peer-to-peer driver",
        "framework": shown,
    }
    return words[step.change]


def _parts(found: Sets, place: int, row: np.ndarray, dollars: bool) -> tuple[Part, ...]:
    """What a step's average log factor is made of. The multipliers' share is the same in every order."""
    step, effect = found.scenario.steps[place], found.effects[place]
    needs = -math.log(effect.value) if effect else 0.0
    parts = [Part("compute", effect.evidence, needs)] if effect else []
    # What RDMA gains rests on what is assumed to be reached without it.
    parts.append(Part("speed", "assumed" if step.change == "rdma" else "estimated", float(row @ found.log_hours) - needs))
    if dollars and step.change == "chip":
        parts.append(Part("price", "assumed" if found.scenario.prices else "published", float(row @ (found.log_usd - found.log_hours))))
    return tuple(parts)


def _label(parts: tuple[Part, ...]) -> str:
    """The evidence of the larger part."""
    return max(parts, key=lambda part: abs(part.log)).evidence if parts else "estimated"


def _beside(found: Sets, place: int) -> dict[str, Any] | None:
    """The measured multiplier beside a step's own, how far it is from its use, and the total with it in place."""
    from scaling.ledger.measured import measured

    step, effect = found.scenario.steps[place], found.effects[place]
    name = getattr(step, "beside", None)
    if name is None or effect is None:
        return None
    record = measured(name)
    swapped = effect.value / record.value
    answer: dict[str, Any] = {"name": name, **record.model_dump(), "decades_to_use": record.decades_to(effect.use_flops)}
    if found.possible[0] and found.possible[-1]:
        for key, central in (("total_time", found.log_hours), ("total_usd", found.log_usd)):
            answer[key] = float(math.exp(central[-1] - central[0]) * swapped)
    return answer


def _shares(found: Sets, drawn: Draws, lines: tuple[Line, ...]) -> dict[str, dict[str, dict[str, float]]]:
    """By time and usd: shares of the absolute log factors and of the variance of the total's logarithm, by kind of evidence."""
    answer = {}
    for name in ("time", "usd"):
        parts = [part for line in lines for part in (line.parts_time if name == "time" else line.parts_usd)]
        sizes = {kind: sum(abs(part.log) for part in parts if part.evidence == kind) for kind in EVIDENCE}
        spread = {}
        for kind in EVIDENCE:
            values = (drawn.log_hours if name == "time" else drawn.log_usd)((kind,))
            spread[kind] = float(np.var(values[-1] - values[0]))
        answer[name] = {"log_factors": _normed(sizes), "variance": _normed(spread)}
    return answer


def _normed(values: dict[str, float]) -> dict[str, float]:
    total = sum(values.values())
    return {kind: value / total if total > 1e-12 else 0.0 for kind, value in values.items()}
