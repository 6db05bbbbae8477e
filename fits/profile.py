"""Profile likelihood: how far a quantity can be moved before the objective, refitted under it, rises too much.

The signed root tau(c) = sqrt(2 (Q(c) - Q_min) / phi) of the profiled objective is compared with Student's t at rows - constants degrees of freedom (Bates & Watts
1988, section 6.1): exact for a linear law with normal noise, and invariant under any change of parameters. phi = E[psi^2] / E[psi'] is the dispersion of
the objective's influence function psi: the residual variance for squares, and its robust counterpart for Huber's function.
Points of the profile come from refits with a spring on the quantity: its minimum is a point of the profile at whatever value the spring reaches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.stats import norm, t

from fits import problems, solve
from fits.errors import InputError
from fits.quantities import KINDS, Frontier, Quantity
from fits.sample import Sample

STIFFNESS = 1e4  # of the spring, in units of the profile's own curvature
ROUNDS = 14
FARTHEST = 300.0  # standard errors beyond which an interval counts as open
CLOSE = 2e-3  # tau is met to this


@dataclasses.dataclass(frozen=True)
class Ends:
    """Bounds of an interval (members,), infinite where the profile never rises enough, and the estimate between them."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Samples:
    """Samples of one design, a member each: what they were, and where their fits ended."""

    problem: problems.Problem
    theta: np.ndarray  # (M, p)
    weights: np.ndarray  # (1, rows)
    observed: np.ndarray  # (M, rows)
    delta: float
    floor: np.ndarray  # (M,) objective at theta
    phi: np.ndarray  # (M,)
    freedom: int

    def rise(self, member: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """tau at refitted thetas of some members."""
        rise = _misfit(self.observed[member] - problems.predictions(self.problem, theta), self.weights, self.delta) - self.floor[member]
        tau = np.sqrt(np.maximum(2 * rise / self.phi[member], 0.0))
        return np.where(np.isfinite(tau), tau, np.inf)


def interval(sample: Sample, quantity: Quantity, level: float = 0.95) -> tuple[float, float]:
    """The profile interval of `quantity` (of its logarithm where it is one) for the rows of `sample`."""
    assert sample.theta is not None
    ends = intervals(sample.problem, sample.theta[None], sample.weights, sample.problem.observed[None], quantity, level)
    return float(ends.low[0]), float(ends.high[0])


def constant_intervals(sample: Sample, level: float = 0.95) -> dict[str, tuple[float, float]]:
    """The profile interval of every constant that was not fixed, all in one batch; open where the runs do not bound it."""
    assert sample.theta is not None
    law, free = sample.problem.law, np.flatnonzero(sample.problem.low < sample.problem.high)
    samples = _samples(sample.problem, sample.theta[None], sample.weights, sample.problem.observed[None])
    repeat = np.zeros(len(free), int)
    low, high = _held(_take(samples, repeat), free, level)
    found = {law.constants[k]: (low[i], high[i]) for i, k in enumerate(free)}
    return {name: _as_constant(law.parameter(name).log, bounds) for name, bounds in found.items()}


def intervals(
    problem: problems.Problem, theta: np.ndarray, weights: np.ndarray, observed: np.ndarray, quantity: Quantity, level: float
) -> Ends:
    """Profile intervals for many samples of one design at once: optima (M, p), weights (rows,), targets (M, rows)."""
    samples = _samples(problem, theta, weights, observed)
    value, _ = _values(quantity, theta)
    if quantity.kind == "constant":
        low, high = _held(samples, np.full(len(theta), problem.law.constants.index(quantity.name)), level)
    else:
        low, high = _sprung(samples, quantity, value, level)
    return Ends(value, low, high)


def _refuse_asymmetric(problem: problems.Problem) -> None:
    if problem.objective.over != 1:
        raise InputError("profile: an asymmetric objective has no dispersion to compare its profile with; use the bootstrap")


def _samples(problem: problems.Problem, theta: np.ndarray, weights: np.ndarray, observed: np.ndarray) -> _Samples:
    _refuse_asymmetric(problem)
    freedom = max(1, len(problem.target) - int((problem.low < problem.high).sum()))
    delta = problem.objective.delta or 1e-4 * problem.spread
    residual = observed - problems.predictions(problem, theta)
    phi = np.array([dispersion(r, delta, freedom) for r in residual])
    return _Samples(problem, theta, weights[None], observed, delta, _misfit(residual, weights[None], delta), phi, freedom)


def _take(samples: _Samples, member: np.ndarray) -> _Samples:
    picked = {name: getattr(samples, name)[member] for name in ("theta", "observed", "floor", "phi")}
    return dataclasses.replace(samples, **picked)


def _as_constant(log: bool, bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = np.exp(bounds) if log else bounds
    return float(low), float(high)


def _held(samples: _Samples, index: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Both ends for the parameter `index` (M,) of every member, which is held at a value by its bounds while the others are refitted."""
    problem, members = samples.problem, np.arange(len(index))
    slope = np.zeros_like(samples.theta)
    slope[members, index] = 1.0

    def refit(member: np.ndarray, goal: np.ndarray, begin: np.ndarray, _: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = np.tile(problem.low, (len(member), 1)), np.tile(problem.high, (len(member), 1))
        which, own = np.arange(len(member)), index[member % len(index)]
        held = np.clip(goal, problem.low[own], problem.high[own])
        low[which, own] = high[which, own] = held
        observed, delta = samples.observed[member % len(index)], samples.delta
        minima = solve.minimise(
            problem,
            np.clip(begin, low, high),
            samples.weights,
            bounds=(low, high),
            observed=observed,
            delta=delta,
            first_delta=delta,
            describe=False,
            room=2 * len(index),
        )
        return held, minima.theta

    return _both_ends(samples, samples.theta[members, index], slope, refit, level)


def _sprung(samples: _Samples, quantity: Quantity, value: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Both ends for a derived quantity, which a spring holds near a value."""
    _, slope = _values(quantity, samples.theta)
    pull, count = solve.Pull(quantity.frontier), len(value)

    def refit(member: np.ndarray, goal: np.ndarray, begin: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = member % count
        aims = quantity.aims(goal, STIFFNESS * samples.phi[own] / error**2)
        begin = np.clip(begin, samples.problem.low, samples.problem.high)
        observed, delta = samples.observed[own], samples.delta
        minima = solve.minimise(
            samples.problem,
            begin,
            samples.weights,
            pull=pull,
            aims=aims,
            observed=observed,
            delta=delta,
            first_delta=delta,
            describe=False,
            room=2 * count,
        )
        return _values(quantity, minima.theta)[0], minima.theta

    return _both_ends(samples, value, slope, refit, level)


def dispersion(residual: np.ndarray, delta: float, freedom: int) -> float:
    """phi of Huber's function at these residuals (rows,); the residual variance where delta is beyond them all.

    E[psi'] is the share of residuals inside delta. With a small delta few rows tell it, so it is taken from a normal distribution of the
    residuals' robust spread, enlarged for the constants fitted.
    """
    rows = len(residual)
    if not np.isfinite(delta) or (np.abs(residual) < delta).all():
        return float(np.sum(residual**2) / freedom)
    size = np.sort(np.abs(residual))[rows - freedom :]  # the fit passes through about as many rows as it has constants
    spread = max(float(np.median(size)) / 0.6745, 1e-300)
    inside = norm.cdf(delta / spread) - norm.cdf(-delta / spread)
    squares = spread**2 * (inside - 2 * delta / spread * norm.pdf(delta / spread)) + delta**2 * (1 - inside)
    return float(squares / inside)


def _misfit(residual: np.ndarray, weights: np.ndarray, delta: float) -> np.ndarray:
    size = np.abs(residual)
    inside = np.minimum(size, delta)
    linear = np.where(size > delta, (delta if np.isfinite(delta) else 0.0) * (size - inside), 0.0)
    return np.sum(weights * (0.5 * inside**2 + linear), axis=1)


def _conditional(samples: _Samples, slope: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How theta moves with a quantity of this gradient in the linear picture, (M, p), and the quantity's standard error, (M,)."""
    problem = samples.problem
    # A constant at its bound stays there as the others move, but in logs the linear picture would send it far away.
    inside = (problem.low < samples.theta) & (samples.theta < problem.high)
    itself = np.abs(slope) == np.abs(slope).sum(axis=1, keepdims=True)  # where the quantity is a constant
    free = (problem.low < problem.high) & (inside | itself)
    jacobian = np.where(free[:, None, :], problems.jacobians(problem, samples.theta), 0.0) * np.sqrt(samples.weights[..., None])
    size = np.linalg.norm(jacobian, axis=1)
    scale = np.maximum(size, 1e-12 * size.max(axis=1, keepdims=True))
    unit = jacobian / scale[:, None, :]
    inverse = np.linalg.pinv(np.swapaxes(unit, 1, 2) @ unit, rcond=1e-13, hermitian=True)
    covariance = inverse / scale[:, :, None] / scale[:, None, :]
    along = np.einsum("mij,mj->mi", covariance, np.where(free, slope, 0.0))
    variance = np.maximum(np.einsum("mi,mi->m", along, slope), 1e-300)
    return along / variance[:, None], np.sqrt(samples.phi * variance)


Refit = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _both_ends(samples: _Samples, value: np.ndarray, slope: np.ndarray, refit: Refit, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Low and high ends (M,) by secant steps on tau, which is nearly linear in the quantity.

    `refit(member, goal, begin, error)` returns the values reached and the refitted thetas; members M and above are the high ends.
    """
    count = len(value)
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, got {level}")
    aim = float(t.ppf((1 + level) / 2, samples.freedom))
    direction, error = _conditional(samples, slope)
    both = _take(samples, np.tile(np.arange(count), 2))
    value, direction, error = np.tile(value, 2), np.tile(direction, (2, 1)), np.tile(error, 2)
    side = np.repeat([-1.0, 1.0], count)
    near, near_tau, near_theta = value.copy(), np.zeros(2 * count), both.theta.copy()  # the farthest point known to be inside
    far, far_tau = np.full(2 * count, np.nan), np.full(2 * count, np.nan)  # the nearest known to be outside
    guess, result = value + side * aim * error, np.full(2 * count, np.nan)
    for _ in range(ROUNDS):
        todo = np.flatnonzero(np.isnan(result))
        if not len(todo):
            break
        begin = near_theta[todo] + direction[todo] * (guess[todo] - near[todo])[:, None]
        reached, theta = refit(todo, guess[todo], begin, error[todo])
        tau = np.where(np.isfinite(reached), both.rise(todo, theta), np.inf)
        met = np.abs(tau - aim) < CLOSE * aim
        inside = ~met & (tau < aim)
        with np.errstate(invalid="ignore", divide="ignore"):
            corrected = reached + (aim - tau) * (reached - near[todo]) / np.maximum(tau - near_tau[todo], 1e-12)
        # The refit does not follow any further: a bound of the law, or no such value.
        stuck = inside & (side[todo] * (reached - near[todo]) <= 1e-9 * error[todo])
        result[todo[met]], result[todo[stuck]] = corrected[met], (side * np.inf)[todo[stuck]]
        moved, outside = todo[inside & ~stuck], todo[~met & ~inside]
        near[moved], near_tau[moved], near_theta[moved] = reached[inside & ~stuck], tau[inside & ~stuck], theta[inside & ~stuck]
        far[outside] = np.where(np.isfinite(reached), reached, guess[todo])[~met & ~inside]
        far_tau[outside] = tau[~met & ~inside]
        guess = _next_guess(value, error, side, aim, near, near_tau, far, far_tau)
        result = np.where(np.isnan(result) & (np.abs(guess - value) > FARTHEST * error), side * np.inf, result)
    # What was not met in so many rounds lies between the nearest points inside and outside; without one outside it is open.
    result = np.where(np.isnan(result), np.where(np.isnan(far), side * np.inf, far), result)
    exact = both.floor <= solve.EXACT * len(both.problem.target)
    result = np.where(exact, value, result)  # no residual is left to judge by: the point itself
    return result[:count], result[count:]


def _next_guess(value, error, side, aim, near, near_tau, far, far_tau) -> np.ndarray:
    """Farther out while every point was inside; between the nearest points inside and outside otherwise."""
    with np.errstate(invalid="ignore", divide="ignore"):
        farther = np.clip(1.05 * aim / np.maximum(near_tau, 0.1 * aim), 1.1, 4.0) * np.maximum(np.abs(near - value), 0.1 * error)
        share = np.where(far_tau < 4 * aim, (aim - near_tau) / (far_tau - near_tau), 0.5)  # tau is no line so far out
        between = near + np.clip(share, 0.05, 0.95) * (far - near)
    return np.where(np.isnan(far), value + side * farther, between)


def _values(quantity: Quantity, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The quantity at thetas (M, p), and its gradient."""
    if quantity.kind == "constant":
        index = quantity.law.constants.index(quantity.name)
        return theta[:, index], np.tile(np.eye(theta.shape[1])[index], (len(theta), 1))
    with jax.enable_x64(True):
        kind, at = jnp.asarray(KINDS.index(quantity.kind)), jnp.asarray(quantity.at, jnp.float64)
        value, slope = _value_and_slope(quantity.frontier, jnp.asarray(problems.filled(theta), jnp.float64), kind, at)
        return np.asarray(value)[: len(theta)], np.asarray(slope)[: len(theta)]


@partial(jax.jit, static_argnums=0)
def _value_and_slope(frontier: Frontier, theta: Array, kind: Array, at: Array) -> tuple[Array, Array]:
    return jax.vmap(jax.value_and_grad(frontier.value), (0, None, None))(theta, kind, at)
