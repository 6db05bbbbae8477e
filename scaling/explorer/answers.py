"""The numbers of the page: each is what `scaling.compute_penalty`, `penalties`, `estimate_training` or `export_control` gives for the State."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import pandas as pd

from fits.curve import Curve
from scaling.errors import InputError
from scaling.explorer.state import FIXED, State, known_curves, write_field
from scaling.hardware.chips import Chip
from scaling.hardware.cost import Cost, cost
from scaling.hardware.estimate import Estimate, estimate_training
from scaling.hardware.export_rules import Verdict, export_control
from scaling.hardware.library import chip as find_chip
from scaling.penalty import Penalty, compute_penalty
from scaling.penalty_batch import penalties

GRID = np.geomspace(1e21, 1e29, 33)
LEVEL = 0.9
BAND_DRAWS, BAND_STEP = 60, 2  # the band takes this many draws at every second point: a thousand penalties, for the sake of speed


@dataclasses.dataclass(frozen=True)
class Lab:
    """One side's training run: its compute, the speed of the chosen shape on its chips, hours and dollars; or why there are none."""

    name: str
    flops: float
    chip: str
    chips: int
    format: str
    verdict: Verdict
    estimate: Estimate | None
    cost: Cost | None
    reason: str

    @property
    def rate(self) -> float | None:
        """FLOP/s of one of its chips."""
        return self.estimate.tok_per_s_per_chip * self.estimate.flops_per_token if self.estimate else None

    def as_dict(self) -> dict[str, Any]:
        done = self.cost
        return {
            "lab": self.name,
            "flops": self.flops,
            "chip": self.chip,
            "chips": self.chips,
            "format": self.format,
            "export_status": self.verdict.status,
            "export_reason": self.verdict.reason,
            "mfu": self.estimate and self.estimate.mfu,
            "hours": done and done.hours,
            "hours_low": done and done.hours_band[0],
            "hours_high": done and done.hours_band[1],
            "usd_rent": done and done.usd_rent,
            "usd_buy": done and done.usd_buy,
            "energy_kwh": done and done.energy_kwh,
            "reason": self.reason,
        }


@dataclasses.dataclass(frozen=True)
class Answers:
    """`lines`: penalty by curve and compute with its band; `points`: the penalty at the chosen compute by curve; `steps`: name and factor of the waterfall."""

    state: State
    lines: pd.DataFrame
    points: dict[str, Penalty]
    steps: list[tuple[str, float]]
    labs: tuple[Lab, Lab]

    @property
    def timed(self) -> bool:
        """Whether both labs' chips have an estimate, so that the steps end in time and not in compute."""
        return all(lab.estimate for lab in self.labs)

    def as_dict(self) -> dict[str, Any]:
        """Everything as one object, as /numbers.json gives it."""
        return {
            "state": {name: write_field(name, value) for name, value in vars(self.state).items()},
            "penalty": {name: dataclasses.asdict(found) for name, found in self.points.items()},
            "waterfall": [{"step": name, "factor": factor} for name, factor in self.steps],
            "labs": [lab.as_dict() for lab in self.labs],
            "lines": self.lines.to_dict(orient="records"),
            "level": LEVEL,
        }


def answer(state: State) -> Answers:
    """All numbers of a State. Raises InputError where its settings contradict each other."""
    settings = penalty_settings(state)
    curves = {name: known_curves()[name] for name in state.curves}
    points = {name: compute_penalty(curve, flops=state.flops, **settings) for name, curve in curves.items()}
    first = next(iter(points.values()))
    leader = _lab("leader", state.model, first.leader.flops, state.leader_chip, int(state.leader_chips), state.leader_format, state)
    follower = _lab(
        "follower", state.model, first.follower.flops, state.follower_chip, int(state.follower_chips), state.follower_format, state
    )
    return Answers(
        state=state,
        lines=pd.concat([_line(name, curve, settings) for name, curve in curves.items()], ignore_index=True),
        points=points,
        steps=_steps(next(iter(curves.values())), state, first, (leader, follower)),
        labs=(leader, follower),
    )


def penalty_settings(state: State) -> dict[str, Any]:
    """The arguments of compute_penalty, flops apart."""
    limited = math.isfinite(state.unique_tokens)
    return {
        "structure": state.structure,
        "data": state.data,
        "fixed": FIXED[state.fixed],
        "unique_tokens": state.unique_tokens if limited else None,
        "follower_unique_tokens": state.unique_tokens * state.follower_share if limited else None,
        "overtraining": state.overtraining,
        "served_tokens": state.served_tokens,
    }


def _line(name: str, curve: Curve, settings: dict[str, Any]) -> pd.DataFrame:
    """Penalty against compute, with the band of the curve's draws, if it has any."""
    line = pd.DataFrame(
        {"curve": name, "flops": GRID, "value": penalties(curve, flops=GRID, **settings).value, "low": np.nan, "high": np.nan}
    )
    if curve.draws is not None:
        found = penalties(_thinned(curve), flops=GRID[::BAND_STEP], draws=True, **settings).value
        for side, quantile in (("low", (1 - LEVEL) / 2), ("high", (1 + LEVEL) / 2)):
            line.loc[::BAND_STEP, side] = np.quantile(found, quantile, axis=0, method="inverted_cdf")  # values may be infinite
    return line


def _thinned(curve: Curve) -> Curve:
    assert curve.draws is not None
    return dataclasses.replace(curve, draws=curve.draws[:: max(1, len(curve.draws) // BAND_DRAWS)][:BAND_DRAWS])


def _lab(name: str, model: str, flops: float, chip: str, chips: int, format: str, state: State) -> Lab:
    found = find_chip(chip)
    verdict = export_control(found, state.on, destination=state.destination)
    estimate = speed(model, found.name, chips, format)
    if isinstance(estimate, str):
        return Lab(name, flops, found.name, chips, format, verdict, None, None, estimate)
    if not math.isfinite(flops):
        return Lab(name, flops, found.name, chips, format, verdict, estimate, None, "no compute suffices")
    tokens = flops / estimate.flops_per_token
    spent = _cost(found, chips, tokens, estimate)
    return Lab(name, flops, found.name, chips, format, verdict, estimate, spent, "")


def _cost(chip: Chip, chips: int, tokens: float, estimate: Estimate) -> Cost:
    return cost(chip, chips, tokens, (estimate.low, estimate.tok_per_s_per_chip, estimate.high))


@functools.lru_cache(maxsize=1024)
def speed(model: str, chip: str, chips: int, format: str) -> Estimate | str:
    """The estimate of a shape on chips, in the best layout; or why there is none. The search takes a tenth of a second, so answers are kept."""
    try:
        return estimate_training(model, chip=chip, chips=chips, format=format)
    except InputError as error:
        return str(error)


def _steps(curve: Curve, state: State, whole: Penalty, labs: tuple[Lab, Lab]) -> list[tuple[str, float]]:
    """Factors on the leader's training time, one after another: structure, data, what limits both, chips, their number. Their product is the whole."""

    def value(part: State) -> float:
        return compute_penalty(curve, flops=state.flops, **penalty_settings(part)).value

    free = dataclasses.replace(state, fixed="nothing", unique_tokens=math.inf, follower_share=1.0, overtraining=1.0, served_tokens=0.0)
    path = [("structure", dataclasses.replace(free, data=1.0)), ("data", free)]
    if free.unique_tokens != state.unique_tokens:
        path.append(
            ("finite unique data", dataclasses.replace(free, unique_tokens=state.unique_tokens, follower_share=state.follower_share))
        )
    if any(getattr(free, name) != getattr(state, name) for name in ("fixed", "overtraining", "served_tokens")):
        path.append(("how they train", state))
    steps, before = [], 1.0
    for name, part in path:
        now = whole.value if part is state else value(part)
        steps.append((name, now / before if math.isfinite(before) else math.inf))
        before = now
    leader, follower = labs
    if leader.rate and follower.rate:
        steps.append(("chip and format", leader.rate / follower.rate))
        steps.append(("number of chips", leader.chips / follower.chips))
    return steps
