"""Efficiency leverage of a mixture of experts: the compute of a dense model over that of the mixture, at equal loss.

The bases of the logarithms were not stated in what was read. log10 for compute and log2 for granularity are inferred: with them the published
constants give both published anchors (best granularity 8 to 12; above 7 at 3.4% activation, granularity 12 and 1e22 FLOP).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from fits.laws import maths
from fits.laws.base import Constants, Inputs, Law, Parameter, free
from fits.laws.routed import least_squares, saturated

_LN2, _LN10 = math.log(2), math.log(10)


def _leverage(c: Constants, x: Inputs) -> Any:
    log_activated = maths.log(saturated(x["activation_ratio"], c["A_start"], c["A_max"]))
    granularity = x.log("granularity") / _LN2
    power = c["a"] + c["d"] * x.log("flops") / _LN10 + c["gamma"] * granularity**2 + c["beta"] * granularity
    return maths.exp(log_activated * power)


def _starts(x: Inputs, multiplier: np.ndarray) -> list[dict[str, float]]:
    """With both ends of the saturation given, the logarithm is linear in the rest."""
    granularity, compute, found = np.log2(x["granularity"]), np.log10(x["flops"]), []
    for start, most in itertools.product((1e-3, 1e-2, 3e-2), (10.0, 1e6)):
        log_activated = np.log(saturated(x["activation_ratio"], start, most))
        columns = [log_activated, log_activated * compute, log_activated * granularity**2, log_activated * granularity]
        rest = least_squares(columns, np.log(multiplier))
        found.append(dict(zip(("a", "d", "gamma", "beta"), rest, strict=True)) | {"A_start": start, "A_max": most})
    return found


MOE_LEVERAGE = Law(
    name="moe-leverage",
    formula=(
        "X^(a + d * log10(flops) + gamma * log2(granularity)^2 + beta * log2(granularity)), "
        "1/X = 1/(activation_ratio + (1/A_start - 1/A_max)^-1) + 1/A_max"
    ),
    function=_leverage,
    parameters=(
        free("a", (0.0, 2.0)),
        free("d", (-0.15, 0.0)),
        free("gamma", (0.0, 0.05)),
        free("beta", (-0.3, 0.0)),
        Parameter("A_start", low=1e-6, high=10.0, log=True, starts=(1e-3, 5e-2)),
        # Activation ratios end at 1, so an upper end far above it is no end at all.
        Parameter("A_max", low=1.0, high=1e60, log=True, starts=(10.0, 1e6)),
    ),
    inputs=("activation_ratio", "granularity", "flops"),
    output="compute_multiplier",
    start_constants=_starts,
    source="Towards Greater Leverage, arXiv 2507.17702",
)

LAWS = (MOE_LEVERAGE,)
