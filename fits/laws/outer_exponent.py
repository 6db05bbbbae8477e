"""Two power terms under an outer exponent: L = E + (A N^-alpha + B D^-beta)^k.

With k = 1 this is the Chinchilla law. An outer exponent leaves the optimal allocation where the inner exponents put it, and lets the
reducible loss fall more slowly than they say: Busbridge et al. 2025 (2502.08606, supervised law), Beck et al. 2025 (2510.02228) and Videau et
al. 2026 (2608.07222) find k of 0.2 to 0.5 and a smaller E than with k = 1.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from fits.laws import starts
from fits.laws.base import Constants, Inputs, Law, PowerTerms, amplitude, exponent, irreducible
from fits.laws.maths import exp, log, logaddexp

_FLOORS = (0.02, 0.3, 0.5, 0.7, 0.85)  # E over the least loss
_OUTER = (0.25, 0.5, 1.0)
_SLOPES = (0.06, 0.11, 0.18, 0.3, 0.45)  # inner exponent times outer exponent


def _outer(name: str, size: str) -> Law:
    def function(c: Constants, x: Inputs) -> Any:
        inner = logaddexp(log(c["A"]) - c["alpha"] * x.log(size), log(c["B"]) - c["beta"] * x.log("tokens"))
        return c["E"] + exp(c["k"] * inner)

    def candidate(x: Inputs, loss: np.ndarray, floor: float, k: float, slopes: tuple[float, float]) -> tuple[float, dict[str, float]]:
        irreducible_loss, (alpha, beta) = floor * loss.min(), (slope / k for slope in slopes)
        columns = x.power(size, -alpha), x.power("tokens", -beta)
        a, b = starts.nonnegative(columns, (loss - irreducible_loss) ** (1 / k))
        predicted = irreducible_loss + (a * columns[0] + b * columns[1]) ** k
        return starts.distance(loss, predicted), {"E": irreducible_loss, "A": a, "B": b, "alpha": alpha, "beta": beta, "k": k}

    def start_constants(x: Inputs, loss: np.ndarray) -> list[dict[str, float]]:
        grid = itertools.product(_FLOORS, _OUTER, itertools.product(_SLOPES, _SLOPES))
        return starts.best(candidate(x, loss, floor, k, slopes) for floor, k, slopes in grid)

    return Law(
        name=name,
        formula=f"E + (A * {size}^-alpha + B * tokens^-beta)^k",
        function=function,
        parameters=(
            irreducible("E"),
            amplitude("A", starts=(1e1, 1e6)),
            amplitude("B", starts=(1e1, 1e6)),
            exponent("alpha", starts=(0.2, 0.8)),
            exponent("beta", starts=(0.2, 0.8)),
            exponent("k", starts=(0.2, 1.0), low=1e-2),
        ),
        inputs=(size, "tokens"),
        start_constants=start_constants,
        size=size,
        terms=lambda c, _: PowerTerms(c["A"], c["alpha"], c["B"], c["beta"]),
        source="Busbridge et al. 2025, arXiv 2502.08606 (supervised law); Beck et al. 2025, 2510.02228; Videau et al. 2026, 2608.07222",
    )


OUTER_EXPONENT = _outer("outer-exponent", "params")
OUTER_EXPONENT_NON_EMBEDDING = _outer("outer-exponent-non-embedding", "non_embedding_params")

LAWS = (OUTER_EXPONENT, OUTER_EXPONENT_NON_EMBEDDING)
