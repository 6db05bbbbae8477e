"""Mixture-of-experts models by five factors: total and active size, tokens, granularity, and the share of shared experts."""

from __future__ import annotations

from typing import Any

from fits.laws.base import Constants, Inputs, Law, amplitude, exponent, free, irreducible


def _five(c: Constants, x: Inputs) -> Any:
    granularity, shared = x["granularity"], x["shared_ratio"]
    total, active = x.power("params", -c["alpha"]), x.power("active_params", -c["alpha"])
    layout = c["e"] * granularity + c["f"] / granularity + c["m"] * shared**2 + c["n"] * shared
    size = total + c["k"] * active + c["h"] * x["active_params"] / x["params"]
    return layout * size + c["a"] * total + c["b"] * x.power("tokens", -c["beta"]) + c["c"] * active + c["E"]


MOE_FIVE_FACTOR = Law(
    name="moe-five-factor",
    formula=(
        "(e * granularity + f / granularity + m * shared_ratio^2 + n * shared_ratio)"
        " * (params^-alpha + k * active_params^-alpha + h * active_params / params)"
        " + a * params^-alpha + b * tokens^-beta + c * active_params^-alpha + E"
    ),
    function=_five,
    parameters=(
        irreducible("E"),
        amplitude("a"),
        exponent("alpha"),
        amplitude("b"),
        exponent("beta"),
        amplitude("c"),
        amplitude("e", (1e-2, 10.0)),
        amplitude("f", (1e-1, 1e2)),
        amplitude("m", (1e-1, 1e2)),
        free("n", (-10.0, 0.0), low=-1e3, high=1e3),
        amplitude("k", (1e-4, 1.0)),
        amplitude("h", (1e-3, 1.0)),
    ),
    inputs=("params", "tokens", "active_params", "granularity", "shared_ratio"),
    linear=("E", "a", "b", "c", "e", "f", "m"),
    source="Zhao et al. 2025, a comprehensive law of mixtures of experts, arXiv 2509.23678",
)

LAWS = (MOE_FIVE_FACTOR,)
