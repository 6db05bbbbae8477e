"""Elementary functions for laws: NumPy on numbers and arrays, JAX inside a fit, so that one formula serves both."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def _module(*values: Any) -> Any:
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


def exp(value: Any) -> Any:
    return _module(value).exp(value)


def expm1(value: Any) -> Any:
    return _module(value).expm1(value)


def log(value: Any) -> Any:
    return _module(value).log(value)


def log1p(value: Any) -> Any:
    return _module(value).log1p(value)


def log2(value: Any) -> Any:
    return _module(value).log2(value)


def log10(value: Any) -> Any:
    return _module(value).log10(value)


def sqrt(value: Any) -> Any:
    return _module(value).sqrt(value)


def logaddexp(left: Any, right: Any) -> Any:
    return _module(left, right).logaddexp(left, right)


def minimum(left: Any, right: Any) -> Any:
    return _module(left, right).minimum(left, right)


def maximum(left: Any, right: Any) -> Any:
    return _module(left, right).maximum(left, right)


def where(condition: Any, left: Any, right: Any) -> Any:
    return _module(condition, left, right).where(condition, left, right)
