"""Exact counts: parameters per group, FLOP per token, and the conventions in use under their own names.

A multiply-add is 2 FLOP and only matrix products count, as in XLA's own count of a program (whose element-wise share is a
few per cent). The embedding look-up is free, the head is in, attention is the full T x T square; the causal half stands beside.

| function          | counts                                                                         | source                                    |
|-------------------|--------------------------------------------------------------------------------|-------------------------------------------|
| `training_flops`  | every matrix product, 3 x forward; this package's compute axis                  | = Narayanan et al. 2021 without recompute |
| `six_nd`          | 6 N D; N with embeddings (Hoffmann), without (Kaplan), or with the head alone    | arXiv 2203.15556, 2001.08361, 2406.19146  |
| `hoffmann_flops`  | as `training_flops`, and softmax and the embedding as a product                  | arXiv 2203.15556, appendix F              |
| `deepseek_flops`  | M: as `training_flops` without the head                                          | arXiv 2401.02954, eq. 2                   |
| `palm_flops`      | 6 N + 12 L H Q T, the work that MFU was defined with                             | arXiv 2204.02311, appendix B              |

In an MoE model every convention counts the parameters that one token visits.
"""

from __future__ import annotations

import dataclasses

from models.config import ConfigError, ModelConfig

REMAT = ("none", "blocks")  # what the backward pass computes again: nothing, or every block's forward


@dataclasses.dataclass(frozen=True)
class ParamCount:
    """Parameters of each group, and the sums that scaling laws are fitted on."""

    groups: dict[str, int]
    inactive: int  # expert parameters that one token does not visit

    @property
    def total(self) -> int:
        return sum(self.groups.values())

    @property
    def active(self) -> int:
        """Total less the experts that a token does not visit."""
        return self.total - self.inactive

    @property
    def non_embedding(self) -> int:
        """Total less embedding, learned positions and head (the count of Kaplan et al. 2020)."""
        return self.total - self.groups["embedding"] - self.groups["position"] - self.groups["head"]

    @property
    def active_non_embedding(self) -> int:
        return self.non_embedding - self.inactive


@dataclasses.dataclass(frozen=True)
class FlopCount:
    """FLOP per token. `groups` are the forward pass; `training` = forward + backward, the package's compute axis."""

    groups: dict[str, float]
    context: int

    @property
    def forward(self) -> float:
        return sum(self.groups.values())

    @property
    def forward_causal(self) -> float:
        """Counting only the (T + 1) / 2T of the attention square that a causal kernel needs."""
        return self.forward - self.groups["attention_square"] * (self.context - 1) / (2 * self.context)

    @property
    def backward(self) -> float:
        """Twice the forward: one product for the input's gradient and one for the weight's."""
        return 2 * self.forward

    @property
    def training(self) -> float:
        return 3 * self.forward

    @property
    def training_causal(self) -> float:
        return 3 * self.forward_causal


def count_params(config: ModelConfig) -> ParamCount:
    """Parameters per group of a `Transformer` of this shape; the groups sum to the total, those it lacks are 0.

    A tied head is the embedding and counted there. Norms hold the gains of QK-norm. No product has a bias. A router's
    balancing bias is a state and no parameter.
    """
    L, D, V = config.layers, config.width, config.vocab_size
    norm = D if config.norm == "rms" else 2 * D  # a LayerNorm has a gain and a bias
    expert = _ffn_matrices(config, config.expert_width) if config.is_moe else 0
    groups = {
        "embedding": V * D,
        "position": config.context * D if config.positions == "learned" else 0,
        "attention": L * _attention_matrices(config),
        "norms": (2 * L + 1) * norm + L * 2 * config.head_width * config.qk_norm,
        "ffn": 0 if config.is_moe else L * _ffn_matrices(config, config.ffn_width),
        "router": L * D * config.experts,
        "experts": L * config.experts * expert,
        "shared_experts": L * config.shared_experts * expert,
        "head": 0 if config.tied else D * V,
    }
    return ParamCount(groups, inactive=L * (config.experts - config.experts_per_token) * expert)


def _attention_matrices(config: ModelConfig) -> int:
    """Parameters of the query, key, value and output products of one layer."""
    return config.width * config.head_width * (2 * config.heads + 2 * config.key_heads)


def _ffn_matrices(config: ModelConfig, hidden: int) -> int:
    """Parameters of one feed-forward of `hidden` width: up (and gate) and down."""
    return (3 if config.gated else 2) * config.width * hidden


def training_flops(config: ModelConfig, context: int | None = None, *, expert_rows_per_token: float | None = None) -> FlopCount:
    """FLOP per token at `context` tokens in a row (the model's own by default), per group.

    2 per matrix parameter visited, and per layer 4 T D for the two attention products (full square). An MoE layer counts the
    nominal experts_per_token; `expert_rows_per_token` (rows that the dispatch really multiplies, padding included, over
    tokens) gives the realised count instead. Moving rows to experts and back is no product and not counted.
    """
    T = context or config.context
    count = count_params(config).groups
    groups: dict[str, float] = {
        "attention_projections": 2 * count["attention"],
        "attention_square": 4 * T * config.width * config.layers,
        "ffn": 2 * count["ffn"],
        "router": 2 * count["router"],
        "experts": 0,
        "shared_experts": 2 * count["shared_experts"],
        "head": 2 * config.width * config.vocab_size,
    }
    if config.is_moe:
        rows = config.experts_per_token if expert_rows_per_token is None else expert_rows_per_token
        groups["experts"] = 2 * rows * config.layers * _ffn_matrices(config, config.expert_width)
    return FlopCount(groups, T)


def recompute_flops(
    config: ModelConfig, remat: str = "blocks", context: int | None = None, *, expert_rows_per_token: float | None = None
) -> float:
    """FLOP per token that the backward pass spends on computing activations again.

    "none" is 0. "blocks" is every block's forward but the last product of a dense feed-forward (and of shared experts): no
    gradient needs its result, so it is never computed. The head is outside the blocks. (The 4/3 of other sources counts the
    whole forward.)
    """
    if remat not in REMAT:
        raise ConfigError(f"remat must be one of {', '.join(REMAT)}, got {remat!r}")
    if remat == "none":
        return 0.0
    flops = training_flops(config, context, expert_rows_per_token=expert_rows_per_token)
    last = (flops.groups["ffn"] + flops.groups["shared_experts"]) / (3 if config.gated else 2)
    return flops.forward - flops.groups["head"] - last


def six_nd(config: ModelConfig, tokens: float, *, embeddings: bool = True, head: bool | None = None) -> float:
    """Training FLOP as 6 N D, N the active parameters.

    With `embeddings` N is all of them (Hoffmann et al. 2022); without, embedding, positions and head are left out (the
    6 N B S of Kaplan et al. 2020). `head` says otherwise of the head alone, which counts D x V though it be tied:
    embeddings=False, head=True is the count of Porian et al. 2024. No weight is counted twice.
    """
    count = count_params(config)
    head = embeddings if head is None else head
    size = count.active_non_embedding
    if embeddings:
        size += count.groups["embedding"] + count.groups["position"]
    if head and not (embeddings and config.tied):
        size += config.width * config.vocab_size
    return 6.0 * size * tokens


def hoffmann_flops(config: ModelConfig, tokens: float, *, context: int | None = None, embeddings: bool = True) -> float:
    """Training FLOP as in appendix F of Hoffmann et al. 2022 (arXiv 2203.15556).

    3 x forward; forward is that of `training_flops` plus 3 per attention score (softmax) and the embedding as a product,
    2 V D per token. The text counts embedding and logits; the ratios to 6ND printed in its table A4 follow only without
    both, which is `embeddings=False`.
    """
    flops = training_flops(config, context)
    forward = flops.forward + 3 * config.layers * config.heads * flops.context
    table = 2 * config.vocab_size * config.width
    forward += table if embeddings else -flops.groups["head"]
    return 3.0 * forward * tokens


def deepseek_flops(config: ModelConfig, context: int | None = None) -> float:
    """M, non-embedding FLOP per token, so that C = M D (DeepSeek LLM, arXiv 2401.02954, eq. 2).

    Theirs is 72 n_layer d^2 + 12 n_layer d l_seq; for any shape that is 6 per matrix parameter visited inside the blocks,
    and 12 L D T.
    """
    flops = training_flops(config, context)
    return 3.0 * (flops.forward - flops.groups["head"])


def palm_flops(config: ModelConfig, context: int | None = None) -> float:
    """FLOP per token as 6 N + 12 L H Q T (H heads of width Q, N all active parameters; PaLM, arXiv 2204.02311, appendix B)."""
    flops = training_flops(config, context)
    return 6.0 * count_params(config).active + 3.0 * flops.groups["attention_square"]


def mfu(tokens_per_second: float, config: ModelConfig, peak_flops: float, *, context: int | None = None, causal: bool = False) -> float:
    """Model FLOP utilisation, a fraction: the nominal work of the tokens trained per second over `peak_flops` (FLOP/s).

    The work is `training_flops` (`causal`: with half the attention square): no recomputation, no padding. The peak is the
    dense one of the number format that the products run in, of all devices together. The same rate by another convention:
    tokens_per_second * palm_flops(config) / peak_flops.
    """
    flops = training_flops(config, context)
    return tokens_per_second * (flops.training_causal if causal else flops.training) / peak_flops


def hfu(
    tokens_per_second: float,
    config: ModelConfig,
    peak_flops: float,
    *,
    context: int | None = None,
    remat: str = "none",
    kernels: bool = False,
    expert_rows_per_token: float | None = None,
) -> float:
    """Hardware FLOP utilisation: as `mfu`, with what was really multiplied: recomputation and the padding of experts.

    `kernels`: attention multiplies the causal half only, and makes its scores again in the backward pass.
    """
    flops = training_flops(config, context, expert_rows_per_token=expert_rows_per_token)
    work = flops.training + recompute_flops(config, remat, context, expert_rows_per_token=expert_rows_per_token)
    if kernels:
        skipped = flops.forward - flops.forward_causal  # of one forward pass
        scores = (flops.groups["attention_square"] - skipped) / 2
        work += scores - (3 if remat == "none" else 4) * skipped
    return tokens_per_second * work / peak_flops
