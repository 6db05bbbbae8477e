"""What a fit minimises: a sum over rows of weight * h(residual), for residuals of the loss or of its logarithm.

h is Huber's function: r^2 / 2 within `delta` and delta (|r| - delta / 2) outside. An infinite delta makes it least squares, zero makes it
the absolute value, and `over` counts residuals of over-predicted rows that many times, which with delta zero is a quantile regression.
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jax import Array

from fits.errors import InputError

_NAMES = {
    "log-huber": "Huber of the log residual, threshold delta (Hoffmann et al. 2022)",
    "huber": "Huber of the raw residual, threshold delta",
    "log-squared": "half the squared log residual",
    "squared": "half the squared raw residual",
    "log-absolute": "absolute log residual (L1)",
    "absolute": "absolute raw residual (L1)",
    "log-asymmetric": "absolute log residual, rows above the data counted `over` times",
    "asymmetric": "absolute raw residual, rows above the data counted `over` times",
}
OBJECTIVES = tuple(_NAMES)


@dataclasses.dataclass(frozen=True)
class Objective:
    """One way to measure a misfit; hashable, so that compiled programs are kept by it."""

    name: str
    log: bool
    delta: float
    over: float = 1.0

    @property
    def kind(self) -> Objective:
        """The same without name and delta, which a compiled program takes as numbers: what programs are kept by."""
        return Objective("", self.log, 0.0, self.over)

    @property
    def smooth(self) -> bool:
        """Whether it has a gradient everywhere."""
        return self.delta > 0


def objective(name: str, delta: float = 1e-3, over: float = 1.0) -> Objective:
    """The objective called `name`; `delta` is for the Huber kinds, `over` for the asymmetric ones. Raises InputError."""
    if name not in _NAMES:
        raise InputError(f"objective {name!r} is not known; it is one of {', '.join(_NAMES)}")
    if not (math.isfinite(delta) and delta > 0):
        raise InputError(f"delta must be positive and finite, got {delta}")
    if not (math.isfinite(over) and over > 0):
        raise InputError(f"over must be positive and finite, got {over}")
    kind = name.removeprefix("log-")
    threshold = {"huber": delta, "squared": math.inf, "absolute": 0.0, "asymmetric": 0.0}[kind]
    return Objective(name, name.startswith("log-"), threshold, over if kind == "asymmetric" else 1.0)


def huber(residual: Array, delta: Array) -> Array:
    """Huber's function; finite for an infinite delta."""
    size = jnp.abs(residual)
    inside = jnp.minimum(size, delta)
    # An infinite delta times zero is not zero, hence the branch that never multiplies by it.
    return 0.5 * inside**2 + jnp.where(size > delta, jnp.where(jnp.isfinite(delta), delta, 0.0) * (size - inside), 0.0)


def sides(residual: Array, over: float) -> Array:
    """How often a row counts by the side on which it lies: a negative residual is an over-prediction."""
    return jnp.where(residual < 0, over, 1.0)
