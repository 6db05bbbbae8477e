"""Number formats as policies: what is stored, what is multiplied, and what always stays in float32."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax.typing import DTypeLike

from models.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Precision:
    """A number format. Parameters and optimiser moments are kept in `param`, matrix products run in `compute`.

    Norms, softmax, router, logits and the loss are float32 under every policy: bfloat16 sums stall at 256 and bfloat16
    parameters drop small updates.
    """

    name: str
    compute: DTypeLike
    param: DTypeLike = jnp.float32


POLICIES = {policy.name: policy for policy in (Precision("fp32", jnp.float32), Precision("bf16", jnp.bfloat16))}


def policy(name: str) -> Precision:
    """The policy called `name`; ConfigError names the known ones."""
    if name not in POLICIES:
        raise ConfigError(f"precision {name!r} is not known; it is one of {', '.join(POLICIES)}")
    return POLICIES[name]
