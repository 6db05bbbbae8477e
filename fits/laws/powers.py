"""Products of powers: factor * x1^p1 * x2^p2, the form of most rules for sizes, tokens, batches and learning rates."""

from __future__ import annotations

from typing import Any

import numpy as np

from fits.laws.base import Constants, Inputs, Law, amplitude, free
from fits.laws.maths import exp, log


def power_law(name: str, output: str, factor: str, exponents: dict[str, str], source: str) -> Law:
    """factor times every input to its exponent; `exponents` maps inputs to the names of theirs, of either sign."""

    def log_value(c: Constants, x: Inputs) -> Any:
        return log(c[factor]) + sum(c[power] * x.log(input) for input, power in exponents.items())

    def start_constants(x: Inputs, values: np.ndarray) -> list[dict[str, float]]:
        # Linear in logarithms: least squares gives the only start needed.
        columns = [np.ones(len(values)), *(np.broadcast_to(x.log(input), values.shape) for input in exponents)]
        level, *powers = np.linalg.lstsq(np.stack(columns, axis=-1), np.log(values), rcond=None)[0]
        return [{factor: float(np.exp(np.clip(level, -60, 120)))} | dict(zip(exponents.values(), map(float, powers), strict=True))]

    return Law(
        name=name,
        formula=" * ".join([factor, *(f"{input}^{power}" for input, power in exponents.items())]),
        function=lambda c, x: exp(log_value(c, x)),
        parameters=(amplitude(factor, starts=(1e-6, 1e6)), *(free(power, low=-20.0, high=20.0) for power in exponents.values())),
        inputs=tuple(exponents),
        output=output,
        linear=(factor,),
        start_constants=start_constants,
        source=source,
    )
