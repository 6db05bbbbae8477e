"""How each kind of weight starts and moves, as data: a `LeafRule` for every weight, by `ModelConfig.parametrization`.

With m = width / BASE_WIDTH and r = layers / BASE_LAYERS, `completep` (the default) is

| kind       | initial standard deviation | learning rate | decoupled decay | Adam's epsilon |
|------------|----------------------------|---------------|-----------------|----------------|
| embedding  | 1 (tied: TIED_STD)         | 1             | 1               | 1 / m          |
| position   | POSITION_STD               | 1             | 1               | 1 / m          |
| hidden     | 1 / sqrt(fan_in)           | 1 / m         | m               | 1 / (m r)      |
| router     | 1 / sqrt(fan_in)           | 1 / m         | m               | 1 / r          |
| head       | 0                          | HEAD_RATE / m | m               | 1              |
| gain       | (one)                      | 1             | 0               | 1 / (m r)      |
| bias       | (zero)                     | 1             | 0               | 1 / (m r)      |

and residual branches are multiplied by 1 / r. `mup` is the same with r = 1. `standard` has m = r = 1, a head that starts at
1 / sqrt(fan_in) and moves like the rest: what most code does, kept as the laggard.

Sources. Width: Yang et al. 2022, arXiv 2203.03466, tables 3 and 8; the 1/m that they put on the logits is in the head's own rate
here, which is the same for Adam. Depth and epsilon: CompleteP with alpha = 1, Dey et al. 2025, arXiv 2505.01618, table 1 and
equation 40. Decay is multiplied by the learning rate, so m / m keeps their product free of width.

Own choices. The head starts at zero, so that every width starts at the loss of a uniform guess, and moves HEAD_RATE times as fast:
a constant factor that muP leaves open, found by trial at width 32. An embedding that is the head too starts at TIED_STD and its logits are
multiplied by TIED_HEAD / m: of what was tried, the pair that did best at the untied model's learning rate (`benchmarks/README.md`; so
was POSITION_STD found). The last norm's gain takes the epsilon of a block's.

Muon (optimizer = "muon") changes the row `hidden` only: rate 1 / sqrt(m), decay sqrt(m). Its update, scaled to a root mean square of 0.2
(Liu et al. 2025, arXiv 2502.16982), has a spectral norm of 0.2 sqrt(width) where muP wants one that does not grow (Yang et al. 2023,
arXiv 2310.17813, condition 1), for matrices both of whose sides grow with the width.

Assumptions, which the sources do not test:
- muP with Muon in this form: the RMS factor, Adam for the other weights, one base rate for both. (Gupta et al. 2026, arXiv 2602.20937,
  report transfer over widths of Muon under the spectral condition.)
- muP with MoE: an expert's fan-in is its own hidden width, the router starts and moves as a hidden weight, and neither knows of
  the number of experts or of the experts per token.
- QK-norm with a constant head width replaces the 1/d attention scale.
- That rules for the learning rate and the batch (`scaling.recipe`), made without muP, keep their exponents with it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from models.config import ModelConfig
from models.precision import Precision

BASE_WIDTH = 64
BASE_LAYERS = 2
HEAD_RATE = 3.0
TIED_STD, TIED_HEAD = 0.3, 0.25
POSITION_STD = 0.1

KINDS = ("embedding", "position", "hidden", "router", "head", "gain", "bias")


@dataclasses.dataclass(frozen=True)
class LeafRule:
    """How one weight starts and moves. `learning_rate`, `decay` and `epsilon` multiply the run's own."""

    init_std: float
    learning_rate: float
    decay: float
    epsilon: float


def leaf_rule(kind: str, fan_in: int, config: ModelConfig, optimizer: str = "adam") -> LeafRule:
    """The rule for a weight of `kind` (one of KINDS) with `fan_in` inputs, in a model of `config` under `optimizer` (adam or muon)."""
    m, r = ratios(config)
    start = 1 / math.sqrt(fan_in)
    standard = config.parametrization == "standard"
    spread = m**0.5 if optimizer == "muon" else m
    rules = {
        "embedding": LeafRule(embedding_std(config), 1.0, 1.0, 1 / m),
        "position": LeafRule(POSITION_STD, 1.0, 1.0, 1 / m),
        "hidden": LeafRule(start, 1 / spread, spread, 1 / (m * r)),
        "router": LeafRule(start, 1 / m, m, 1 / r),
        "head": LeafRule(start, 1.0, 1.0, 1.0) if standard else LeafRule(0.0, HEAD_RATE / m, m, 1.0),
        "gain": LeafRule(0.0, 1.0, 0.0, 1 / (m * r)),
        "bias": LeafRule(0.0, 1.0, 0.0, 1 / (m * r)),
    }
    return rules[kind]


def ratios(config: ModelConfig) -> tuple[float, float]:
    """(m, r): width and depth over the base's, as far as the parametrisation looks at them."""
    m = 1.0 if config.parametrization == "standard" else config.width / BASE_WIDTH
    r = config.layers / BASE_LAYERS if config.parametrization == "completep" else 1.0
    return m, r


def residual_multiplier(config: ModelConfig) -> float:
    """The factor on every residual branch, 1 / r."""
    return 1 / ratios(config)[1]


def embedding_std(config: ModelConfig) -> float:
    """The initial standard deviation of the embedding: 1, less where it is the head too (`standard`: that of a head, 1 / sqrt(width))."""
    if not config.tied:
        return 1.0
    return config.width**-0.5 if config.parametrization == "standard" else TIED_STD


def head_multiplier(config: ModelConfig) -> float:
    """The factor on the logits: 1 for a head of its own, TIED_HEAD / m where the embedding is the head (`standard`: 1).

    A tied weight moves at the embedding's rate, so muP's 1/m stands on the logits.
    """
    if not config.tied or config.parametrization == "standard":
        return 1.0
    return TIED_HEAD / ratios(config)[0]


class Weight(nnx.Param):
    """A parameter that knows its `kind` (one of KINDS), its `fan_in`, and which matrices it holds (`new_weight`)."""


def new_weight(
    rngs: nnx.Rngs,
    shape: tuple[int, ...],
    kind: str,
    fan_in: int,
    config: ModelConfig,
    precision: Precision,
    *,
    inputs: tuple[int, ...] = (-2,),
    outputs: tuple[int, ...] = (-1,),
    parts: tuple[int, ...] = (),
) -> Weight:
    """A normal `Weight` of `shape` with the standard deviation of its kind (gains start at one, biases and heads at zero).

    The rest says which matrices Muon finds in it. `inputs` are the axes over which a product sums and `outputs` those that it makes,
    counted from the end so that stacking layers changes nothing; every other axis counts separate matrices. `parts` are the sizes of
    matrices that lie side by side along the first of `outputs`. A plain (..., in, out) needs none of them; an attention output (N, H, D) has
    `inputs=(-3, -2)`; gate and value (D, 2, F) have `inputs=(-3,)`; fused queries, keys and values (D, N + 2 K, H) have
    `inputs=(-3,), outputs=(-2, -1), parts=(N, K, K)`.
    """
    start: Callable[..., jax.Array] = jnp.ones if kind == "gain" else jnp.zeros
    std = leaf_rule(kind, fan_in, config).init_std
    value = std * jax.random.normal(rngs.params(), shape, precision.param) if std else start(shape, precision.param)
    return Weight(value, kind=kind, fan_in=fan_in, inputs=inputs, outputs=outputs, parts=parts)


def named_weights(params: nnx.State) -> dict[str, Weight]:
    """Every `Weight` of `params` by its path (`blocks_L/attention/out_NHD`), in the order of `jax.tree.leaves(params)`."""
    found = jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): weight for path, weight in found}


def rule_of(weight: Weight, config: ModelConfig, optimizer: str = "adam") -> LeafRule:
    """The rule for a weight by what it knows of itself."""
    return leaf_rule(weight.get_metadata("kind"), weight.get_metadata("fan_in"), config, optimizer)


def rules(params: nnx.State, config: ModelConfig, optimizer: str = "adam") -> dict[str, LeafRule]:
    """The rule of every weight of `params` (arrays, or the shapes that `jax.eval_shape` gives) by its path."""
    return {path: rule_of(weight, config, optimizer) for path, weight in named_weights(params).items()}


def rules_table(params: nnx.State, config: ModelConfig, optimizer: str = "adam") -> str:
    """`rules` as a Markdown table, one row a weight."""
    rows = [
        f"| {path} | {weight.get_metadata('kind')} | {'x'.join(map(str, weight.get_value().shape))} | "
        + " | ".join(f"{value:.4g}" for value in dataclasses.astuple(rule_of(weight, config, optimizer)))
        + " |"
        for path, weight in named_weights(params).items()
    ]
    head = "| weight | kind | shape | initial std | learning rate | decay | epsilon |"
    return "\n".join([head, "|---" * 7 + "|", *rows])
