"""Published compute multipliers beside this project's arms, evaluated from the curves of `fits` at the scale that each names."""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.optimize import brentq

import fits
from fits.laws.routed import dense_equivalent
from scaling.repetition import effective_tokens

SIXTEEN = {"bits_weights": 16.0, "bits_activations": 16.0, "bits_cache": 16.0}


def _experts(experts: int) -> str:
    """At equal loss: Ludziejewski et al. (top 1) and the Ling team's leverage at two of `experts`, 1e20 FLOP; Clark et al., size at equal tokens, 1.3e8 active parameters."""
    joint, leverage, clark = fits.load("ludziejewski2025"), fits.load("ling2025-leverage"), fits.load("clark2022-sbase")
    loss = joint.optimal(1e20, experts=1).loss
    first = 1e20 / joint.compute_for(loss, experts=experts)
    second = leverage.evaluate(activation_ratio=2 / experts, granularity=2, flops=1e20)
    third = dense_equivalent(clark.constants, 1.3e8, experts) / 1.3e8
    return f"{first:.2f} (ludziejewski2025) and {second:.2f} (ling2025-leverage) at 1e20 FLOP; {third:.2f} in size at equal tokens (clark2022-sbase, 1.3e8)"


def _granularity(granularity: int) -> str:
    """Krajewski et al.: size that reaches the same loss on the same tokens, granularity 1 over `granularity`."""
    c = fits.load("krajewski2024-moe").constants
    ratio = ((c["g"] + c["A"]) / (c["g"] * granularity ** -c["gamma"] + c["A"])) ** (1 / c["alpha"])
    return f"{ratio:.2f} in size at equal tokens over granularity 1 (krajewski2024-moe)"


def _bits(weights: float, activations: float) -> str:
    """Kumar et al. at 1e20 FLOP."""
    curve = fits.load("kumar2024")
    loss = curve.optimal(1e20, **SIXTEEN).loss
    ratio = 1e20 / curve.compute_for(loss, **SIXTEEN | {"bits_weights": weights, "bits_activations": activations})
    return f"{ratio:.2f} over 16 bits at 1e20 FLOP (kumar2024)"


def _muon() -> str:
    """Liu et al.: PF-days of AdamW over those of Muon at the loss of one AdamW PF-day."""
    muon, adam = fits.load("liu2025-muon"), fits.load("liu2025-adamw")
    loss = adam.evaluate(pf_days=1.0)
    return f"{1 / math.exp(brentq(lambda log: muon.evaluate(pf_days=math.exp(log)) - loss, -20, 20)):.2f} at one PF-day (liu2025)"


def _laggard() -> str:
    return "1/3.1 = 0.32: SwiGLU 1.17 x RoPE 1.44 x pre-RMSNorm 1.87 (Gundlach et al. 2025, products of single ablations)"


def _repeated(unique: int, tokens: int = 625_920) -> str:
    """Muennighoff et al.: fresh epochs that the epochs of width 48 at 3e11 FLOP are worth."""
    epochs = tokens / unique
    worth = effective_tokens(epochs, 1.0)
    return f"{epochs:.1f} epochs (width 48, 3e11 FLOP) are worth {worth:.1f} of fresh data (muennighoff2023)"


PUBLISHED: dict[str, Callable[[], str]] = {
    **{f"moe{experts}": lambda experts=experts: _experts(experts) for experts in (4, 8, 16, 32, 64)},
    "moe8-fine2": lambda: _granularity(2),
    "moe8-fine4": lambda: _granularity(4),
    "int8": lambda: _bits(8, 8),
    "int4": lambda: _bits(4, 4),
    "w6": lambda: _bits(6, 16),
    "w4": lambda: _bits(4, 16),
    "w3": lambda: _bits(3, 16),
    "muon": _muon,
    "laggard": _laggard,
    "unique-400k": lambda: _repeated(409_600),
    "unique-100k": lambda: _repeated(102_400),
    "unique-25k": lambda: _repeated(25_600),
    "cosine": lambda: "below 1.05 for the schedule (Gundlach et al. 2025)",
}
