"""One power term above a limit: L = E + A x^-alpha, of size, tokens or compute alone."""

from __future__ import annotations

from typing import Any

from fits.laws.base import Constants, Inputs, Law, Power, amplitude, exponent, irreducible


def saturating(name: str, input: str) -> Law:
    """The law of one input, in nats/token."""

    def function(c: Constants, x: Inputs) -> Any:
        return c["E"] + c["A"] * x.power(input, -c["alpha"])

    return Law(
        name=name,
        formula=f"E + A * {input}^-alpha",
        function=function,
        parameters=(irreducible("E"), amplitude("A"), exponent("alpha", starts=(0.03, 1.0))),
        inputs=(input,),
        linear=("E", "A"),
        powers=(Power("E"), Power("A", "alpha", input)),
        source="a power law with a limit",
    )


LAWS = (
    saturating("saturating-size", "params"),
    saturating("saturating-tokens", "tokens"),
    saturating("saturating-compute", "flops"),
)
