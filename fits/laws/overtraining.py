"""Loss by compute and over-training: L = E + (a M^eta + b M^-eta) C^-eta, M tokens per parameter and C FLOP.

Gadre et al. 2024 (2403.08540). With C = 6ND this is a Chinchilla law whose two exponents are equal, 2 eta, written so that the
exponent of compute is the same at every M: over-training shifts the line in log C and does not tilt it.
"""

from __future__ import annotations

from typing import Any

from fits.laws.base import Constants, Inputs, Law, amplitude, exponent, irreducible


def _overtraining(c: Constants, x: Inputs) -> Any:
    ratio = x.power("tokens_per_param", c["eta"])
    return c["E"] + (c["a"] * ratio + c["b"] / ratio) * x.power("flops", -c["eta"])


OVERTRAINING = Law(
    name="overtraining",
    formula="E + (a * tokens_per_param^eta + b * tokens_per_param^-eta) * flops^-eta",
    function=_overtraining,
    parameters=(irreducible("E"), amplitude("a"), amplitude("b"), exponent("eta", starts=(0.03, 0.5))),
    inputs=("flops", "tokens_per_param"),
    linear=("E", "a", "b"),
    source="Gadre et al. 2024, arXiv 2403.08540",
)

LAWS = (OVERTRAINING,)
