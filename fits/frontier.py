"""The compute-optimal frontier of a law of size and tokens: for a cost of c * size * tokens FLOP, the split of least loss.

Laws that depend monotonically on A N^-alpha + B D^-beta have it in closed form: G = (alpha A / (beta B))^(1 / (alpha + beta)),
N* = G P^(beta / (alpha + beta)) with P = N D. For others it is searched for, in logarithms. Constants have shape (..., constants), and
everything broadcasts against the leading axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fits.errors import InputError
from fits.laws.base import Inputs, Law, PowerTerms

_GOLDEN = (np.sqrt(5) - 1) / 2
_SMALLEST, _LARGEST = 0.0, 140.0  # natural logs of the size times tokens in which a compute is looked for: up to 1e60


def terms(law: Law, constants: np.ndarray, extras: Mapping[str, Any]) -> PowerTerms | None:
    """The law's two power terms at the given other inputs, or None where it has no such form."""
    if law.terms is None:
        return None
    named = dict(zip(law.constants, np.moveaxis(np.asarray(constants, float), -1, 0), strict=True))
    return law.terms(named, Inputs({name: np.asarray(value, float) for name, value in extras.items()}))


def optimal_size(law: Law, constants: np.ndarray, product: Any, extras: Mapping[str, Any] | None = None) -> np.ndarray:
    """N* where size * tokens = product."""
    needs_size(law)
    t = terms(law, constants, extras or {})
    if t is not None:
        return np.exp((np.log(t.alpha * t.a / (t.beta * t.b)) + t.beta * np.log(product)) / (t.alpha + t.beta))
    return np.exp(_search(law, np.asarray(constants, float), np.log(product), extras or {}))


def loss_on_frontier(law: Law, constants: np.ndarray, product: Any, extras: Mapping[str, Any] | None = None) -> np.ndarray:
    """The least loss where size * tokens = product."""
    size = optimal_size(law, constants, product, extras)
    return _at(law, constants, np.log(size), np.log(product), extras or {})


def product_for(law: Law, constants: np.ndarray, target: Any, extras: Mapping[str, Any] | None = None) -> np.ndarray:
    """The least size * tokens whose frontier loss is `target`; infinite where no amount suffices."""
    needs_size(law)
    shape = np.broadcast_shapes(np.asarray(constants).shape[:-1], np.shape(target))
    low, high = np.full(shape, _SMALLEST), np.full(shape, _LARGEST)
    out_of_reach = loss_on_frontier(law, constants, np.exp(high), extras) >= target
    for _ in range(64):
        middle = (low + high) / 2
        reached = loss_on_frontier(law, constants, np.exp(middle), extras) <= target
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    return np.where(out_of_reach, np.inf, np.exp((low + high) / 2))


def allocation_exponent(law: Law, constants: np.ndarray, product: float = 1e21, extras: Mapping[str, Any] | None = None) -> np.ndarray:
    """a of N* ~ C^a: beta / (alpha + beta), or the local slope at `product` where the law has no closed form."""
    t = terms(law, constants, extras or {})
    if t is not None:
        return t.beta / (t.alpha + t.beta)
    ends = [np.log(optimal_size(law, constants, product * factor, extras)) for factor in (0.5, 2.0)]
    return (ends[1] - ends[0]) / np.log(4.0)


def needs_size(law: Law) -> None:
    """InputError unless the law divides compute between a size and tokens."""
    if law.size is None:
        raise InputError(
            f"law {law.name} does not divide compute between a size and tokens, so it has no optimum; its inputs are {', '.join(law.inputs)}"
        )


def _at(law: Law, constants: np.ndarray, log_size: Any, log_product: Any, extras: Mapping[str, Any]) -> np.ndarray:
    return law.evaluate(constants, {**extras, str(law.size): np.exp(log_size), "tokens": np.exp(log_product - log_size)})


def _search(law: Law, constants: np.ndarray, log_product: Any, extras: Mapping[str, Any]) -> np.ndarray:
    """Golden section over log size, then two parabola steps, which find a smooth minimum to more digits than values can show."""
    shape = np.broadcast_shapes(constants.shape[:-1], np.shape(log_product))
    low, high = np.zeros(shape), np.broadcast_to(np.asarray(log_product, float), shape).copy()
    for _ in range(70):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        lower = _at(law, constants, left, log_product, extras) < _at(law, constants, right, log_product, extras)
        low, high = np.where(lower, low, left), np.where(lower, right, high)
    middle, step = (low + high) / 2, 1e-3
    for _ in range(2):
        below, here, above = (_at(law, constants, middle + shift, log_product, extras) for shift in (-step, 0.0, step))
        bend = below - 2 * here + above
        with np.errstate(divide="ignore", invalid="ignore"):
            move = 0.5 * step * (below - above) / bend
        middle = middle + np.where((bend > 0) & (np.abs(move) < step), move, 0.0)
    return middle
