"""Routed models at a fixed number of tokens: the loss by active size and number of experts, which saturates at both ends.

log10 L is bilinear in log10 N and log10 of a saturating number of experts. The base 10 is inferred, not read: with it one expert gives the
loss of the paper's dense law, with base e it does not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fits.laws import maths
from fits.laws.base import Constants, Inputs, Law, Parameter, free

_LN10 = math.log(10)


def saturated(count: Any, start: Any, most: Any) -> Any:
    """A count that reads `start` at zero, grows as itself in between, and never passes `most`.

    1/result = 1/(count + (1/start - 1/most)^-1) + 1/most. The inner inverse is what makes the result exactly `start` at zero.
    """
    gap = maths.maximum(1 / start - 1 / most, 1e-12)
    return 1 / (1 / (count + 1 / gap) + 1 / most)


def saturated_experts(c: Constants, x: Inputs) -> Any:
    """The experts that count: E_start for one expert, at most E_max."""
    return saturated(x["experts"] - 1, c["E_start"], c["E_max"])


def expert_parameters() -> tuple[Parameter, Parameter]:
    """The two ends of the saturation."""
    return (
        Parameter("E_start", low=1e-3, high=1e3, log=True, starts=(1.0, 5.0)),
        Parameter("E_max", low=1.0, high=1e20, log=True, starts=(30.0, 1000.0)),
    )


def _routed(c: Constants, x: Inputs) -> Any:
    size, experts = x.log("active_params") / _LN10, maths.log(saturated_experts(c, x)) / _LN10
    return maths.exp(_LN10 * (c["a"] * size + c["b"] * experts + c["c"] * size * experts + c["d"]))


def _starts(x: Inputs, loss: np.ndarray) -> list[dict[str, float]]:
    """With both ends of the saturation given, the logarithm is linear in the rest."""
    size, found = np.log10(x["active_params"]), []
    for start, most in itertools.product((1.0, 2.0, 4.0), (30.0, 100.0, 300.0, 1000.0)):
        experts = np.log10(saturated(x["experts"] - 1, start, most))
        rest = least_squares([size, experts, size * experts, np.ones_like(size)], np.log10(loss))
        found.append(dict(zip("abcd", rest, strict=True)) | {"E_start": start, "E_max": most})
    return found


def least_squares(columns: list[np.ndarray], target: np.ndarray) -> list[float]:
    """Coefficients of the columns that come nearest to the target."""
    return np.linalg.lstsq(np.stack(columns, axis=1), target)[0].tolist()


def dense_equivalent(constants: Mapping[str, float], active_params: Any, experts: Any) -> Any:
    """The active parameters with one expert that reach the loss of `active_params` with `experts`, for constants of `routed`."""
    c = constants
    size, many = np.log10(active_params), np.log10(saturated(np.asarray(experts, float) - 1, c["E_start"], c["E_max"]))
    one = math.log10(c["E_start"])
    return 10 ** ((c["a"] * size + c["b"] * (many - one) + c["c"] * size * many) / (c["a"] + c["c"] * one))


ROUTED = Law(
    name="routed",
    formula=(
        "10^(a * log10(active_params) + b * log10(X) + c * log10(active_params) * log10(X) + d), "
        "1/X = 1/(experts - 1 + (1/E_start - 1/E_max)^-1) + 1/E_max"
    ),
    function=_routed,
    parameters=(
        free("a", (-0.2, 0.0)),
        free("b", (-0.3, 0.0)),
        free("c", (0.0, 0.03)),
        free("d", (0.5, 1.5)),
        *expert_parameters(),
    ),
    inputs=("active_params", "experts"),
    start_constants=_starts,
    source="Clark et al. 2022, Unified Scaling Laws for Routed Language Models, arXiv 2202.01169",
)

LAWS = (ROUTED,)
