"""Mixture-of-experts models whose size, tokens and number of experts all vary: both power terms bend with the number of experts."""

from __future__ import annotations

from typing import Any

from fits.laws import maths
from fits.laws.base import Constants, Inputs, Law, PowerTerms, amplitude, free, irreducible
from fits.laws.routed import expert_parameters, saturated_experts


def _terms(c: Constants, x: Inputs) -> PowerTerms:
    log_experts = maths.log(saturated_experts(c, x))
    return PowerTerms(
        a=c["a"] * maths.exp(c["delta"] * log_experts),
        alpha=-(c["alpha"] + c["gamma"] * log_experts),
        b=c["b"] * maths.exp(c["omega"] * log_experts),
        beta=-(c["beta"] + c["zeta"] * log_experts),
    )


def _joint(c: Constants, x: Inputs) -> Any:
    terms = _terms(c, x)
    return c["E"] + terms.a * x.power("active_params", -terms.alpha) + terms.b * x.power("tokens", -terms.beta)


MOE_JOINT = Law(
    name="moe-joint",
    formula=(
        "E + a * X^delta * active_params^(alpha + gamma ln X) + b * X^omega * tokens^(beta + zeta ln X), "
        "1/X = 1/(experts - 1 + (1/E_start - 1/E_max)^-1) + 1/E_max"
    ),
    function=_joint,
    parameters=(
        irreducible("E"),
        amplitude("a", (1.0, 1e4)),
        amplitude("b", (1.0, 1e4)),
        free("alpha", (-0.45, -0.1), low=-20, high=-1e-3),
        free("beta", (-0.45, -0.1), low=-20, high=-1e-3),
        free("delta", (-0.6, 0.3), low=-20, high=20),
        free("gamma", (-0.02, 0.03), low=-2, high=2),
        free("omega", (-0.3, 0.8), low=-20, high=20),
        free("zeta", (-0.04, 0.02), low=-2, high=2),
        *expert_parameters(),
    ),
    inputs=("active_params", "tokens", "experts"),
    linear=("E", "a", "b"),
    size="active_params",
    terms=_terms,
    source="Ludziejewski et al. 2025, Joint MoE Scaling Laws, arXiv 2502.05172",
)

LAWS = (MOE_JOINT,)
