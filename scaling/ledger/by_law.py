"""Compute multipliers that published laws give: of a mixture of experts over a dense model, of a number format over sixteen bits.

What a law counts as experts is the expansion rate here, (experts + shared) / (experts of a token + shared): the feed-forward parameters there are over
those that a token meets. The dense model is trained on the mixture's tokens, so a ratio of compute is one of active parameters. `moe-leverage` compares
compute-optimal models; its ratio is used as it stands.
"""

from __future__ import annotations

import dataclasses
import math

from scipy.optimize import brentq

import fits
from fits.curve import Curve
from fits.laws.routed import dense_equivalent
from scaling.errors import InputError
from scaling.hardware.architecture import Architecture

MOE_LAWS = ("moe-joint", "routed", "moe-leverage", "moe-sparsity")
FORMAT_LAWS = ("precision", "floating-point", "effective-factors")
# Bits of weights and activations; exponent and mantissa; values that share a scale.
FORMAT_BITS = {"fp8": (8, 4, 3, 128), "mxfp8": (8, 4, 3, 32), "nvfp4": (4, 2, 1, 16), "mxfp4": (4, 2, 1, 32), "fp4": (4, 2, 1, 128)}
_LARGEST = 1e30  # parameters at which a law has given all it can


@dataclasses.dataclass(frozen=True)
class ByLaw:
    """A multiplier by one curve, and how many decades beyond the curve's fit it was asked for."""

    curve: str
    source: str
    multiplier: float
    decades_outside: float


def expansion(arch: Architecture) -> float:
    """Feed-forward parameters there are over those that a token meets, in the layers of experts."""
    return (arch.experts + arch.shared_experts) / (arch.experts_per_token + arch.shared_experts)


def active_params(arch: Architecture) -> float:
    """Active parameters without embeddings and head."""
    return arch.active_matmul_params - arch.head_params


def of_mixture(name: str, arch: Architecture, tokens: float) -> ByLaw:
    """The multiplier of a mixture of experts trained on `tokens` over the dense model of the same loss. Raises InputError."""
    curve = fits.load(name)
    if not arch.moe_layers:
        raise InputError(f"ledger: {arch.name or 'the model'} has no experts, so {name} gives it no multiplier")
    size, kind = active_params(arch), curve.law.name
    if kind == "moe-joint":
        loss = float(curve.evaluate(active_params=size, tokens=tokens, experts=expansion(arch)))
        dense = _dense_size(curve, loss, tokens, {"experts": 1.0}, "active_params", name)
        outside = curve.decades_outside(active_params=size, tokens=tokens)
    elif kind == "routed":
        dense = float(dense_equivalent(curve.constants, size, expansion(arch)))
        outside = curve.decades_outside(active_params=size)
    elif kind == "moe-leverage":
        flops = 6 * size * tokens
        granularity = 2 * arch.width / arch.expert_width
        dense = size * float(curve.evaluate(activation_ratio=1 / expansion(arch), granularity=granularity, flops=flops))
        outside = curve.decades_outside(flops=flops)
    elif kind == "moe-sparsity":
        total = arch.dense_params + arch.expert_params
        loss = float(curve.evaluate(params=total, tokens=tokens, sparsity=1 - size / total))
        dense = _dense_size(curve, loss, tokens, {"sparsity": 0.0}, "params", name)
        outside = curve.decades_outside(params=total, tokens=tokens)
    else:
        raise InputError(
            f"ledger: {name} is of law {kind}, which gives no multiplier of a mixture of experts; laws that do: {', '.join(MOE_LAWS)}"
        )
    return ByLaw(name, _source(curve), dense / size, outside)


def of_format(name: str, format: str, flops: float) -> ByLaw:
    """The multiplier of training in `format` over 16 bits at equal loss, on the frontier at `flops`; below 1 where the format costs. Raises InputError."""
    curve = fits.load(name)
    kind = curve.law.name
    if format not in FORMAT_BITS:
        raise InputError(f"ledger: laws of formats know {', '.join(FORMAT_BITS)}, not {format!r}; give measured or assumed instead")
    bits, exponent, mantissa, block = FORMAT_BITS[format]
    if kind == "effective-factors":
        if bits != 4:
            raise InputError(f"ledger: {name} is of 4 bits, not of {format}")
        narrow: dict[str, float] = {}
        multiplier = curve.constants["eff_N"] * curve.constants["eff_D"]
    elif kind in ("precision", "floating-point"):
        if kind == "precision":
            narrow, wide = ({"bits_weights": float(b), "bits_activations": float(b), "bits_cache": 16.0} for b in (bits, 16))
        else:
            narrow, wide = ({"exponent_bits": e, "mantissa_bits": m, "block": block} for e, m in ((exponent, mantissa), (8, 7)))
        multiplier = curve.compute_for(curve.optimal(flops, **narrow).loss, **wide) / flops
    else:
        raise InputError(f"ledger: {name} is of law {kind}, which knows no formats; laws that do: {', '.join(FORMAT_LAWS)}")
    best = curve.optimal(flops, **narrow)
    outside = curve.decades_outside(**{str(curve.law.size): best.params, "tokens": best.tokens})
    return ByLaw(name, _source(curve), multiplier, outside)


def _dense_size(curve: Curve, loss: float, tokens: float, dense: dict[str, float], size: str, name: str) -> float:
    """Parameters of the dense model that reaches `loss` on the same tokens."""

    def excess(log_size: float) -> float:
        return float(curve.evaluate(**{size: math.exp(log_size), "tokens": tokens, **dense})) - loss

    if excess(math.log(_LARGEST)) >= 0:
        raise InputError(f"ledger: by {name} no dense model reaches the mixture's loss {loss:.4g} on {tokens:.3g} tokens")
    return math.exp(brentq(excess, math.log(1e3), math.log(_LARGEST), xtol=1e-12))


def _source(curve: Curve) -> str:
    return str(curve.about.get("source", ""))
