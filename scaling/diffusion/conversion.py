"""Conversion of dollars to compute and of compute to performance, their composition, and its two effects over time.

Pilz, Heim & Brown 2023 (arXiv 2311.15377): C = f_h(i) dollars to FLOP, p = f_a(C) FLOP to performance, f_c = f_a o f_h dollars to performance.
With h(t) FLOP a dollar and algorithms a(t), performance is one curve P of x = ln X, X = a(t) h(t) i the effective compute. The access
effect is the curve's displacement along ln i at equal p, the performance effect its displacement along p at equal i. Three closed P are
here: linear in x, a loss with a power law, a bounded score of that loss; and any increasing function, inverted by bisection.

Everything is vectorised; with JAX arrays (in x64) the closed forms run in JAX and can be differentiated.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from fits import frontier
from fits.curve import Curve
from fits.laws.chinchilla import CHINCHILLA
from scaling.diffusion.checks import check_finite, check_positive
from scaling.diffusion.effects import Trends
from scaling.diffusion.solver import invert, namespace
from scaling.diffusion.windows import time_to_grow
from scaling.errors import InputError


class PerformanceCurve(Protocol):
    """Performance as an increasing function of x = ln effective FLOP (FLOP of time-0 algorithms)."""

    def performance(self, x: Any) -> Any:
        """P(x)."""
        ...

    def inverse(self, performance: Any) -> Any:
        """x at which it is reached; infinite where it never is."""
        ...

    def slope(self, x: Any) -> Any:
        """dP/dx."""
        ...


@dataclasses.dataclass(frozen=True)
class IndexLinear:
    """p = offset + scale x: a capability index linear in log effective compute, without bound."""

    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        check_positive("index", scale=self.scale)
        check_finite("index", offset=self.offset)

    def performance(self, x: Any) -> Any:
        return self.offset + self.scale * x

    def inverse(self, performance: Any) -> Any:
        return (performance - self.offset) / self.scale

    def slope(self, x: Any) -> Any:
        return self.scale + 0 * x


@dataclasses.dataclass(frozen=True)
class LossPower:
    """p = -L, L = irreducible + coefficient exp(-exponent x): nats per token along a compute-optimal frontier; bounded by -irreducible."""

    irreducible: float
    coefficient: float
    exponent: float

    def __post_init__(self) -> None:
        check_positive("loss", coefficient=self.coefficient, exponent=self.exponent)
        check_finite("loss", irreducible=self.irreducible)

    @classmethod
    def of(cls, curve: Curve) -> LossPower:
        """The compute-optimal frontier of a curve of Chinchilla's law: exponent alpha beta / (alpha + beta). InputError for other laws."""
        if curve.law is not CHINCHILLA:
            raise InputError(f"loss: the frontier of law {curve.law.name} is no single power; loss_performance takes any law")
        alpha, beta = curve.constants["alpha"], curve.constants["beta"]
        exponent, at = alpha * beta / (alpha + beta), 1e21
        # At the optimum the terms of tokens and of parameters stand as alpha to beta; `at` only names a point of the power law.
        reducible = (1 + alpha / beta) * curve.constants["A"] * curve.optimal(at).params ** -alpha
        return cls(curve.constants["E"], reducible * at**exponent, exponent)

    def loss(self, x: Any) -> Any:
        return self.irreducible + self.reducible(x)

    def reducible(self, x: Any) -> Any:
        """L - irreducible, without the cancellation."""
        return self.coefficient * namespace(x).exp(-self.exponent * x)

    def performance(self, x: Any) -> Any:
        return -self.loss(x)

    def inverse(self, performance: Any) -> Any:
        return self.x_of_loss(-performance)

    def x_of_loss(self, loss: Any) -> Any:
        """ln effective FLOP at which the loss is reached; infinite at or below the irreducible one."""
        xp = namespace(loss)
        reducible = loss - self.irreducible
        inside = xp.where(reducible > 0, reducible, 1.0)
        return xp.where(reducible > 0, (math.log(self.coefficient) - xp.log(inside)) / self.exponent, xp.inf)

    def slope(self, x: Any) -> Any:
        return self.exponent * self.reducible(x)


@dataclasses.dataclass(frozen=True)
class BoundedScore:
    """p = floor + span / (1 + exp(steepness (L - middle))): a benchmark's score, bounded by what the irreducible loss allows."""

    loss: LossPower
    middle: float
    steepness: float
    span: float = 1.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        check_positive("score", steepness=self.steepness, span=self.span)
        check_finite("score", middle=self.middle, floor=self.floor)

    def score_of_loss(self, loss: Any) -> Any:
        xp = namespace(loss)
        # 1 / (1 + exp z), without overflow where the loss is far above the middle.
        return self.floor + self.span * xp.exp(-xp.logaddexp(0.0, self.steepness * (loss - self.middle)))

    def performance(self, x: Any) -> Any:
        return self.score_of_loss(self.loss.loss(x))

    def inverse(self, performance: Any) -> Any:
        xp = namespace(performance)
        part = (performance - self.floor) / self.span
        inside = xp.where((part > 0) & (part < 1), part, 0.5)
        x = self.loss.x_of_loss(self.middle + xp.log((1 - inside) / inside) / self.steepness)
        return xp.where(part <= 0, -xp.inf, xp.where(part >= 1, xp.inf, x))

    def slope(self, x: Any) -> Any:
        part = (self.performance(x) - self.floor) / self.span
        return self.span * self.steepness * part * (1 - part) * self.loss.slope(x)


@dataclasses.dataclass(frozen=True)
class Ceiling:
    """p = min(P(x), ceiling): nothing above `ceiling` can be had, by whatever compute."""

    below: PerformanceCurve
    ceiling: float

    def __post_init__(self) -> None:
        check_finite("ceiling", ceiling=self.ceiling)

    def performance(self, x: Any) -> Any:
        return namespace(x).minimum(self.below.performance(x), self.ceiling)

    def inverse(self, performance: Any) -> Any:
        xp = namespace(performance)
        return xp.where(performance <= self.ceiling, self.below.inverse(xp.minimum(performance, self.ceiling)), xp.inf)

    def slope(self, x: Any) -> Any:
        return namespace(x).where(self.below.performance(x) < self.ceiling, self.below.slope(x), 0.0)

    def reached(self, x: Any, log_growth: Any) -> Any:
        """Years until an actor at x whose effective compute grows by exp(log_growth) a year is at the ceiling, level with every other there."""
        return time_to_grow(self.below.inverse(self.ceiling) - x, log_growth)


@dataclasses.dataclass(frozen=True)
class AnyMonotone:
    """Any increasing function of x on [low, high] (natural logs of FLOP), inverted by bisection to rounding. NumPy only."""

    function: Callable[[Any], Any]
    low: float = 0.0
    high: float = 140.0

    def performance(self, x: Any) -> Any:
        return self.function(x)

    def inverse(self, performance: Any) -> Any:
        return invert(self.function, performance, self.low, self.high)

    def slope(self, x: Any) -> Any:
        step = 1e-4
        return (self.function(x + step) - self.function(x - step)) / (2 * step)


def loss_performance(curve: Curve) -> LossPower | AnyMonotone:
    """Minus the loss of a fitted curve's compute-optimal frontier: closed for Chinchilla's law, by search for others with an optimum."""
    if curve.law is CHINCHILLA:
        return LossPower.of(curve)
    frontier.needs_size(curve.law)
    per_product = math.log(curve.flops_per_param_token)
    return AnyMonotone(
        lambda x: -frontier.loss_on_frontier(curve.law, curve.vector, np.exp(np.asarray(x) - per_product)), low=5.0, high=120.0
    )


@dataclasses.dataclass(frozen=True)
class Conversion:
    """Dollars to FLOP to performance at any date: the composition f_c = f_a o f_h with `trends` shifting both parts.

    scale_slope: decades by which a year's algorithmic gain is larger for each decade of physical compute above `scale_reference` FLOP. Where
    it is not 0 the curve shifts and tilts: the access effect depends on the performance, and small budgets gain less.
    """

    curve: PerformanceCurve
    trends: Trends = dataclasses.field(default_factory=Trends)
    scale_slope: float = 0.0
    scale_reference: float = 1e24

    def __post_init__(self) -> None:
        check_positive("conversion", scale_reference=self.scale_reference)
        check_finite("conversion", scale_slope=self.scale_slope)

    def flops(self, usd: Any, years: Any) -> Any:
        """f_h: training FLOP that `usd` buy at time `years`."""
        return usd * self.trends.flops_per_usd * self.trends.price_performance**years

    def performance_of_flops(self, flops: Any, years: Any) -> Any:
        """f_a: performance that `flops` give with the algorithms of time `years`."""
        tilt, log_gain = self._tilt(years)
        return self.curve.performance(tilt * namespace(flops, years).log(flops) + log_gain)

    def performance(self, usd: Any, years: Any) -> Any:
        """f_c: performance that `usd` give at time `years`."""
        return self.performance_of_flops(self.flops(usd, years), years)

    def usd_for(self, performance: Any, years: Any) -> Any:
        """Dollars that reach `performance` at time `years`: exp(P^-1(p)) / (a h) without tilt. Infinite where no money does."""
        tilt, log_gain = self._tilt(years)
        log_flops = (self.curve.inverse(performance) - log_gain) / tilt
        return namespace(log_flops, years).exp(log_flops) / self.flops(1.0, years)

    def access_effect(self, performance: Any, start: Any, end: Any) -> Any:
        """Dollars at `end` over dollars at `start` for the same performance: g_s^-(end - start) without tilt, whatever the performance."""
        return self.usd_for(performance, end) / self.usd_for(performance, start)

    def performance_effect(self, usd: Any, start: Any, end: Any) -> Any:
        """Gain of performance from `start` to `end` for the same dollars; P'(x) ln g_s a year where the time is short."""
        return self.performance(usd, end) - self.performance(usd, start)

    def _tilt(self, years: Any) -> tuple[Any, Any]:
        """x = tilt ln C + log_gain: ln effective FLOP of C FLOP with the algorithms of time `years`."""
        grown = years * self.scale_slope
        if self.scale_slope and not np.all(np.asarray(grown) > -1):
            raise InputError(f"conversion: scale_slope {self.scale_slope} makes more compute worth less at {years} years")
        return 1 + grown, years * math.log(self.trends.algorithms) - grown * math.log(self.scale_reference)
