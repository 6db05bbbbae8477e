"""Who reaches which capability, when. So far: the access and performance effects of one curve at two dates."""

from __future__ import annotations

from scaling.diffusion.effects import Actor, Trends, access_cost, diffusion_window, performance

__all__ = ["Actor", "Trends", "access_cost", "diffusion_window", "performance"]
