"""Two power terms with one exponent for both: optimal sizes and tokens grow alike, as the square root of compute.

This is the single-epoch law inside Muennighoff et al. 2023 (2305.16264), who tie the exponents because their grid does not tell them apart.
"""

from __future__ import annotations

from typing import Any

from fits.laws.base import Constants, Inputs, Law, Power, PowerTerms, amplitude, exponent, irreducible


def _tied(name: str, size: str) -> Law:
    def function(c: Constants, x: Inputs) -> Any:
        return c["E"] + c["A"] * x.power(size, -c["alpha"]) + c["B"] * x.power("tokens", -c["alpha"])

    return Law(
        name=name,
        formula=f"E + A * {size}^-alpha + B * tokens^-alpha",
        function=function,
        parameters=(irreducible("E"), amplitude("A"), amplitude("B"), exponent("alpha")),
        inputs=(size, "tokens"),
        linear=("E", "A", "B"),
        size=size,
        terms=lambda c, _: PowerTerms(c["A"], c["alpha"], c["B"], c["alpha"]),
        powers=(Power("E"), Power("A", "alpha", size), Power("B", "alpha", "tokens")),
        source="Muennighoff et al. 2023, arXiv 2305.16264, the law that repetition is added to",
    )


TIED = _tied("chinchilla-tied", "params")
TIED_NON_EMBEDDING = _tied("chinchilla-tied-non-embedding", "non_embedding_params")

LAWS = (TIED, TIED_NON_EMBEDDING)
