"""Intervals of what follows from a law's constants: the optimum, the loss there, the compute for a loss, the allocation exponent, a compute multiplier."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from fits import frontier
from fits.errors import InputError
from fits.quantities import Quantity

if TYPE_CHECKING:
    from fits.curve import Curve, Prediction

_KINDS = {
    "optimal_params": ("size", "flops"),
    "optimal_tokens": ("tokens", "flops"),
    "optimal_loss": ("loss", "flops"),
    "compute_for": ("compute", "loss"),
    "allocation_exponent": ("exponent", None),
}


def derived(curve: Curve, what: str, level: float, method: str | None, at: dict[str, float]) -> Prediction:
    """See `Curve.derived`."""
    from fits.curve import Prediction, positive

    if what not in _KINDS:
        raise InputError(f"derived: {what!r} is not known; it is one of {', '.join(_KINDS)}")
    kind, argument = _KINDS[what]
    point = 0.0
    if argument is not None:
        if argument not in at:
            raise InputError(f"derived: {what} needs {argument}=...")
        point = float(positive(argument, at.pop(argument)))
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, got {level}")
    unknown = sorted(set(at) - set(curve.law.inputs) | set(at) & {str(curve.law.size), "tokens"})
    if unknown:
        raise InputError(f"derived: {what} of law {curve.law.name} takes no {unknown[0]}")
    extras = dict(curve.law.typical) | {name: float(positive(name, value)) for name, value in at.items()}
    product = math.log(point / curve.flops_per_param_token) if argument == "flops" else point
    values = _on_draws(curve, kind, product, extras)
    centre = float(values(curve.vector[None])[0])
    if kind == "compute" and not 1.0 < centre < math.inf:
        side = "no compute suffices" if math.isinf(centre) else "it is above every loss of the frontier"
        raise InputError(f"derived: loss {point:.6g} is outside what law {curve.law.name} reaches with these constants: {side}")
    chosen = method or ("profile" if curve.sample is not None and curve.law.terms is not None else "bootstrap")
    if chosen == "profile":
        low, high = _profiled(curve, kind, product, extras, level)
    elif chosen == "bootstrap":
        from fits.curve import quantiles

        low, high = quantiles(values(curve.draws_or_error()), level)
    else:
        raise InputError(f"derived: method {chosen!r} is not known; it is profile or bootstrap")
    if kind == "compute":
        centre, low, high = (each * curve.flops_per_param_token for each in (centre, low, high))
    return Prediction(centre, low, high)


def _on_draws(curve: Curve, kind: str, point: float, extras: dict[str, float]) -> Callable[[np.ndarray], np.ndarray]:
    law = curve.law
    if kind == "exponent":
        return lambda draws: np.asarray(frontier.allocation_exponent(law, draws, extras=extras))
    if kind == "compute":
        return lambda draws: frontier.product_for(law, draws, point, extras)
    product = math.exp(point)
    if kind == "loss":
        return lambda draws: frontier.loss_on_frontier(law, draws, product, extras)
    return lambda draws: (
        frontier.optimal_size(law, draws, product, extras)
        if kind == "size"
        else product / frontier.optimal_size(law, draws, product, extras)
    )


def _profiled(curve: Curve, kind: str, point: float, extras: dict[str, float], level: float) -> tuple[float, float]:
    from fits.profile import interval

    quantity = Quantity(curve.law, "size" if kind == "tokens" else kind, at=point, extras=tuple(sorted(extras.items())))
    low, high = interval(curve.sample_or_error(), quantity, level)
    if kind == "tokens":  # what the size leaves of their product
        low, high = point - high, point - low
    with np.errstate(over="ignore"):
        return (float(np.exp(low)), float(np.exp(high))) if quantity.logarithm else (low, high)


def multiplier(variant: Curve, baseline: Curve, *, flops: float, level: float = 0.95) -> Prediction:
    """The compute multiplier of `variant` at the loss that `flops` buy the baseline: baseline's compute over the variant's, above 1 if the variant is better.

    Its interval comes from the draws of both curves, taken as independent. Losses must be of one corpus and tokenizer.
    """
    from fits.curve import Prediction, quantiles

    loss = baseline.optimal(flops).loss
    value = flops / variant.compute_for(loss)
    ours, theirs = variant.draws_or_error(), baseline.draws_or_error()
    count = min(len(ours), len(theirs))
    order = np.random.Generator(np.random.Philox(key=count)).permutation(len(theirs))[:count]
    product = flops / baseline.flops_per_param_token
    losses = frontier.loss_on_frontier(baseline.law, theirs[order], product)
    computes = variant.flops_per_param_token * frontier.product_for(variant.law, ours[:count], losses)
    return Prediction(value, *quantiles(flops / computes, level))
