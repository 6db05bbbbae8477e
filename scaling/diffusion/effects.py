"""The access and the performance effect of growing compute efficiency: one curve that shifts, read on two axes.

Pilz, Heim & Brown 2023 (arXiv 2311.15377): price performance h(t) turns dollars into FLOP, algorithmic efficiency a(t) turns FLOP
into effective compute X = a h i of an investment of i dollars, a curve turns X into performance. Access effect: at equal
performance the investment falls by the shared growth g_s = g_h g_a a year. Performance effect: at equal investment ln X
rises by ln g_s a year, for everyone. Both are the same displacement of the curve, along the two axes.
"""

from __future__ import annotations

import dataclasses
import math

from fits.curve import Curve
from scaling.diffusion import windows
from scaling.diffusion.checks import check_positive
from scaling.diffusion.trends import trend


@dataclasses.dataclass(frozen=True)
class Trends:
    """Growth factors a year, and the training FLOP that a dollar bought at time 0.

    Defaults: price performance 1.37 (Epoch, a doubling in 2.2 years); algorithms 3 (an effective-compute doubling in 8.4 months, Ho
    et al. 2024, gives 2.7; later estimates run from 3 to 6); 4e17 FLOP a dollar, 40% of the 1e18 that a dollar of retail H100 gives in a year.
    """

    price_performance: float = 1.37
    algorithms: float = 3.0
    flops_per_usd: float = 4e17

    def __post_init__(self) -> None:
        check_positive("trends", **dataclasses.asdict(self))

    @classmethod
    def named(cls, price_performance: str, algorithms: str, flops_per_usd: float = 4e17) -> Trends:
        """From two entries of the trends file; InputError unless they are what they stand for (a catch-up is no frontier progress)."""
        return cls(trend(price_performance, "price_performance").growth, trend(algorithms, "frontier_algorithms").growth, flops_per_usd)

    @property
    def shared(self) -> float:
        """Growth of effective compute at constant investment, for every actor."""
        return self.price_performance * self.algorithms

    def effective_flops(self, usd: float, years: float) -> float:
        """FLOP of time 0 algorithms that an investment is worth `years` later."""
        return usd * self.flops_per_usd * self.shared**years


@dataclasses.dataclass(frozen=True)
class Actor:
    """A budget for its largest training run, growing by `growth` a year; `penalty` divides its compute, `delay_years` its algorithms' age."""

    name: str
    budget_usd: float
    growth: float = 1.0
    penalty: float = 1.0
    delay_years: float = 0.0

    def __post_init__(self) -> None:
        numbers = dataclasses.asdict(self)
        del numbers["name"]
        check_positive(f"actor {self.name}", zero=("delay_years",), **numbers)

    def effective_flops(self, trends: Trends, years: float) -> float:
        """Its effective compute at time `years`."""
        behind = self.penalty * trends.algorithms**self.delay_years
        return trends.effective_flops(self.budget_usd * self.growth**years, years) / behind

    def year_of(self, effective_flops: float, trends: Trends) -> float:
        """When its effective compute reaches `effective_flops`; infinite if it never grows to it."""
        gap = math.log(effective_flops / self.effective_flops(trends, 0.0))
        return float(windows.time_to_grow(gap, math.log(trends.shared * self.growth)))


def access_cost(curve: Curve, loss: float, trends: Trends, years: float) -> float:
    """Dollars that reach `loss` at time `years`: i* = X(loss) / (h a). Infinite at or below the irreducible loss."""
    return curve.compute_for(loss) / trends.effective_flops(1.0, years)


def performance(curve: Curve, usd: float, trends: Trends, years: float) -> float:
    """The loss that `usd` reach at time `years`."""
    return curve.optimal(trends.effective_flops(usd, years)).loss


def diffusion_window(leader: Actor, follower: Actor, trends: Trends, discovery: float) -> float:
    """Years from the leader's discovery at time `discovery` until the follower has the same capability.

    `scaling.diffusion.windows.window` between two actors, of whom the leader too may carry a penalty and a delay.
    """
    found = windows.window(
        leader_usd=leader.budget_usd,
        follower_usd=follower.budget_usd,
        leader_growth=leader.growth,
        follower_growth=follower.growth,
        price_performance=trends.price_performance,
        algorithms=trends.algorithms,
        penalty=follower.penalty / leader.penalty,
        delay=follower.delay_years - leader.delay_years,
        discovery=discovery,
    )
    return float(found)
