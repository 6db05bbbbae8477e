"""A law whose exponent of tokens depends on size: Farseer (Li et al. 2025, 2506.10972).

L = exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) D^-exp(a1 N^alpha + b1), N non-embedding parameters. The three exponents may have either
sign, and so may the factors.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from fits.laws import starts
from fits.laws.base import Constants, Inputs, Law, free
from fits.laws.maths import exp

_SIZE = "non_embedding_params"
_POWERS = (-0.15, 0.1)  # starts for the three exponents of size


def _stretch(c: Constants, x: Inputs, factor: str, power: str, shift: str) -> Any:
    return c[factor] * x.power(_SIZE, c[power]) + c[shift]


def _farseer(c: Constants, x: Inputs) -> Any:
    slope = exp(_stretch(c, x, "a1", "alpha", "b1"))
    return exp(_stretch(c, x, "a3", "gamma", "b3")) + exp(_stretch(c, x, "a2", "beta", "b2") - slope * x.log("tokens"))


def _start_constants(x: Inputs, loss: np.ndarray) -> list[dict[str, float]]:
    """A law of two terms with exponents of its own, then the terms of size rewritten as exponentials of powers."""

    def two_terms(alpha: float, beta: float) -> tuple[float, dict[str, float]]:
        columns = np.ones(len(loss)), x.power(_SIZE, -alpha), x.power("tokens", -beta)
        factors = starts.nonnegative(columns, loss)
        named = dict(zip(("E", "A", "B"), map(float, factors), strict=True), alpha=alpha, beta=beta)
        return starts.distance(loss, np.stack(columns, axis=-1) @ factors), named

    def rewritten(c: dict[str, float], power: float) -> dict[str, float]:
        of_size = np.log(c["E"] + c["A"] * x.power(_SIZE, -c["alpha"]))
        a3, b3 = np.polyfit(x.power(_SIZE, power), of_size, 1)
        flat = {"a1": 0.0, "alpha": power, "b1": np.log(c["beta"]), "a2": 0.0, "beta": power, "b2": np.log(c["B"])}
        return {key: float(value) for key, value in (flat | {"a3": a3, "gamma": power, "b3": b3}).items()}

    slopes = (0.15, 0.25, 0.35, 0.5)
    found = starts.best((two_terms(*pair) for pair in itertools.product(slopes, slopes)), 8)
    return [rewritten(constants, power) for constants in found for power in _POWERS]


def _terms(index: int, power: str) -> tuple[Any, Any, Any]:
    return (
        free(f"a{index}", low=-1e4, high=1e4),
        free(power, starts=(-0.2, 0.2), low=-1.0, high=1.0),
        free(f"b{index}", low=-1e2, high=1e2),
    )


FARSEER = Law(
    name="farseer",
    formula=f"exp(a3 * {_SIZE}^gamma + b3) + exp(a2 * {_SIZE}^beta + b2) * tokens^(-exp(a1 * {_SIZE}^alpha + b1))",
    function=_farseer,
    parameters=(*_terms(1, "alpha"), *_terms(2, "beta"), *_terms(3, "gamma")),
    inputs=(_SIZE, "tokens"),
    start_constants=_start_constants,
    size=_SIZE,
    source="Li et al. 2025 (Farseer), arXiv 2506.10972",
)

LAWS = (FARSEER,)
