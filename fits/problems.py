"""One table of runs as arrays, what a law says at its rows, and the few sizes that arrays are filled up to so that programs are shared."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fits import derivatives
from fits.derivatives import Rows
from fits.laws.base import Law
from fits.objectives import Objective


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """One table of runs as arrays, with the law and the objective to fit to it and the bounds of every parameter."""

    law: Law
    objective: Objective
    inputs: np.ndarray  # (rows, inputs)
    target: np.ndarray  # (rows,), as it is
    low: np.ndarray  # (p,), in the solver's coordinates
    high: np.ndarray

    @property
    def rows(self) -> Rows:
        """The inputs in float64 on the device, filled up to one of few numbers of rows; call it where x64 is on."""
        inputs = np.concatenate([self.inputs, np.repeat(self.inputs[-1:], filled_rows(len(self.inputs)) - len(self.inputs), axis=0)])
        with np.errstate(divide="ignore", invalid="ignore"):
            return Rows(jnp.asarray(inputs, jnp.float64), jnp.asarray(np.log(inputs), jnp.float64))

    @property
    def observed(self) -> np.ndarray:
        """The target as the objective compares it, (rows,)."""
        return np.log(self.target) if self.objective.log else self.target

    @property
    def spread(self) -> float:
        """The scale of the data, on which the lowering of delta begins."""
        return float(np.std(self.observed)) or 1.0


def residuals(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """Target less prediction at every row, on the objective's scale, in float64."""
    return problem.observed - predictions(problem, theta[None])[0]


def predictions(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """What the law says at every row, on the objective's scale, for thetas (M, p): (M, rows)."""
    with jax.enable_x64(True):
        members = jnp.asarray(filled(theta), jnp.float64)
        return np.asarray(_predictions(problem.law, problem.objective.kind, problem.rows, members))[: len(theta), : len(problem.target)]


def jacobian(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """Derivatives of the predictions, on the objective's scale, in the solver's coordinates, (rows, p)."""
    return jacobians(problem, theta[None])[0]


def jacobians(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """The same for thetas (M, p): (M, rows, p)."""
    with jax.enable_x64(True):
        members = jnp.asarray(filled(theta), jnp.float64)
        return np.asarray(_jacobians(problem.law, problem.objective.kind, problem.rows, members))[: len(theta), : len(problem.target)]


@partial(jax.jit, static_argnums=(0, 1))
def _predictions(law: Law, objective: Objective, rows: Rows, theta: Array) -> Array:
    return jax.vmap(partial(derivatives.predictions, law, objective, rows))(theta)


@partial(jax.jit, static_argnums=(0, 1))
def _jacobians(law: Law, objective: Objective, rows: Rows, theta: Array) -> Array:
    return jax.vmap(jax.jacfwd(partial(derivatives.predictions, law, objective, rows)))(theta)


def filled_rows(rows: int) -> int:
    """Tables are filled up to a power of two with rows of no weight, so that tables of other lengths share compiled programs."""
    return max(16, 1 << (rows - 1).bit_length())


def filled_members(members: int) -> int:
    """Arrays are filled up to one of few sizes, so that few programs are compiled; what was filled in is never worked on."""
    if members <= 4096:
        return next(size for size in (1, 8, 64, 512, 4096) if size >= members)
    return 1 << (members - 1).bit_length()


def filled(theta: np.ndarray) -> np.ndarray:
    """Members (M, p) filled up to one of few numbers of them."""
    return fill(theta, len(theta), filled_members(len(theta)))


def fill(array: np.ndarray, members: int, size: int) -> np.ndarray:
    """`array` with its last member repeated up to `size`; one that all members share stays as it is."""
    if len(array) == size or (len(array) == 1 and members != 1):
        return np.asarray(array)
    return np.concatenate([array, np.repeat(array[-1:], size - len(array), axis=0)])
