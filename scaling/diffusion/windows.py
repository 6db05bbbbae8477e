"""When a capability is discovered, how long it stays with its discoverer, and what bends that: ceilings, budgets that grow, paths that bend.

Leader budget i_L g_L^t, follower i_F g_F^t, follower's compute penalty P, algorithms delayed by delta, shared growth g_s = g_h g_a:
    discovery t0 = (ln X_c - ln(i_L h_0 a_0)) / ln(g_L g_s)
    window    W  = [ln(i_L / i_F) + t0 ln(g_L / g_F) + ln P + delta ln g_a] / ln(g_F g_s)
With equal budget growth W is constant; with a follower's budget that stands still it grows by ln g_L / ln g_s years a year: leads lengthen,
while every single capability still diffuses. Times are years. Closed forms take arrays, of JAX too. Growth that bends has no closed
form: `Path` sums any growth paths, and the same questions go to a bisection.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scaling.diffusion.solver import invert, namespace
from scaling.errors import InputError

HORIZON = 1000.0  # years in which the general solver looks for a date, to both sides


def time_to_grow(log_gap: Any, log_rate: Any) -> Any:
    """Years in which growth of `log_rate` a year closes `log_gap`; infinite where it never does, minus infinity where a decline always has."""
    xp = namespace(log_gap, log_rate)
    grows = log_rate > 0
    return xp.where(grows, log_gap / xp.where(grows, log_rate, 1.0), xp.where(log_gap > 0, xp.inf, -xp.inf))


def discovery_time(*, effective_flops: Any, flops: Any, growth: Any, shared: Any) -> Any:
    """t0: when a budget worth `flops` at time 0, growing by `growth` a year beside the shared growth, reaches `effective_flops`."""
    xp = namespace(effective_flops, flops, growth, shared)
    return time_to_grow(xp.log(effective_flops / flops), xp.log(growth * shared))


def window(
    *,
    leader_usd: Any,
    follower_usd: Any,
    leader_growth: Any = 1.0,
    follower_growth: Any = 1.0,
    price_performance: Any,
    algorithms: Any,
    penalty: Any = 1.0,
    delay: Any = 0.0,
    discovery: Any = 0.0,
) -> Any:
    """W: years from the leader's reaching a capability at time `discovery` to the follower's; negative where the follower is ahead."""
    xp = namespace(leader_usd, follower_usd, leader_growth, follower_growth, price_performance, algorithms, penalty, delay, discovery)
    behind = xp.log(leader_usd / follower_usd) + xp.log(penalty) + delay * xp.log(algorithms)
    gap = behind + discovery * xp.log(leader_growth / follower_growth)
    return time_to_grow(gap, xp.log(follower_growth * price_performance * algorithms))


def window_growth(*, leader_growth: Any, follower_growth: Any, shared: Any) -> Any:
    """dW/dt0: years by which the window lengthens for each year that the discovery lies later."""
    xp = namespace(leader_growth, follower_growth, shared)
    return xp.log(leader_growth / follower_growth) / xp.log(follower_growth * shared)


def lag(*, compute_ratio: Any, penalty: Any = 1.0, growth: Any) -> Any:
    """Years behind, at one date, of a follower that grows like the leader: ln(R P) / ln g, R = leader's over follower's physical compute.

    g is the growth of effective compute a year, budgets included.
    """
    xp = namespace(compute_ratio, penalty, growth)
    return time_to_grow(xp.log(compute_ratio * penalty), xp.log(growth))


def implied_penalty(*, lag_years: Any, compute_ratio: Any, growth: Any) -> Any:
    """The penalty at which `lag` gives an observed lag: g^tau / R. Below 1: the follower makes more of its compute than the leader."""
    return growth**lag_years / compute_ratio


@dataclasses.dataclass(frozen=True)
class GrowthPath:
    """A level of `start` at time 0 that grows by factors a year that change at dates: growths[j] from dates[j - 1] to dates[j].

    Growths may be 1 or below; dates increase. `GrowthPath(1e8, (3.0, 1.5), (4.0,))` grows 3x a year for four years and 1.5x after.
    """

    start: float
    growths: Sequence[float] = (1.0,)
    dates: Sequence[float] = ()

    def __post_init__(self) -> None:
        if len(self.growths) != len(self.dates) + 1:
            raise InputError(f"growth path: {len(self.dates)} dates part {len(self.dates) + 1} growths, got {len(self.growths)}")
        if not all(math.isfinite(each) and each > 0 for each in (self.start, *self.growths)):
            raise InputError(f"growth path: start and growths must be positive and finite, got {self.start}, {list(self.growths)}")
        if any(later <= earlier for earlier, later in zip(self.dates, self.dates[1:], strict=False)):
            raise InputError(f"growth path: dates must increase, got {list(self.dates)}")

    def log(self, years: Any) -> Any:
        """Natural log of the level at time `years`."""
        return math.log(self.start) + self._grown(np.asarray(years, float)) - self._grown(np.zeros(()))

    def _grown(self, years: np.ndarray) -> np.ndarray:
        rates = np.log(self.growths)
        # The rate changes by rates[j + 1] - rates[j] at each date; before the first date the first holds.
        bends = [
            (later - earlier) * np.maximum(years - date, 0.0) for earlier, later, date in zip(rates, rates[1:], self.dates, strict=False)
        ]
        return rates[0] * years + sum(bends, np.zeros(()))


@dataclasses.dataclass(frozen=True)
class Path:
    """ln effective FLOP of an actor at any time, from growth paths of its budget (USD), of FLOP a dollar, and of algorithms."""

    budget: GrowthPath
    hardware: GrowthPath
    algorithms: GrowthPath
    penalty: float = 1.0
    delay: float = 0.0

    def __call__(self, years: Any) -> Any:
        late = np.asarray(years, float) - self.delay
        return self.budget.log(years) + self.hardware.log(years) + self.algorithms.log(late) - math.log(self.penalty)


def first_time(path: Callable[[Any], Any], log_effective_flops: Any, horizon: float = HORIZON) -> Any:
    """When an increasing path reaches ln effective FLOP, by bisection within `horizon` years to both sides of time 0."""
    return invert(path, log_effective_flops, -horizon, horizon)


def general_window(leader: Callable[[Any], Any], follower: Callable[[Any], Any], discovery: Any, horizon: float = HORIZON) -> Any:
    """W for any two increasing paths: from the leader's `discovery` to the follower's reaching the same effective compute."""
    return first_time(follower, leader(discovery), horizon) - discovery
