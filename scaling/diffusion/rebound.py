"""Rebound (Jevons): what an efficiency gain does to the demand for compute, where users answer to price."""

from __future__ import annotations

import dataclasses
import math

from scaling.errors import InputError


@dataclasses.dataclass(frozen=True)
class Rebound:
    """Factors by which usage and compute change, the part of the saving that is lost (above 1: backfire), and, at fixed capacity, the price's factor."""

    usage: float
    compute: float
    fraction: float
    backfire: bool
    price_at_capacity: float


def rebound(gain: float, elasticity: float) -> Rebound:
    """Of an efficiency gain G with demand ~ price^-eps: usage G^eps, compute G^(eps - 1), fraction 1 - (G^(eps - 1) - 1) / (1/G - 1).

    Backfire (Jevons' paradox) exactly where eps > 1. With capacity fixed, usage rises by G and the price falls to G^(-1/eps).
    """
    if not (gain > 0 and math.isfinite(gain)) or not (elasticity >= 0 and math.isfinite(elasticity)):
        raise InputError(f"rebound: gain must be positive and elasticity 0 or more, got {gain} and {elasticity}")
    compute = gain ** (elasticity - 1)
    # Towards no gain the ratio goes to its limit, 1 - eps saved for each unit of gain.
    fraction = elasticity if abs(math.log(gain)) < 1e-9 else 1 - (compute - 1) / (1 / gain - 1)
    price = gain ** (-1 / elasticity) if elasticity > 0 else (1.0 if gain == 1 else math.inf if gain < 1 else 0.0)
    return Rebound(gain**elasticity, compute, fraction, gain > 1 and elasticity > 1, price)
