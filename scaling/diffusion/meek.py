"""Do small budgets converge on large ones? The meek model: a constant budget against one that grows, on one loss law.

Gundlach, Lynch & Thompson 2025 (arXiv 2507.07931): the same start C_0, shared growth g_s of hardware and algorithms, the frontier's
investment growing by g_i besides, reducible loss A C^-a. Then the loss gap is
    dL(t) = A C_0^-a [g_s^(-a t) - (g_s g_i)^(-a t)], which peaks at t* = ln(ln(g_s g_i) / ln g_s) / (a ln g_i),
whatever A and C_0, and with rho = ln g_s / ln(g_s g_i) its peak is A C_0^-a (1 - rho) rho^(rho / (1 - rho)), at a compute ratio rho^(-1/a).
A frontier with a head start H in compute at time 0 peaks sooner, at [ln(1/rho) - a ln H] / (a ln g_i): past its peak already where H exceeds that ratio.

Convergence depends on the measure: the loss gap and bounded scores close, while the compute ratio g_i^t diverges and the lag grows by
ln g_i / ln g_s years a year. `MeekModel.table` shows all four.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd

from scaling.diffusion.checks import check_positive
from scaling.diffusion.conversion import BoundedScore, LossPower
from scaling.diffusion.solver import invert, namespace
from scaling.errors import InputError

# The law of the paper, and its growth factors a year.
PAPER_LAW = LossPower(irreducible=1.7, coefficient=1070.0, exponent=0.155)


@dataclasses.dataclass(frozen=True)
class MeekModel:
    """A frontier whose budget grows by `investment_growth` a year against a budget that stands still, with the same hardware and algorithms.

    start_flops: effective compute of the meek budget at time 0. head_start: the frontier's compute over it then. Growths above 1.
    """

    law: LossPower = PAPER_LAW
    start_flops: float = 1e17
    investment_growth: float = 3.57
    price_performance: float = 1.4
    algorithms: float = 2.8
    head_start: float = 1.0

    def __post_init__(self) -> None:
        check_positive("meek model", start_flops=self.start_flops, head_start=self.head_start)
        for name in ("investment_growth", "price_performance", "algorithms"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 1):
                raise InputError(f"meek model: {name} must be 1 or more and finite, got {getattr(self, name)}")
        if not self.shared > 1:
            raise InputError("meek model: hardware and algorithms together must grow")

    @property
    def shared(self) -> float:
        """Growth of what a constant budget buys, a year."""
        return self.price_performance * self.algorithms

    @property
    def rho(self) -> float:
        """ln g_s / ln(g_s g_i): 1 where investment stands still."""
        return math.log(self.shared) / math.log(self.shared * self.investment_growth)

    @property
    def scale(self) -> float:
        """A C_0^-a: the meek budget's reducible loss at time 0, nats per token."""
        return float(self.law.reducible(math.log(self.start_flops)))

    def log_flops(self, years: Any) -> tuple[Any, Any]:
        """ln effective compute of the frontier and of the meek budget."""
        meek = math.log(self.start_flops) + years * math.log(self.shared)
        return meek + math.log(self.head_start) + years * math.log(self.investment_growth), meek

    def loss_gap(self, years: Any) -> Any:
        """Meek loss less frontier loss, nats per token."""
        frontier, meek = self.log_flops(years)
        # The common factor out, so that a gap far below the loss itself keeps its digits.
        return -self.law.reducible(meek) * namespace(years).expm1(-self.law.exponent * (frontier - meek))

    def compute_ratio(self, years: Any) -> Any:
        """Frontier's over meek effective compute."""
        return self.head_start * self.investment_growth**years

    def lag(self, years: Any) -> Any:
        """Years that the meek budget needs, standing still in money, to reach the frontier of time `years`."""
        return (math.log(self.head_start) + years * math.log(self.investment_growth)) / math.log(self.shared)

    def score_gap(self, years: Any, score: BoundedScore) -> Any:
        """Frontier's less meek score of a bounded benchmark whose law is this one."""
        frontier, meek = self.log_flops(years)
        return score.performance(frontier) - score.performance(meek)

    @property
    def peak_time(self) -> float:
        """t* in years; negative where a head start has put the peak in the past. Without growth of investment there is none: InputError."""
        if self.investment_growth == 1:
            raise InputError("meek model: without growth of investment the gap has no peak")
        exponent = self.law.exponent
        return (-math.log(self.rho) - exponent * math.log(self.head_start)) / (exponent * math.log(self.investment_growth))

    @property
    def peak_ratio(self) -> float:
        """Compute ratio at the peak, rho^(-1/a), whatever the scale and the head start."""
        return self.rho ** (-1 / self.law.exponent)

    @property
    def peak_fraction(self) -> float:
        """Largest gap over A C_0^-a where both start equal: (1 - rho) rho^(rho / (1 - rho)); 0 without growth of investment."""
        if self.rho == 1:
            return 0.0
        return (1 - self.rho) * self.rho ** (self.rho / (1 - self.rho))

    def time_of_fraction(self, fraction: float) -> float:
        """Years after which the gap, past its peak, has fallen to `fraction` of the peak."""
        if not 0 < fraction < 1:
            raise InputError(f"meek model: the fraction of the peak lies between 0 and 1, got {fraction}")
        peak = max(self.peak_time, 0.0)
        target = -fraction * self.loss_gap(peak)
        return float(invert(lambda years: -self.loss_gap(years), target, peak, peak + 1000.0))

    def table(self, years: np.ndarray, score: BoundedScore) -> pd.DataFrame:
        """All four measures at each time, columns years, loss_gap, compute_ratio, lag_years, score_gap."""
        columns = {"loss_gap": self.loss_gap(years), "compute_ratio": self.compute_ratio(years), "lag_years": self.lag(years)}
        return pd.DataFrame({"years": years, **columns, "score_gap": self.score_gap(years, score)})


def sensitivity(investment_growths: list[float], model: MeekModel | None = None) -> pd.DataFrame:
    """Peak time, compute ratio there and peak over A C_0^-a for each growth of investment."""
    base = model or MeekModel()
    cases = [dataclasses.replace(base, investment_growth=growth) for growth in investment_growths]
    return pd.DataFrame(
        {
            "investment_growth": investment_growths,
            "peak_years": [case.peak_time for case in cases],
            "peak_ratio": [case.peak_ratio for case in cases],
            "peak_fraction": [case.peak_fraction for case in cases],
        }
    )


def tokens_to_tell_apart(loss_gap: Any, error: float = 0.05) -> Any:
    """Expected tokens until a sequential test with `error` on both sides tells two models apart whose losses differ by `loss_gap` nats."""
    if not 0 < error < 0.5:
        raise InputError(f"tokens to tell apart: error lies between 0 and 0.5, got {error}")
    return (1 - 2 * error) * math.log((1 - error) / error) / loss_gap
