"""Number formats as lost parameters: few bits in weights, activations or cache leave a model that counts as a smaller one.

N_eff = N (1 - e^(-P_w / gamma_w)) (1 - e^(-P_a / gamma_a)) (1 - e^(-P_kv / gamma_kv)), P in bits; and what it costs to round the weights
after training, which grows with the tokens trained on.
"""

from __future__ import annotations

from typing import Any

from fits.laws import maths
from fits.laws.base import Constants, Inputs, Law, Parameter, PowerTerms, amplitude, exponent, irreducible

_BITS = (("gamma_w", "bits_weights"), ("gamma_a", "bits_activations"), ("gamma_kv", "bits_cache"))
_INPUTS = ("non_embedding_params", "tokens", *(bits for _, bits in _BITS))
_SIXTEEN = tuple((bits, 16.0) for _, bits in _BITS)


def _sensitivities() -> tuple[Parameter, ...]:
    return tuple(Parameter(name, low=1e-2, high=1e2, log=True, starts=(0.3, 6.0)) for name, _ in _BITS)


def _log_retained(c: Constants, x: Inputs) -> Any:
    """The logarithm of N_eff / N."""
    return sum(maths.log(-maths.expm1(-x[bits] / c[name])) for name, bits in _BITS)


def _terms(c: Constants, x: Inputs) -> PowerTerms:
    return PowerTerms(c["A"] * maths.exp(-c["alpha"] * _log_retained(c, x)), c["alpha"], c["B"], c["beta"])


def _precision(c: Constants, x: Inputs) -> Any:
    terms = _terms(c, x)
    return c["E"] + terms.a * x.power("non_embedding_params", -c["alpha"]) + c["B"] * x.power("tokens", -c["beta"])


def _post_training(c: Constants, x: Inputs) -> Any:
    log_size = x.log("non_embedding_params") + _log_retained(c, x)
    return c["C_T"] * maths.exp(-x["bits"] / c["gamma_post"] + c["gamma_D"] * x.log("tokens") - c["gamma_N"] * log_size)


PRECISION = Law(
    name="precision",
    formula=(
        "E + A * N_eff^-alpha + B * tokens^-beta, N_eff = non_embedding_params * (1 - exp(-bits_weights / gamma_w))"
        " * (1 - exp(-bits_activations / gamma_a)) * (1 - exp(-bits_cache / gamma_kv))"
    ),
    function=_precision,
    parameters=(irreducible("E"), amplitude("A"), amplitude("B"), exponent("alpha"), exponent("beta"), *_sensitivities()),
    inputs=_INPUTS,
    linear=("E", "A", "B"),
    size="non_embedding_params",
    terms=_terms,
    typical=_SIXTEEN,
    source="Kumar et al. 2024, Scaling Laws for Precision, arXiv 2411.04330",
)

POST_TRAINING = Law(
    name="precision-post-training",
    formula="C_T * exp(-bits / gamma_post) * tokens^gamma_D * N_eff^-gamma_N, N_eff as in precision",
    function=_post_training,
    parameters=(
        amplitude("C_T", (1e-4, 1e2)),
        Parameter("gamma_post", low=1e-2, high=1e2, log=True, starts=(0.2, 3.0)),
        exponent("gamma_D", (0.1, 1.0)),
        exponent("gamma_N", (0.1, 1.0)),
        *_sensitivities(),
    ),
    inputs=(*_INPUTS, "bits"),
    output="loss_increase",
    linear=("C_T",),
    typical=_SIXTEEN,
    source="Kumar et al. 2024, arXiv 2411.04330, without the factor for models trained in low precision",
)

LAWS = (PRECISION, POST_TRAINING)
