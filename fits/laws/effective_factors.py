"""A number format as two factors, on parameters and on tokens, within a law that has an outer exponent.

On the compute-optimal frontier the two multiply compute by their product, whatever the other constants. They are fitted with the constants
of the full-precision law fixed: left free, A and B would take their place.
"""

from __future__ import annotations

from typing import Any

from fits.laws import maths
from fits.laws.base import Constants, Inputs, Law, Parameter, PowerTerms, amplitude, exponent, irreducible


def _terms(c: Constants, _: Inputs) -> PowerTerms:
    size, data = maths.log(c["eff_N"]), maths.log(c["eff_D"])
    a, b = c["A"] * maths.exp(-c["alpha"] * size), c["B"] * maths.exp(-c["beta"] * data)
    return PowerTerms(a, c["alpha"], b, c["beta"])


def _effective(c: Constants, x: Inputs) -> Any:
    terms = _terms(c, x)
    inner = terms.a * x.power("non_embedding_params", -c["alpha"]) + terms.b * x.power("tokens", -c["beta"])
    return c["E"] + maths.exp(c["gamma"] * maths.log(inner))


EFFECTIVE_FACTORS = Law(
    name="effective-factors",
    formula="E + (A * (non_embedding_params * eff_N)^-alpha + B * (tokens * eff_D)^-beta)^gamma",
    function=_effective,
    parameters=(
        irreducible("E"),
        amplitude("A"),
        amplitude("B"),
        exponent("alpha"),
        exponent("beta"),
        exponent("gamma", (0.2, 1.0)),
        Parameter("eff_N", low=1e-4, high=1e2, log=True, starts=(0.2, 1.0)),
        Parameter("eff_D", low=1e-4, high=1e2, log=True, starts=(0.2, 1.0)),
    ),
    inputs=("non_embedding_params", "tokens"),
    linear=("E",),
    size="non_embedding_params",
    terms=_terms,
    source="Castro et al. 2025, Quartet: Native FP4 Training, arXiv 2505.14669",
)

LAWS = (EFFECTIVE_FACTORS,)
