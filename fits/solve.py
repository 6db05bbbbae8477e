"""Global, batched, robust minimisation: a damped Newton method in float64, from many starts and for many weightings at once.

The objective is sum_i w_i h(r_i) with r = log L - log L_hat and h the Huber function (r^2 / 2 inside delta, linear outside). With
a small delta it is nearly the sum of |r|: a problem of many kinks on which quasi-Newton methods stop early and report
success. Two things make it tame. Delta is lowered in stages from the scale of the data, so that every stage starts close to
its optimum. And every step solves with the exact Hessian, its eigenvalues made positive and damped, and is taken only if the
objective falls.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fits.laws.base import Law

ITERATIONS = 3000  # of the last stage at most; a converged member stops by itself, a rare one creeps along a ridge of kinks
STAGE_ITERATIONS = 30
DECREMENT = 1e-12  # certified: Newton decrement over objective
EXACT = 1e-22  # mean objective per row below which a fit is exact and the relative decrement means nothing


class Minimum(NamedTuple):
    """Where a start ended. `decrement` is half g' H^-1 g, the distance to the local optimum in units of the objective."""

    theta: Array
    objective: Array
    decrement: Array
    curvature: Array  # least eigenvalue of the Hessian, scaled to a unit diagonal
    condition: Array
    active: Array  # which parameters ended at their lower bound


@dataclasses.dataclass(frozen=True)
class Problem:
    """One table of runs as arrays: natural logs of the inputs (rows, inputs) and of the loss (rows,)."""

    law: Law
    inputs: np.ndarray
    log_loss: np.ndarray
    delta: float  # infinite: least squares


def huber(residual: Array, delta: Array) -> Array:
    size = jnp.abs(residual)
    inside = jnp.minimum(size, delta)
    # An infinite delta times zero is not zero, hence the branch that never multiplies by it.
    return 0.5 * inside**2 + jnp.where(size > delta, jnp.where(jnp.isfinite(delta), delta, 0.0) * (size - inside), 0.0)


def minimise(problem: Problem, starts: np.ndarray, weights: np.ndarray, *, first_delta: float | None = None, chunk: int = 500) -> Minimum:
    """Local minima from `starts` (M, p) under `weights` (M, rows), member by member; arrays of length M.

    `first_delta` is where the lowering of delta begins: the spread of the data by default, which suits starts from afar.
    `chunk` members are worked on at once, which bounds the memory.
    """
    deltas = _stages(first_delta or float(np.std(problem.log_loss)) or 1.0, problem.delta)
    with jax.enable_x64(True):
        parts = []
        for first in range(0, len(starts), chunk):
            member = slice(first, first + chunk)
            parts.append(
                _minimise(
                    problem.law,
                    jnp.asarray(starts[member], jnp.float64),
                    jnp.asarray(weights[member], jnp.float64),
                    jnp.asarray(problem.inputs, jnp.float64),
                    jnp.asarray(problem.log_loss, jnp.float64),
                    jnp.asarray(deltas, jnp.float64),
                    jnp.asarray(problem.law.lower(problem.log_loss), jnp.float64),
                )
            )
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def _stages(first: float, last: float) -> np.ndarray:
    """Deltas from `first` down to `last`, by factors of about 3."""
    if not np.isfinite(last):
        return np.array([last])
    return np.geomspace(max(first, last), last, 1 + math.ceil(max(0.0, math.log(first / last, 3))))


@partial(jax.jit, static_argnums=0)
def _minimise(law: Law, starts: Array, weights: Array, inputs: Array, log_loss: Array, deltas: Array, lower: Array) -> Minimum:
    def objective(theta: Array, weight: Array, delta: Array) -> Array:
        return jnp.sum(weight * huber(log_loss - law.log_loss(theta, inputs), delta))

    def member(theta: Array, weight: Array) -> Minimum:
        def stage(i: Array, theta: Array) -> Array:
            return _newton(partial(objective, weight=weight, delta=deltas[i]), theta, lower, STAGE_ITERATIONS)

        theta = jax.lax.fori_loop(0, deltas.shape[0] - 1, stage, jnp.maximum(theta, lower))
        last = partial(objective, weight=weight, delta=deltas[-1])
        return _describe(last, _newton(last, theta, lower, ITERATIONS), lower)

    return jax.vmap(member)(starts, weights)


def _scaled_eigen(hessian: Array) -> tuple[Array, Array, Array]:
    """Eigenvalues and vectors of the Hessian in coordinates that give it a unit diagonal, and those coordinates' scale."""
    diagonal = jnp.abs(jnp.diagonal(hessian))
    scale = jax.lax.rsqrt(jnp.maximum(diagonal, 1e-30 + 1e-14 * jnp.max(diagonal)))
    values, vectors = jnp.linalg.eigh(hessian * scale[:, None] * scale[None, :])
    return values, vectors, scale


def _derivatives(objective: partial, theta: Array, lower: Array) -> tuple[Array, Array, Array]:
    """Gradient, Hessian and which bounds are active: those directions are taken out, as they cannot be followed."""
    gradient, hessian = jax.grad(objective)(theta), jax.hessian(objective)(theta)
    active = (theta <= lower) & (gradient > 0)
    free = ~active
    hessian = jnp.where(free[:, None] & free[None, :], hessian, 0.0) + jnp.diag(active.astype(theta.dtype))
    return jnp.where(active, 0.0, gradient), hessian, active


def _newton(objective: partial, theta: Array, lower: Array, iterations: int) -> Array:
    """Damped Newton with positive-made eigenvalues, within bounds; stops when no step helps or the decrement is at rounding level."""

    def body(state: tuple[Array, Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array, Array]:
        theta, value, damping, count, _ = state
        gradient, hessian, _ = _derivatives(objective, theta, lower)
        values, vectors, scale = _scaled_eigen(hessian)
        along = vectors.T @ (scale * gradient)
        step = -scale * (vectors @ (along / (jnp.maximum(jnp.abs(values), 1e-13) + damping)))
        moved = jnp.maximum(theta + step, lower)
        trial = objective(moved)
        better = trial < value  # false for a NaN, too
        decrement = 0.5 * jnp.sum(along**2 / jnp.maximum(jnp.abs(values), 1e-13))
        settled = (decrement <= 1e-3 * DECREMENT * value) & (damping < 1e-3)
        stuck = ~better & (damping > 1e8)
        return (
            jnp.where(better, moved, theta),
            jnp.where(better, trial, value),
            jnp.where(better, damping * 0.1, jnp.maximum(damping, 1e-10) * 8),
            count + 1,
            settled | stuck,
        )

    def unfinished(state: tuple[Array, Array, Array, Array, Array]) -> Array:
        return (state[3] < iterations) & ~state[4]

    start = (theta, objective(theta), jnp.asarray(1e-3, theta.dtype), jnp.asarray(0), jnp.asarray(False))
    return jax.lax.while_loop(unfinished, body, start)[0]


def _describe(objective: partial, theta: Array, lower: Array) -> Minimum:
    gradient, hessian, active = _derivatives(objective, theta, lower)
    values, vectors, scale = _scaled_eigen(hessian)
    along = vectors.T @ (scale * gradient)
    decrement = 0.5 * jnp.sum(along**2 / jnp.maximum(jnp.abs(values), 1e-300))
    least = jnp.min(values)
    return Minimum(theta, objective(theta), decrement, least, jnp.max(values) / jnp.maximum(least, 1e-300), active)


def certified(minimum: Minimum, rows: int) -> np.ndarray:
    """Which members are local optima for certain: decrement at rounding level (or an exact fit) and positive curvature."""
    exact = minimum.objective <= EXACT * rows
    flat = minimum.decrement <= DECREMENT * np.asarray(minimum.objective)
    return np.asarray((flat | exact) & (np.asarray(minimum.curvature) > 0) & np.isfinite(minimum.objective))


def log_loss(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """The law's log loss at every row, in float64."""
    with jax.enable_x64(True):
        return np.asarray(problem.law.log_loss(jnp.asarray(theta, jnp.float64), jnp.asarray(problem.inputs, jnp.float64)))
