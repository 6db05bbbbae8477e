"""What repeated tokens are worth (Muennighoff et al. 2023, arXiv 2305.16264)."""

from __future__ import annotations

import math

REPETITION_HALF_LIFE = 15.387756  # R*_D: epochs of repetition until returns fade


def effective_tokens(tokens: float, unique: float) -> float:
    """D_eff = U (1 + R (1 - exp(-(D / U - 1) / R))) beyond the first epoch (Muennighoff et al. 2023, equation 5)."""
    if tokens <= unique:
        return tokens
    return unique * (1 - REPETITION_HALF_LIFE * math.expm1(-(tokens / unique - 1) / REPETITION_HALF_LIFE))


def tokens_with_effect(effective: float, unique: float) -> float:
    """The inverse of `effective_tokens`; infinite at or beyond its ceiling U (1 + R)."""
    if effective <= unique:
        return effective
    share = (effective / unique - 1) / REPETITION_HALF_LIFE
    return unique * (1 - REPETITION_HALF_LIFE * math.log1p(-share)) if share < 1 else math.inf
