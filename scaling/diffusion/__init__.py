"""Who reaches which capability, when. So far: the access and performance effects of one curve at two dates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaling.diffusion.effects import Actor, Trends, access_cost, diffusion_window, performance

if TYPE_CHECKING:
    from scaling.diffusion.simulation import Outcome as Outcome
    from scaling.diffusion.simulation import simulate as simulate

__all__ = ["Actor", "Outcome", "Trends", "access_cost", "diffusion_window", "performance", "simulate"]


def __getattr__(name: str) -> object:
    if name in ("simulate", "Outcome"):  # compiles: loaded on first use
        from scaling.diffusion import simulation

        return getattr(simulation, name)
    raise AttributeError(f"module 'scaling.diffusion' has no attribute {name!r}")
