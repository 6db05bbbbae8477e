"""Exact counts: parameters per group, and FLOPs per token by the convention stated with each number.

A multiply-add is 2 FLOPs and only matrix products count, as in XLA's own count of a program (whose element-wise share is a
few per cent). The embedding look-up is free, the head is in, attention is the full T x T square; the causal half stands beside.
"""

from __future__ import annotations

import dataclasses

from models.config import ModelConfig


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
        """Total less embedding and head (the count of Kaplan et al. 2020)."""
        return self.total - self.groups["embedding"] - self.groups["head"]


@dataclasses.dataclass(frozen=True)
class FlopCount:
    """FLOPs per training token. `training` = forward + backward, the package's compute axis."""

    forward: float
    forward_causal: float

    @property
    def backward(self) -> float:
        """Twice the forward: one product for the input's gradient and one for the weight's."""
        return 2 * self.forward

    @property
    def training(self) -> float:
        return 3 * self.forward

    @property
    def training_causal(self) -> float:
        """Counting only the (T + 1) / 2T of the attention square that a causal kernel needs."""
        return 3 * self.forward_causal


def count_params(config: ModelConfig) -> ParamCount:
    """Parameters per group of a `Transformer` of this shape; the groups sum to the total."""
    L, D, V = config.layers, config.width, config.vocab_size
    groups = {
        "embedding": V * D,
        "attention": L * 4 * D * D,
        "norms": L * (2 * D + 2 * config.head_width) + D,
        "head": D * V,
    }
    if not config.is_moe:
        return ParamCount(groups | {"ffn": L * 3 * D * config.ffn_width}, inactive=0)
    expert = 3 * D * config.expert_width
    groups |= {"router": L * D * config.experts, "experts": L * config.experts * expert}
    return ParamCount(groups, inactive=L * (config.experts - config.experts_per_token) * expert)


def training_flops(config: ModelConfig, context: int | None = None) -> FlopCount:
    """FLOPs per token at `context` tokens in a row (the model's own by default).

    Per layer and token: 2 per matrix parameter visited, and 4 T D for the two attention products (full square). MoE counts
    the nominal experts_per_token; padding of a dispatch is not counted.
    """
    T, D, L = context or config.context, config.width, config.layers
    count = count_params(config)
    matrices = count.active - count.groups["embedding"] - count.groups["norms"]
    attention = 4 * T * D * L
    return FlopCount(
        forward=2 * matrices + attention,
        forward_causal=2 * matrices + attention * (T + 1) / (2 * T),
    )
