"""What quantisation adds to the loss, in training (with awareness of it) and after; and how long to train in low precision."""

from __future__ import annotations

from typing import Any

from fits.laws import maths
from fits.laws.base import Constants, Inputs, Law, Parameter, amplitude, exponent


def _aware(c: Constants, x: Inputs) -> Any:
    # One value a group has a logarithm of zero, whose own logarithm must stay finite.
    group = maths.log(maths.maximum(maths.log2(x["group"]), 1e-300))
    return c["k"] * maths.exp(c["gamma_D"] * x.log("tokens") + c["gamma_G"] * group - c["gamma_N"] * x.log("params"))


def _after(c: Constants, x: Inputs) -> Any:
    return c["k"] * maths.exp(c["beta"] * x.log("tokens") - c["alpha"] * x.log("params") - c["gamma"] * x.log("bits"))


def _fraction(c: Constants, x: Inputs) -> Any:
    tokens_per_byte = x.log("tokens") - x.log("params") - maths.log(x["bits"] / 8)
    return maths.exp(-c["k"] / maths.maximum(tokens_per_byte, 1e-6))


QAT_ERROR = Law(
    name="qat-error",
    formula="k * tokens^gamma_D * log2(group)^gamma_G / params^gamma_N",
    function=_aware,
    parameters=(
        amplitude("k", (1e-3, 1e2)),
        exponent("gamma_N", (0.05, 0.6)),
        exponent("gamma_D", (0.01, 0.4)),
        exponent("gamma_G", (0.1, 1.5)),
    ),
    inputs=("params", "tokens", "group"),
    output="loss_increase",
    linear=("k",),
    source="Chen et al. 2025, Scaling Law for Quantization-Aware Training, arXiv 2505.14302",
)

POST_TRAINING_ERROR = Law(
    name="post-training-error",
    formula="k * tokens^beta / (params^alpha * bits^gamma)",
    function=_after,
    parameters=(
        amplitude("k", (1e-3, 1e3)),
        exponent("alpha", (0.05, 1.0)),
        exponent("beta", (0.05, 1.0)),
        exponent("gamma", (0.5, 8.0)),
    ),
    inputs=("params", "tokens", "bits"),
    output="loss_increase",
    linear=("k",),
    source="Ouyang et al. 2024, arXiv 2411.17691",
)

QAT_FRACTION = Law(
    name="qat-fraction",
    formula="exp(ln S - k / ln S) / S = exp(-k / ln S), S = tokens / (params * bits / 8) above 1",
    function=_fraction,
    parameters=(Parameter("k", low=1e-3, high=1e3, log=True, starts=(1.0, 20.0)),),
    inputs=("params", "tokens", "bits"),
    output="token_fraction",
    source="Dremov et al. 2025, arXiv 2509.22935",
)

LAWS = (QAT_ERROR, POST_TRAINING_ERROR, QAT_FRACTION)
