"""Power laws without an irreducible loss: Kaplan et al. 2020 (2001.08361), equations 1.1 to 1.3, 1.5 and 1.6.

Sizes are non-embedding parameters, compute is in PF-days (8.64e19 FLOP). Each scale constant is where its law reaches one nat: N_c
parameters, D_c tokens, C_c PF-days, S_c steps.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from fits.laws import starts
from fits.laws.base import Constants, Inputs, Law, Parameter, PowerTerms, exponent
from fits.laws.maths import exp, log, logaddexp

_SOURCE = "Kaplan et al. 2020, arXiv 2001.08361, equation "
_SLOPES = (0.03, 0.05, 0.075, 0.1, 0.15, 0.22, 0.32)


def _scale(name: str, low: float, high: float) -> Parameter:
    """A count at which a pure power law would reach one nat."""
    return Parameter(name, low=1e-30, high=1e60, log=True, starts=(low, high))


def _one_term(name: str, input: str, scale: Parameter, slope: str, equation: str) -> Law:
    def function(c: Constants, x: Inputs) -> Any:
        return exp(c[slope] * (log(c[scale.name]) - x.log(input)))

    def start_constants(x: Inputs, loss: np.ndarray) -> list[dict[str, float]]:
        # A straight line in logarithms: its fit is the only start needed.
        gradient, level = np.polyfit(x.log(input), np.log(loss), 1)
        exponent_start = max(-gradient, 1e-3)
        return [{scale.name: float(np.exp(np.clip(level / exponent_start, -60, 120))), slope: float(exponent_start)}]

    return Law(
        name=name,
        formula=f"({scale.name} / {input})^{slope}",
        function=function,
        parameters=(scale, exponent(slope, starts=(0.03, 0.3))),
        inputs=(input,),
        start_constants=start_constants,
        source=_SOURCE + equation,
    )


SIZE = _one_term("kaplan-size", "non_embedding_params", _scale("N_c", 1e11, 1e16), "alpha_N", "1.1")
TOKENS = _one_term("kaplan-tokens", "tokens", _scale("D_c", 1e11, 1e16), "alpha_D", "1.2")
COMPUTE = _one_term("kaplan-compute", "pf_days", _scale("C_c", 1e6, 1e11), "alpha_C", "1.3")


def _joint(c: Constants, x: Inputs) -> Any:
    size = c["alpha_N"] / c["alpha_D"] * (log(c["N_c"]) - x.log("non_embedding_params"))
    return exp(c["alpha_D"] * logaddexp(size, log(c["D_c"]) - x.log("tokens")))


def _joint_terms(c: Constants, _: Inputs) -> PowerTerms:
    ratio = c["alpha_N"] / c["alpha_D"]
    return PowerTerms(exp(ratio * log(c["N_c"])), ratio, c["D_c"], 1.0)


def _joint_starts(x: Inputs, loss: np.ndarray) -> list[dict[str, float]]:
    def candidate(alpha_n: float, alpha_d: float) -> tuple[float, dict[str, float]]:
        columns = x.power("non_embedding_params", -alpha_n / alpha_d), x.power("tokens", -1.0)
        a, d_c = starts.nonnegative(columns, loss ** (1 / alpha_d))
        predicted = (a * columns[0] + d_c * columns[1]) ** alpha_d
        n_c = float(np.exp(np.clip(np.log(a) * alpha_d / alpha_n, -60, 120)))
        return starts.distance(loss, predicted), {"N_c": n_c, "D_c": d_c, "alpha_N": alpha_n, "alpha_D": alpha_d}

    return starts.best(candidate(alpha_n, alpha_d) for alpha_n, alpha_d in itertools.product(_SLOPES, _SLOPES))


JOINT = Law(
    name="kaplan-joint",
    formula="((N_c / non_embedding_params)^(alpha_N / alpha_D) + D_c / tokens)^alpha_D",
    function=_joint,
    parameters=(
        _scale("N_c", 1e11, 1e16),
        _scale("D_c", 1e11, 1e16),
        exponent("alpha_N", starts=(0.03, 0.3)),
        exponent("alpha_D", starts=(0.03, 0.3)),
    ),
    inputs=("non_embedding_params", "tokens"),
    start_constants=_joint_starts,
    size="non_embedding_params",
    terms=_joint_terms,
    source=_SOURCE + "1.5 and table 2",
)


def _steps(c: Constants, x: Inputs) -> Any:
    size = exp(c["alpha_N"] * (log(c["N_c"]) - x.log("non_embedding_params")))
    return size + exp(c["alpha_S"] * (log(c["S_c"]) - x.log("steps")))


def _steps_starts(x: Inputs, loss: np.ndarray) -> list[dict[str, float]]:
    def candidate(alpha_n: float, alpha_s: float) -> tuple[float, dict[str, float]]:
        columns = x.power("non_embedding_params", -alpha_n), x.power("steps", -alpha_s)
        a, s = starts.nonnegative(columns, loss)
        scales = (float(np.exp(np.clip(np.log(factor) / slope, -60, 120))) for factor, slope in ((a, alpha_n), (s, alpha_s)))
        constants = dict(zip(("N_c", "S_c"), scales, strict=True), alpha_N=alpha_n, alpha_S=alpha_s)
        return starts.distance(loss, a * columns[0] + s * columns[1]), constants

    return starts.best(candidate(*slopes) for slopes in itertools.product(_SLOPES, (0.2, 0.35, 0.5, 0.65, 0.8, 1.0)))


STEPS = Law(
    name="kaplan-steps",
    formula="(N_c / non_embedding_params)^alpha_N + (S_c / steps)^alpha_S",
    function=_steps,
    parameters=(
        _scale("N_c", 1e11, 1e16),
        _scale("S_c", 1e2, 1e5),
        exponent("alpha_N", starts=(0.03, 0.3)),
        exponent("alpha_S", starts=(0.3, 1.0)),
    ),
    inputs=("non_embedding_params", "steps"),
    start_constants=_steps_starts,
    source=_SOURCE + "1.6; steps are those of a batch far above the critical one",
)

LAWS = (SIZE, TOKENS, COMPUTE, JOINT, STEPS)
