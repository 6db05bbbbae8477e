"""Learning rate against the step: linear warm-up, then warm-up-stable-decay or cosine."""

from __future__ import annotations

from typing import Protocol

import jax.numpy as jnp
from jax import Array

SCHEDULES = ("wsd", "cosine")
COSINE_END = 0.1  # of the peak


class Horizon(Protocol):
    """What a schedule needs of a run; float32 and int32 scalars, which may be traced."""

    @property
    def peak(self) -> Array: ...
    @property
    def steps(self) -> Array: ...
    @property
    def warmup_steps(self) -> Array: ...
    @property
    def decay_steps(self) -> Array: ...


def learning_rate(schedule: str, run: Horizon, step: Array) -> Array:
    """The rate of `step` (from 0): linear warm-up, then `wsd` (constant, then linear to zero over the last steps) or `cosine`.

    Until its decay begins the rate of `wsd` does not depend on the number of steps (Hu et al. 2024, arXiv 2404.06395, section
    4.2; linear decay as in Hägele et al. 2024, arXiv 2405.18392), so that one trunk serves several horizons.
    """
    done = (step + 1).astype(jnp.float32)
    warmup, steps = jnp.maximum(run.warmup_steps, 1).astype(jnp.float32), run.steps.astype(jnp.float32)
    warm = jnp.minimum(1.0, done / warmup)
    if schedule == "wsd":
        fall = jnp.clip((steps - done) / jnp.maximum(run.decay_steps, 1).astype(jnp.float32), 0.0, 1.0)
    else:
        after = jnp.clip((done - warmup) / jnp.maximum(steps - warmup, 1.0), 0.0, 1.0)
        fall = COSINE_END + (1 - COSINE_END) * 0.5 * (1 + jnp.cos(jnp.pi * after))
    return run.peak * warm * fall
