"""What a measurement of a compute multiplier returns."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from fits.curve import Curve
from scaling.joint_fit import Cells, Joint


class Band(NamedTuple):
    """An estimate and its interval."""

    value: float
    low: float
    high: float

    @property
    def inverse(self) -> Band:
        """1 / x, the ends exchanged."""
        return Band(*(math.inf if x == 0 else 1 / x for x in (self.value, self.high, self.low)))


UNKNOWN = Band(math.nan, math.nan, math.nan)


@dataclasses.dataclass(frozen=True, eq=False)
class JointFit:
    """What a joint fit left: the chosen model, its draws (none with profiles), the cells, and flops / (size tokens) of each side."""

    joint: Joint
    thetas: np.ndarray | None
    cells: Cells
    cost: tuple[float, float]

    @property
    def curves(self) -> tuple[Curve, Curve]:
        """Both sides' laws, of the count that played N."""
        about = {"joint_model": self.joint.model}
        baseline, variant = self.joint.sides
        return baseline.curve("baseline", self.cost[0], about), variant.curve("variant", self.cost[1], about)


@dataclasses.dataclass(frozen=True, eq=False)
class Measurement:
    """A measured compute multiplier, baseline's compute over the variant's at equal loss: above 1 the variant is better.

    `multiplier` is at `loss`, in the middle of what both sets reach, or the mean over pairs; it holds at every loss unless the `model` depends on scale.
    structure and data are the handicaps m and k of L(N / m, D / k), NaN where they are not told apart. `scale` is the slope of ln
    multiplier per decade of the baseline's compute, `scale_p` the p value of no slope. `levels` has the multiplier by loss, with the decades of compute
    outside the runs, and its interval if it may change with scale (sloped_low, sloped_high); `tests` the nested models of a joint `fit`; `pairs` what pairs were compared. `runs` counts those of each side. Intervals are at `level`.
    """

    method: str  # "joint" or "pairs"
    model: str
    multiplier: Band
    structure: Band
    data: Band
    scale: Band
    scale_p: float
    level: float
    loss: float
    overlap: tuple[float, float] | None
    levels: pd.DataFrame
    tests: pd.DataFrame
    pairs: pd.DataFrame
    runs: tuple[int, int]
    notes: list[str]
    fit: JointFit | None = None

    @property
    def penalty(self) -> Band:
        """The variant's compute over the baseline's at equal loss."""
        return self.multiplier.inverse
