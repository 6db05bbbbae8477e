"""Training in floating point of few bits: the penalty by exponent bits, mantissa bits and block size grows with tokens.

So there is a number of tokens beyond which more of them do harm: where the falling tokens term and the rising penalty have equal slopes.
"""

from __future__ import annotations

from typing import Any

from fits.laws import maths
from fits.laws.base import Constants, Inputs, Law, Parameter, amplitude, exponent, irreducible

_FORMAT = ("exponent_bits", "mantissa_bits", "block")


def _fineness(c: Constants, x: Inputs) -> Any:
    """gamma (exponent_bits + 1/2)^delta (mantissa_bits + 1/2)^nu: how little a format of these bits disturbs."""
    wide, fine = maths.log(x["exponent_bits"] + 0.5), maths.log(x["mantissa_bits"] + 0.5)
    return c["gamma"] * maths.exp(c["delta"] * wide + c["nu"] * fine)


def _floating_point(c: Constants, x: Inputs) -> Any:
    size, growth = x.power("params", -c["alpha"]), x.power("tokens", c["beta"])
    penalty = growth * size * maths.log2(x["block"]) / _fineness(c, x)
    return c["E"] + c["n"] * size + c["d"] / growth + penalty


def _critical(c: Constants, x: Inputs) -> Any:
    ratio = c["d"] * x.power("params", c["alpha"]) * _fineness(c, x) / maths.log2(x["block"])
    return maths.exp(maths.log(ratio) / (2 * c["beta"]))


def _format_parameters() -> tuple[Parameter, ...]:
    return (amplitude("gamma", (1e2, 1e7)), exponent("delta", (0.5, 5.0)), exponent("nu", (0.5, 5.0)))


FLOATING_POINT = Law(
    name="floating-point",
    formula=(
        "E + n * params^-alpha + d * tokens^-beta + tokens^beta * params^-alpha * log2(block)"
        " / (gamma * (exponent_bits + 0.5)^delta * (mantissa_bits + 0.5)^nu)"
    ),
    function=_floating_point,
    parameters=(irreducible("E"), amplitude("n"), exponent("alpha"), amplitude("d"), exponent("beta"), *_format_parameters()),
    inputs=("params", "tokens", *_FORMAT),
    linear=("E", "n", "d"),
    size="params",
    source="Sun et al. 2025, Scaling Laws for Floating-Point Quantization Training, arXiv 2501.02423",
)

CRITICAL_TOKENS = Law(
    name="floating-point-critical-tokens",
    formula=(
        "(d * gamma * params^alpha * (exponent_bits + 0.5)^delta * (mantissa_bits + 0.5)^nu / log2(block))^(1 / (2 beta)):"
        " the tokens at which the loss of floating-point is least"
    ),
    function=_critical,
    parameters=(exponent("alpha"), amplitude("d"), exponent("beta"), *_format_parameters()),
    inputs=("params", *_FORMAT),
    output="tokens",
    source="Sun et al. 2025, arXiv 2501.02423",
)

LAWS = (FLOATING_POINT, CRITICAL_TOKENS)
