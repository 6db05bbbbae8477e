"""Smoothly broken power laws: y = a + b x^-c0 prod_i (1 + (x/d_i)^(1/f_i))^(-c_i f_i).

Caballero et al. 2022 (2210.14891). On log axes, above the limit a, the slope is -c0 far left of every break and changes by -c_i at x = d_i,
over a width that f_i sets.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fits.laws import starts
from fits.laws.base import Constants, Inputs, Law, Parameter, amplitude, free, irreducible
from fits.laws.maths import exp, log, logaddexp

_CANDIDATES = 1500


def broken_power_law(breaks: int, input: str = "x", output: str = "loss") -> Law:
    """The law with that many breaks, of one input; its constants are a, b, c0 and c1, d1, f1, c2, ... .

    The limit a is taken to be positive, as for a loss or an error.
    """

    def function(c: Constants, x: Inputs) -> Any:
        shape = log(c["b"]) - c["c0"] * x.log(input)
        for index in range(1, breaks + 1):
            width = c[f"f{index}"]
            # logaddexp(0, z) is log(1 + e^z) without overflow.
            shape = shape - c[f"c{index}"] * width * logaddexp(0.0, (x.log(input) - log(c[f"d{index}"])) / width)
        return c["a"] + exp(shape)

    def start_constants(x: Inputs, values: np.ndarray) -> list[dict[str, float]]:
        random = np.random.Generator(np.random.Philox(key=breaks))
        span = x.log(input).min(), x.log(input).max()
        return starts.best((_candidate(function, _shape(random, breaks, span), x, values) for _ in range(_CANDIDATES)), 32)

    middle = tuple(parameter for index in range(1, breaks + 1) for parameter in _break(index))
    name = f"broken-power-{breaks}" + ("" if input == "x" else f"-{input.replace('_', '-')}")
    return Law(
        name=name if output == "loss" else f"{name}-{output.replace('_', '-')}",
        formula=f"a + b * {input}^-c0" + "".join(f" * (1 + ({input}/d{i})^(1/f{i}))^(-c{i} * f{i})" for i in range(1, breaks + 1)),
        function=function,
        parameters=(irreducible("a"), amplitude("b"), free("c0", starts=(0.0, 0.6), low=-20.0, high=20.0), *middle),
        inputs=(input,),
        output=output,
        linear=("a", "b"),
        start_constants=start_constants,
        source="Caballero et al. 2022, arXiv 2210.14891, equation 1",
    )


def _break(index: int) -> tuple[Parameter, Parameter, Parameter]:
    return (
        free(f"c{index}", low=-20.0, high=20.0),
        Parameter(f"d{index}", low=1e-30, high=1e60, log=True, starts=(1e1, 1e12)),
        Parameter(f"f{index}", low=1e-3, high=1e2, log=True, starts=(0.05, 1.0)),
    )


def _shape(random: np.random.Generator, breaks: int, span: tuple[float, float]) -> dict[str, float]:
    """Slopes, break places in order and widths, drawn over the span of log x."""
    shape = {"c0": random.uniform(0.0, 0.7)}
    places = np.sort(random.uniform(*span, breaks))
    for index, place in enumerate(places, start=1):
        shape |= {
            f"c{index}": random.uniform(-0.7, 0.9),
            f"d{index}": float(np.exp(place)),
            f"f{index}": float(np.exp(random.uniform(-3, 0))),
        }
    return shape


def _candidate(function: Any, shape: dict[str, float], x: Inputs, values: np.ndarray) -> tuple[float, dict[str, float]]:
    unit = function(shape | {"a": 0.0, "b": 1.0}, x)
    a, b = starts.nonnegative((np.ones(len(values)), unit), values)
    return starts.distance(values, a + b * unit), shape | {"a": float(a), "b": float(b)}


LAWS = tuple(broken_power_law(breaks) for breaks in range(4))
