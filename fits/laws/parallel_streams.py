"""Parallel streams: P copies of a model's forward pass with inputs of their own act like more parameters (Chen et al. 2025, arXiv 2505.10475)."""

from __future__ import annotations

from typing import Any

from fits.laws import maths
from fits.laws.base import Constants, Inputs, Law, amplitude, exponent, irreducible

UNIT = 1e9  # A is counted in billions of parameters


def _function(c: Constants, x: Inputs) -> Any:
    effective = x["non_embedding_params"] * (1 + c["k"] * x.log("streams"))
    return c["E"] + maths.exp(c["alpha"] * maths.log(c["A"] * UNIT / effective))


LAWS = (
    Law(
        name="parallel-streams",
        formula="E + (A * 1e9 / (non_embedding_params * (1 + k * ln streams)))^alpha",
        function=_function,
        parameters=(irreducible("E"), amplitude("A", starts=(1e-3, 1e2)), exponent("alpha"), amplitude("k", starts=(1e-2, 2.0))),
        inputs=("non_embedding_params", "streams"),
        typical=(("streams", 1.0),),
        source="Chen et al. 2025, arXiv 2505.10475, parallel scaling law",
    ),
)
