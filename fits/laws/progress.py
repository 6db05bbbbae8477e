"""Algorithmic progress: a loss law with a year in it, what it says compute is worth over time, and the frontier of an optimiser.

Ho et al. 2024 (2403.05812): N and D count for exp(alpha_year/alpha_param t) and exp(beta_year/beta_data t) of themselves after t years. Sizes and tokens are
relative to the smallest of the survey, years are counted from its earliest model.
"""

from __future__ import annotations

import math
from typing import Any

from fits.laws.base import Constants, Inputs, Law, Parameter, exponent, free
from fits.laws.maths import exp
from fits.laws.powers import power_law


def _augmented(c: Constants, x: Inputs) -> Any:
    size = c["alpha_const"] - c["alpha_year"] * x["year"] - c["alpha_param"] * x.log("relative_params")
    data = c["beta_const"] - c["beta_year"] * x["year"] - c["beta_data"] * x.log("relative_tokens")
    return exp(size) + exp(data)


def _effective_compute(c: Constants, x: Inputs) -> Any:
    return exp((c["alpha_year"] / c["alpha_param"] + c["beta_year"] / c["beta_data"]) * x["year"])


def _doubling(c: Constants, x: Inputs) -> Any:
    return exp(math.log(2.0) * x["year"] / c["doubling_years"])


def _rate(name: str) -> Parameter:
    return Parameter(name, low=1e-6, high=10.0, log=True, starts=(1e-3, 0.1))


_RATES = (_rate("alpha_year"), exponent("alpha_param", starts=(0.02, 0.3)), _rate("beta_year"), exponent("beta_data", starts=(0.02, 0.3)))

AUGMENTED = Law(
    name="progress-loss",
    formula=(
        "exp(alpha_const - alpha_year * year - alpha_param * log(relative_params)) "
        "+ exp(beta_const - beta_year * year - beta_data * log(relative_tokens))"
    ),
    function=_augmented,
    parameters=(free("alpha_const", low=-20.0, high=20.0), free("beta_const", low=-20.0, high=20.0), *_RATES),
    inputs=("relative_params", "relative_tokens", "year"),
    source="Ho et al. 2024, arXiv 2403.05812, model 7",
)

# The two ratios alone are identified: curves of this law are computed from the constants of `AUGMENTED`, not fitted.
EFFECTIVE_COMPUTE = Law(
    name="progress-effective-compute",
    formula="exp((alpha_year / alpha_param + beta_year / beta_data) * year)",
    function=_effective_compute,
    parameters=_RATES,
    inputs=("year",),
    output="compute_multiplier",
    source="Ho et al. 2024, arXiv 2403.05812: effective parameters times effective tokens",
)

DOUBLING = Law(
    name="doubling",
    formula="2^(year / doubling_years)",
    function=_doubling,
    parameters=(Parameter("doubling_years", low=1e-3, high=1e3, log=True, starts=(0.2, 5.0)),),
    inputs=("year",),
    output="compute_multiplier",
    source="growth by a constant factor a year",
)

COMPUTE_POWER = power_law(
    "power-of-pf-days", "loss", "A", {"pf_days": "a"}, "Liu et al. 2025 (Muon), arXiv 2502.16982: a frontier without an irreducible loss"
)

LAWS = (AUGMENTED, EFFECTIVE_COMPUTE, DOUBLING, COMPUTE_POWER)
