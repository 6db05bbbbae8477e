"""What a step does to the compute that a loss needs: a multiplier with its evidence, its centre, and draws of it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from scaling.hardware.architecture import Architecture
from scaling.ledger.by_law import ByLaw, active_params, of_format, of_mixture
from scaling.ledger.measured import Measured, measured
from scaling.ledger.scenario import ArchitectureStep, Loss

EVIDENCE = ("measured here", "published", "estimated", "assumed")
NORMAL_95, NORMAL_80 = 1.959964, 1.281552


@dataclasses.dataclass(frozen=True)
class Effect:
    """A compute multiplier at equal loss (above 1: less compute is needed). `use_flops` is the compute that it is used at.

    The centre of several laws is their geometric mean, and a draw takes one of them; an assumed range is drawn in its logarithm, evenly
    between two ends, in a triangle over three values; a measured one by its 95% interval.
    """

    evidence: str
    value: float
    use_flops: float
    laws: tuple[ByLaw, ...] = ()
    measured: Measured | None = None
    assumed: tuple[float, ...] = ()

    def draw_logs(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """Draws of its natural logarithm."""
        if self.laws:
            return np.log([each.multiplier for each in self.laws])[generator.integers(len(self.laws), size=count)]
        if self.measured is not None:
            return split_normal(generator.standard_normal(count), self.value, self.measured.low, self.measured.high, NORMAL_95)
        return draw_range(generator, self.assumed, count)

    @property
    def decades(self) -> float:
        """Decades of compute between what stands behind it and its use; of several laws the farthest."""
        if self.measured is not None:
            return self.measured.decades_to(self.use_flops)
        return max((each.decades_outside for each in self.laws), default=0.0)

    def as_dict(self) -> dict[str, Any]:
        """What the JSON answer holds of it."""
        found: dict[str, Any] = {
            "evidence": self.evidence,
            "multiplier": self.value,
            "use_flops": self.use_flops,
            "decades_outside": self.decades,
        }
        if self.laws:
            found["laws"] = [dataclasses.asdict(each) for each in self.laws]
        if self.measured is not None:
            found["measured"] = self.measured.model_dump()
        if self.assumed:
            found["assumed"] = list(self.assumed)
        return found


def effect(step: Any, arch: Architecture, tokens: float) -> Effect | None:
    """The effect of a step on the compute for the loss of `arch` after `tokens`; None for a step that leaves what is computed as it is.

    Raises InputError where a law cannot answer.
    """
    if not isinstance(step, Loss):
        return None
    flops = 6 * active_params(arch) * tokens
    if step.laws:
        if isinstance(step, ArchitectureStep):
            found = tuple(of_mixture(name, arch, tokens) for name in step.laws)
        else:
            found = tuple(of_format(name, step.to, flops) for name in step.laws)
        return Effect("published", math.exp(float(np.mean(np.log([each.multiplier for each in found])))), flops, laws=found)
    if step.measured:
        record = measured(step.measured)
        return Effect("measured here", record.value, flops, measured=record)
    ends = step.assumed or (1.0,)
    return Effect("assumed", middle(ends), flops, assumed=ends)


def middle(ends: tuple[float, ...]) -> float:
    """The centre of a number or an assumed range: its middle value, or the geometric mean of two ends."""
    return ends[1] if len(ends) == 3 else math.sqrt(ends[0] * ends[-1])


def draw_range(generator: np.random.Generator, ends: tuple[float, ...], count: int) -> np.ndarray:
    """Draws of the logarithm of an assumed range."""
    logs = [math.log(end) for end in ends]
    if logs[0] == logs[-1]:
        return np.full(count, logs[0])
    if len(logs) == 2:
        return generator.uniform(logs[0], logs[1], count)
    return generator.triangular(logs[0], logs[1], logs[2], count)


def split_normal(normal: np.ndarray, value: float, low: float, high: float, ends: float) -> np.ndarray:
    """Logarithms around `value` whose spread on either side puts `low` and `high` at `ends` standard deviations; `normal` is standard."""
    down, up = math.log(value / low) / ends, math.log(high / value) / ends
    return math.log(value) + np.where(normal < 0, down, up) * normal
