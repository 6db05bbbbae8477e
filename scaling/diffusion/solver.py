"""The general solver behind the closed forms: where an increasing function reaches a target, for whole arrays at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from scaling.errors import InputError

_HALVINGS = 80  # of a bracket of a few hundred: below the rounding of a float64


def namespace(*values: Any) -> Any:
    """jax.numpy where a value is a JAX array or is being traced, NumPy otherwise."""
    for value in values:
        if hasattr(value, "__array_namespace__") and not isinstance(value, np.ndarray | np.generic):
            return value.__array_namespace__()
    return np


def invert(function: Callable[[Any], Any], target: Any, low: float, high: float) -> Any:
    """x in [low, high] with function(x) = target, by bisection. Infinite above function(high), minus infinity below function(low).

    InputError where the function falls over the bracket or is not a number there.
    """
    target = np.asarray(target, float)
    bottom, top = (np.broadcast_to(np.asarray(function(np.full(target.shape, end)), float), target.shape) for end in (low, high))
    if not bool((bottom <= top).all()):
        raise InputError(
            f"solver: the function must increase from {low:g} to {high:g}, but goes from {np.ravel(bottom)[0]:g} to {np.ravel(top)[0]:g}"
        )
    left, right = np.full(target.shape, float(low)), np.full(target.shape, float(high))
    for _ in range(_HALVINGS):
        middle = (left + right) / 2
        reached = function(middle) >= target
        left, right = np.where(reached, left, middle), np.where(reached, middle, right)
    return np.where(target > top, np.inf, np.where(target < bottom, -np.inf, (left + right) / 2))[()]
