"""muP-style parametrisation as data: for each kind of weight an initial scale, a learning-rate and a decay multiplier.

With m = width / BASE_WIDTH, for Adam (Yang et al. 2022, arXiv 2203.03466, table 8; depth as CompleteP with alpha = 1,
Dey et al. 2025, arXiv 2505.01618):

| kind       | initial standard deviation | learning rate | decoupled decay |
|------------|----------------------------|---------------|-----------------|
| embedding  | 1                          | 1             | 1               |
| hidden     | 1 / sqrt(fan_in)           | 1 / m         | m               |
| head       | 0                          | HEAD_RATE / m | m               |
| gain       | (one)                      | 1             | 0               |

Decay is multiplied by the learning rate, so `m / m` keeps their product free of width. Residual branches are multiplied by
BASE_LAYERS / layers. The head starts at zero, so that every width starts at the loss of a uniform guess, and moves HEAD_RATE times as fast: a
constant factor that muP leaves open, found by trial at width 32.

Assumptions that the sources do not test: the router counts as hidden, an expert's fan-in is its own hidden width, and QK-norm
with a constant head width replaces the 1/d attention scale.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx

from models.config import ModelConfig
from models.precision import Precision

BASE_WIDTH = 64
BASE_LAYERS = 2
HEAD_RATE = 3.0

KINDS = ("embedding", "hidden", "head", "gain")


@dataclasses.dataclass(frozen=True)
class LeafRule:
    """How one weight starts and moves. `learning_rate` and `decay` multiply the run's own."""

    init_std: float
    learning_rate: float
    decay: float


def leaf_rule(kind: str, fan_in: int, width: int) -> LeafRule:
    """The rule for a weight of `kind` (one of KINDS) with `fan_in` inputs in a model of `width`."""
    ratio = width / BASE_WIDTH
    rules = {
        "embedding": LeafRule(1.0, 1.0, 1.0),
        "hidden": LeafRule(1 / math.sqrt(fan_in), 1 / ratio, ratio),
        "head": LeafRule(0.0, HEAD_RATE / ratio, ratio),
        "gain": LeafRule(0.0, 1.0, 0.0),
    }
    return rules[kind]


def residual_multiplier(config: ModelConfig) -> float:
    """The factor on every residual branch, BASE_LAYERS / layers."""
    return BASE_LAYERS / config.layers


class Weight(nnx.Param):
    """A parameter that knows its kind (`KINDS`) and fan-in, so that the optimiser can scale its step."""


def new_weight(rngs: nnx.Rngs, shape: tuple[int, ...], kind: str, fan_in: int, config: ModelConfig, precision: Precision) -> Weight:
    """A normal `Weight` of `shape` with the standard deviation of its kind (gains start at one)."""
    rule = leaf_rule(kind, fan_in, config.width)
    if kind == "gain":
        return Weight(jnp.ones(shape, precision.param), kind=kind, fan_in=fan_in)
    value = rule.init_std * jax.random.normal(rngs.params(), shape, precision.param)
    return Weight(value, kind=kind, fan_in=fan_in)
