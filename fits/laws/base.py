"""What a law is to the solver: a function of unconstrained parameters, and the way to and from its named constants."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jax import Array


@dataclasses.dataclass(frozen=True)
class Law:
    """A family of loss laws.

    `log_loss(theta, inputs)` is written in JAX: theta is the vector that the solver moves, `inputs` the
    natural logs of `inputs` in their order, (rows, len(inputs)); it returns log loss, (rows,). `to_constants` and
    `from_constants` (numpy, last axis) translate between theta and the named constants. `starts(inputs, log_loss)` gives
    starting thetas, (starts, len(theta)), for one table of runs; `lower(log_loss)` the least value of every theta, -inf where it
    is free: without it a term that the runs do not show would run away for ever, and look like an optimum.
    """

    name: str
    formula: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    positive: tuple[str, ...]  # constants that a curve must have above zero for its optimum to exist
    log_loss: Callable[[Array, Array], Array]
    to_constants: Callable[[np.ndarray], np.ndarray]
    from_constants: Callable[[np.ndarray], np.ndarray]
    starts: Callable[[np.ndarray, np.ndarray], np.ndarray]
    lower: Callable[[np.ndarray], np.ndarray]
