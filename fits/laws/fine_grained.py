"""Experts cut into finer pieces: the size term of a two-term law shrinks with granularity, at a fixed expansion rate."""

from __future__ import annotations

from typing import Any

from fits.laws.base import Constants, Inputs, Law, amplitude, exponent, irreducible


def _granular(c: Constants, x: Inputs) -> Any:
    size = (c["g"] * x.power("granularity", -c["gamma"]) + c["A"]) * x.power("non_embedding_params", -c["alpha"])
    return c["E"] + size + c["B"] * x.power("tokens", -c["beta"])


MOE_GRANULARITY = Law(
    name="moe-granularity",
    formula="E + (g * granularity^-gamma + A) * non_embedding_params^-alpha + B * tokens^-beta",
    function=_granular,
    parameters=(
        irreducible("E"),
        amplitude("A"),
        amplitude("B"),
        exponent("alpha"),
        exponent("beta"),
        amplitude("g"),
        exponent("gamma", (0.1, 1.5)),
    ),
    # No size to allocate compute by: the parameters are those of all experts, of which a token meets few.
    inputs=("non_embedding_params", "tokens", "granularity"),
    linear=("E", "A", "B", "g"),
    source="Krajewski et al. 2024, Scaling Laws for Fine-Grained Mixture of Experts, arXiv 2402.07871",
)

LAWS = (MOE_GRANULARITY,)
