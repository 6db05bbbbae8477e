"""Pruned models: a weight that is left counts for more, the more of its neighbours are gone."""

from __future__ import annotations

from typing import Any

from fits.laws import maths
from fits.laws.base import Constants, Inputs, Law, Parameter, amplitude, exponent, irreducible


def _worth(c: Constants, x: Inputs) -> Any:
    """The factor of the size term, a_S (1 - S)^b_S + c_S. A model of which nothing is left has no logarithm, hence the floor."""
    left = maths.log(maths.maximum(1 - x["sparsity"], 1e-12))
    return c["a_S"] * maths.exp(c["b_S"] * left) + c["c_S"]


def _sparse(c: Constants, x: Inputs) -> Any:
    data = maths.exp(c["b_D"] * (maths.log(c["a_D"]) - x.log("tokens")))
    return c["E"] + _worth(c, x) * x.power("nonzero_params", -c["b_N"]) + data


def _dense_equivalent(c: Constants, x: Inputs) -> Any:
    return maths.exp(maths.log((c["a_S"] + c["c_S"]) / _worth(c, x)) / c["b_N"])


def _size_parameters() -> tuple[Parameter, ...]:
    return (amplitude("a_S", (1.0, 1e4)), exponent("b_S", (0.2, 1.5)), amplitude("c_S", (1.0, 1e4)), exponent("b_N"))


WEIGHT_SPARSITY = Law(
    name="weight-sparsity",
    formula="E + (a_S * (1 - sparsity)^b_S + c_S) * nonzero_params^-b_N + (a_D / tokens)^b_D",
    function=_sparse,
    parameters=(irreducible("E"), *_size_parameters(), amplitude("a_D", (1e6, 1e11)), exponent("b_D")),
    inputs=("nonzero_params", "tokens", "sparsity"),
    linear=("E", "a_S", "c_S"),
    source="Frantar et al. 2023, Scaling Laws for Sparsely-Connected Foundation Models, arXiv 2309.08520",
)

DENSE_EQUIVALENT = Law(
    name="weight-sparsity-dense-equivalent",
    formula="((a_S + c_S) / (a_S * (1 - sparsity)^b_S + c_S))^(1 / b_N): parameters of an equal dense model over the non-zero ones",
    function=_dense_equivalent,
    parameters=_size_parameters(),
    inputs=("sparsity",),
    output="params_ratio",
    source="Frantar et al. 2023, arXiv 2309.08520",
)

LAWS = (WEIGHT_SPARSITY, DENSE_EQUIVALENT)
