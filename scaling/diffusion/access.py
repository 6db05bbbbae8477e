"""How many have access: actors whose budget reaches a cost, and models whose training compute exceeds a threshold.

Budgets: Pareto, lognormal, or a list. A common growth g_i of budgets and the access effect together move the cost relative to them by
g_s g_i a year, so that the number grows by (g_s g_i)^zeta a year in a Pareto tail of exponent zeta, until everyone has access.

Models: the allocation model of Kumar & Manning 2025 (arXiv 2504.16138). A year's training compute T goes to models up to the largest,
C_max = share T; the part of it in models below x C_max is x^kappa. Then dn = (kappa / share) x^(kappa - 2) dx, and with u = ln(C_max / C)
    N(> C) = (kappa / share) (exp(u (1 - kappa)) - 1) / (1 - kappa),  = u / share where kappa = 1.
This replaces their sampler of models one by one, and has derivatives.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from scaling.diffusion.checks import check_positive
from scaling.diffusion.solver import namespace
from scaling.errors import InputError

MEDIAN_LARGEST_SHARE = math.sqrt(0.05 * 0.5)


@dataclasses.dataclass(frozen=True)
class ParetoBudgets:
    """`actors` budgets of at least `least_usd`, P(i > x) = (least / x)^exponent."""

    actors: float
    least_usd: float
    exponent: float

    def __post_init__(self) -> None:
        check_positive("Pareto budgets", actors=self.actors, least_usd=self.least_usd, exponent=self.exponent)

    def above(self, usd: Any) -> Any:
        """Number of actors with a budget above `usd`."""
        xp = namespace(usd)
        return self.actors * xp.minimum(1.0, (self.least_usd / usd) ** self.exponent)


@dataclasses.dataclass(frozen=True)
class LognormalBudgets:
    """`actors` budgets whose logs are normal around ln(median) with standard deviation `log_sd`."""

    actors: float
    median_usd: float
    log_sd: float

    def __post_init__(self) -> None:
        check_positive("lognormal budgets", actors=self.actors, median_usd=self.median_usd, log_sd=self.log_sd)

    def above(self, usd: Any) -> Any:
        """Number of actors with a budget above `usd`."""
        xp = namespace(usd)
        normal = ndtr if xp is np else _jax_normal()
        return self.actors * normal((math.log(self.median_usd) - xp.log(usd)) / self.log_sd)


@dataclasses.dataclass(frozen=True)
class ListedBudgets:
    """Budgets one by one, in dollars."""

    usd: Sequence[float]

    def __post_init__(self) -> None:
        if not self.usd or not all(math.isfinite(each) and each > 0 for each in self.usd):
            raise InputError("listed budgets: needs at least one, all positive and finite")

    def above(self, usd: Any) -> Any:
        """Number of actors with a budget of `usd` or more."""
        ordered = np.sort(np.asarray(self.usd, float))
        return len(ordered) - np.searchsorted(ordered, usd, side="left")


Budgets = ParetoBudgets | LognormalBudgets | ListedBudgets


def with_access(budgets: Budgets, cost_usd: Any, *, years: Any = 0.0, shared: Any = 1.0, budget_growth: Any = 1.0) -> Any:
    """Actors who can pay, `years` later, for what costs `cost_usd` at time 0: the cost falls by `shared` a year, budgets rise by `budget_growth`."""
    return budgets.above(cost_usd * (shared * budget_growth) ** (-namespace(years).asarray(years)))


def models_above(threshold: Any, *, largest: Any, largest_share: Any = MEDIAN_LARGEST_SHARE, kappa: Any = 1.0) -> Any:
    """Models a year above `threshold` FLOP where the largest run takes `largest` FLOP, a `largest_share` of the year's training compute."""
    xp = namespace(threshold, largest, largest_share, kappa)
    decades = xp.maximum(xp.log(largest / threshold), 0.0)
    left = 1 - kappa
    small = xp.abs(left) < 1e-6
    # (exp(u a) - 1) / a tends to u: the first two terms where a is so small that the quotient would be noise.
    quotient = xp.where(small, decades * (1 + decades * left / 2), xp.expm1(decades * left) / xp.where(small, 1.0, left))
    return kappa / largest_share * quotient


def models_above_growth(*, threshold_growth: Any, largest_share: Any = MEDIAN_LARGEST_SHARE) -> Any:
    """Models a year that each year adds at kappa = 1: ln g_C / share above a fixed FLOP, ln(g_C g_a) / share above a fixed capability."""
    return namespace(threshold_growth, largest_share).log(threshold_growth) / largest_share


@dataclasses.dataclass(frozen=True)
class AllocationForecast:
    """Kumar & Manning's forecast of new models a year, as distributions; the defaults are those of their published code.

    Training compute of year `base_year` was `base_flops`, the part `base_training_share` of all AI compute; all of it grows by `growth` a year,
    normal with `growth_sd`, once for a whole forecast; `training_share` of it trains. Each year's largest run is a lognormal share of that,
    centred between `least_share` and `most_share`, their log distance four standard deviations, and cut off at both; kappa is uniform.
    """

    base_year: int = 2023
    base_flops: float = 1.35e26
    base_training_share: float = 0.4
    growth: float = 0.25 * 6.3 + 0.75 * 2.25 * 1.4
    growth_sd: float = 0.5
    least_share: float = 0.05
    most_share: float = 0.5
    kappas: tuple[float, float] = (0.9, 1.1)

    def training_share(self, year: int) -> float:
        """Part of a year's AI compute that trains models: 40%, and 30% from 2027."""
        return 0.4 if year < 2027 else 0.3

    def draws(self, years: Sequence[int], threshold: float, count: int = 4096) -> np.ndarray:
        """New models above `threshold` FLOP: an array (count, years) of Sobol draws, the same at every call."""
        if min(years) <= self.base_year:
            raise InputError(f"allocation forecast: years start after {self.base_year}, got {min(years)}")
        points = sobol(count, 1 + 2 * len(years))
        growth = self.growth + self.growth_sd * ndtri(points[:, :1])
        elapsed = np.asarray(years) - self.base_year
        trained = np.array([self.training_share(year) for year in years])
        aggregate = self.base_flops / self.base_training_share * growth**elapsed * trained
        low, high = math.log(self.least_share), math.log(self.most_share)
        middle, spread = (low + high) / 2, (high - low) / 4
        edges = ndtr((np.array([low, high]) - middle) / spread)
        share = np.exp(middle + spread * ndtri(edges[0] + points[:, 1 : 1 + len(years)] * (edges[1] - edges[0])))
        kappa = self.kappas[0] + points[:, 1 + len(years) :] * (self.kappas[1] - self.kappas[0])
        return models_above(threshold, largest=share * aggregate, largest_share=share, kappa=kappa)


def sobol(count: int, dimensions: int) -> np.ndarray:
    """Quasi-random points strictly inside the unit cube, the same at every call; `count` a power of two."""
    from scipy.stats import qmc  # takes half a second to import

    return np.clip(qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng(0)).random(count), 1e-12, 1 - 1e-12)


def _jax_normal() -> Any:
    from jax.scipy.special import ndtr as normal

    return normal
