"""Laws of two power terms: Chinchilla, the same with one exponent for both, and with an outer exponent.

L = E + (A N^-alpha + B D^-beta)^k. With k = 1 this is equation 2 of Hoffmann et al. 2022 (arXiv 2203.15556). An outer exponent is fitted by
Busbridge et al. 2025 (2502.08606, supervised law), xLSTM Scaling Laws (2510.02228) and Skaling (2608.07222).
"""

from __future__ import annotations

from typing import Any

from fits.laws.base import Constants, Inputs, Law, Power, PowerTerms, amplitude, exponent, irreducible


def _two_terms(c: Constants, x: Inputs) -> Any:
    return c["E"] + c["A"] * x.power("params", -c["alpha"]) + c["B"] * x.power("tokens", -c["beta"])


def _terms(c: Constants, _: Inputs) -> PowerTerms:
    return PowerTerms(c["A"], c["alpha"], c["B"], c["beta"])


CHINCHILLA = Law(
    name="chinchilla",
    formula="E + A * params^-alpha + B * tokens^-beta",
    function=_two_terms,
    parameters=(irreducible("E"), amplitude("A"), amplitude("B"), exponent("alpha"), exponent("beta")),
    inputs=("params", "tokens"),
    linear=("E", "A", "B"),
    size="params",
    terms=_terms,
    powers=(Power("E"), Power("A", "alpha", "params"), Power("B", "beta", "tokens")),
    source="Hoffmann et al. 2022, arXiv 2203.15556, equation 2",
)

LAWS = (CHINCHILLA,)
