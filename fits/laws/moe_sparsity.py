"""Mixture-of-experts models by their total size and their sparsity, the share of experts that a token does not meet.

Sparsity is clipped to 0..0.98 inside the law, a choice of this package: 0.98 is the sparsest setting against which the published law was held
(there it explained 68% of the variance, against 99% in the sample). The size term falls so slowly with N and so steeply with sparsity that the
compute multiplier of sparse models grows without limit when it is extrapolated (at 95% sparsity a few-fold at 1e20 FLOP, hundreds-fold at
1e24): read no multiplier off this law above about 1e21 FLOP.
"""

from __future__ import annotations

from typing import Any

from fits.laws import maths
from fits.laws.base import Constants, Inputs, Law, amplitude, exponent, free, irreducible

MOST_SPARSE = 0.98


def _sparse(c: Constants, x: Inputs) -> Any:
    log_active = maths.log1p(-maths.minimum(maths.maximum(x["sparsity"], 0.0), MOST_SPARSE))
    dense = c["E"] + c["a"] * x.power("params", -c["alpha"]) + c["b"] * x.power("tokens", -c["beta"])
    mixed = c["d"] * maths.exp(-c["delta"] * log_active) * x.power("params", -c["gamma"])
    return dense + c["c"] * maths.exp(-c["lambda"] * log_active) + mixed


MOE_SPARSITY = Law(
    name="moe-sparsity",
    formula=(
        "E + a * params^-alpha + b * tokens^-beta + c * (1 - S)^-lambda + d * (1 - S)^-delta * params^-gamma, S = min(sparsity, 0.98)"
    ),
    function=_sparse,
    parameters=(
        irreducible("E"),
        amplitude("a"),
        exponent("alpha"),
        amplitude("b"),
        exponent("beta"),
        amplitude("c", (1e-2, 10.0)),
        free("lambda", (-0.5, 0.5), low=-5, high=5),
        amplitude("d", (1e-1, 1e3)),
        free("delta", (-0.5, 0.5), low=-5, high=5),
        exponent("gamma"),
    ),
    # No size to allocate compute by: `params` counts all experts, and what a token costs depends on the sparsity.
    inputs=("params", "tokens", "sparsity"),
    linear=("E", "a", "b", "c", "d"),
    source="Abnar et al. 2025, Parameters vs FLOPs, arXiv 2501.12370",
)

LAWS = (MOE_SPARSITY,)
