"""Training on repeated data: Muennighoff et al. 2023 (2305.16264).

L = E + A N'^-alpha + B D'^-beta with D' = U_D + U_D R_D (1 - exp(-(D/U_D - 1)/R_D)), U_D the unique tokens seen: an epoch is worth less than the one before
it, and all epochs together no more than (1 + R_D) U_D. Parameters beyond what the unique tokens call for saturate likewise, from
U_N = N*(U_D), the optimal size for U_D tokens of fresh data.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from fits.laws import starts
from fits.laws.base import Constants, Inputs, Law, Parameter, amplitude, exponent, irreducible
from fits.laws.maths import exp, expm1, log, log1p, minimum

NO_LIMIT = 1e30  # unique tokens of a call that names none: more than any training sees
_LARGEST = 50.0  # e-folds of repetition beyond which nothing changes and exp would overflow
_SLOPES = (0.15, 0.25, 0.35, 0.45, 0.6)


def _log_effective(log_seen: Any, log_pool: Any, scale: Any) -> Any:
    """log of U + U R (1 - exp(-(seen/U - 1)/R)), U the lesser of what is seen and the pool, R the scale."""
    log_unique = minimum(log_seen, log_pool)
    repeats = expm1(minimum(log_seen - log_unique, _LARGEST))
    return log_unique + log1p(-scale * expm1(-repeats / scale))


def _log_optimal_params(c: Constants, alpha: Any, beta: Any, log_tokens: Any) -> Any:
    """log N*(D): the size whose optimal fresh tokens are D."""
    log_g = (log(alpha * c["A"]) - log(beta * c["B"])) / (alpha + beta)
    return log_g + beta / alpha * (log_tokens + log_g)


def _repetition(name: str, second: str) -> Law:
    def function(c: Constants, x: Inputs) -> Any:
        alpha, beta = c["alpha"], c[second]
        log_unique = minimum(x.log("tokens"), x.log("unique_tokens"))
        tokens = _log_effective(x.log("tokens"), x.log("unique_tokens"), c["R_D"])
        params = _log_effective(x.log("params"), _log_optimal_params(c, alpha, beta, log_unique), c["R_N"])
        return c["E"] + exp(log(c["A"]) - alpha * params) + exp(log(c["B"]) - beta * tokens)

    def candidate(x: Inputs, loss: np.ndarray, slopes: tuple[float, float], r_d: float) -> tuple[float, list[float]]:
        # The excess of parameters is left out here: it depends on A and B themselves.
        tokens = _log_effective(x.log("tokens"), x.log("unique_tokens"), r_d)
        columns = np.ones(len(loss)), x.power("params", -slopes[0]), np.exp(-slopes[1] * tokens)
        factors = starts.nonnegative(columns, loss)
        return starts.distance(loss, np.stack(columns, axis=-1) @ factors), [*factors, *slopes, r_d]

    def start_constants(x: Inputs, loss: np.ndarray) -> list[dict[str, float]]:
        pairs = itertools.product(_SLOPES, _SLOPES) if second == "beta" else ((slope, slope) for slope in _SLOPES)
        found = [candidate(x, loss, slopes, r_d) for slopes, r_d in itertools.product(pairs, (4.0, 15.0, 60.0))]
        names = ("E", "A", "B", "alpha", "beta", "R_D")
        named = [(apart, {key: float(value) for key, value in zip(names, values, strict=True)}) for apart, values in found]
        kept = starts.best(named, 8)
        if second == "alpha":
            kept = [{key: value for key, value in constants.items() if key != "beta"} for constants in kept]
        return [constants | {"R_N": r_n} for constants in kept for r_n in (3.0, 10.0, 40.0)]

    exponents = (exponent("alpha"),) if second == "alpha" else (exponent("alpha"), exponent("beta"))
    return Law(
        name=name,
        formula=(
            f"E + A * N'^-alpha + B * D'^-{second}, D' = U * (1 + R_D * (1 - exp(-(tokens/U - 1) / R_D))), U = min(tokens, unique_tokens), "
            "N' likewise from params, U_N = min(params, N*(U)) and R_N"
        ),
        function=function,
        parameters=(irreducible("E"), amplitude("A"), amplitude("B"), *exponents, _scale("R_D"), _scale("R_N")),
        inputs=("params", "tokens", "unique_tokens"),
        start_constants=start_constants,
        size="params",
        typical=(("unique_tokens", NO_LIMIT),),
        source="Muennighoff et al. 2023, arXiv 2305.16264",
    )


def _scale(name: str) -> Parameter:
    """Repetitions over which most of the value of repeating is spent."""
    return Parameter(name, low=1e-3, high=1e6, log=True, starts=(2.0, 60.0))


DATA_CONSTRAINED = _repetition("data-constrained", "beta")
DATA_CONSTRAINED_TIED = _repetition("data-constrained-tied", "alpha")

LAWS = (DATA_CONSTRAINED, DATA_CONSTRAINED_TIED)
