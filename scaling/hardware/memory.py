"""Bytes on one chip: states of the parameters, activations held until the backward pass, what the head and the collectives need.

Activations follow Korthikanti et al. 2022 (arXiv 2205.05198, equations 1-4 and 6), written for any ratio of widths.
"""

from __future__ import annotations

import dataclasses

from scaling.hardware.workload import Workload


KEPT_MIDDLE = {"none": 1.0, "selective": 0.8, "some": 0.4}  # share of the feed-forward block's activations kept


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes by purpose on the fullest chip."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    buffers: float
    overhead: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(getattr(self, field.name) for field in dataclasses.fields(self))


def local_params(work: Workload) -> tuple[float, float]:
    """(parameters outside experts, parameters of experts) on the fullest chip, before data-parallel sharing.

    The first and last pipeline stage also hold an embedding.
    """
    arch, lay = work.architecture, work.layout
    layers = -(-arch.layers // lay.pipeline) / arch.layers
    embeddings = arch.head_params * (2 if lay.pipeline == 1 else 1)
    dense = (arch.dense_params * layers + embeddings) / lay.tensor
    experts = arch.expert_params * layers / max(lay.expert, 1)
    return dense, experts


def activation_bytes_per_layer(work: Workload, recompute: str | None = None) -> float:
    """Bytes that one layer keeps for one micro-batch on one chip."""
    arch, lay = work.architecture, work.layout
    level = lay.recompute if recompute is None else recompute
    tokens, d, t = work.micro_tokens, arch.width, lay.tensor
    split = t if lay.sequence_parallel else 1
    if level == "full":
        return 2 * tokens * d / split
    kept = 1 if work.bits < 16 else 2  # bytes of an input of a product: narrow formats keep the narrow copy
    inner = arch.heads * arch.head_dim
    keys = arch.kv_heads * arch.head_dim if arch.attention != "mla" else inner
    # Inputs of both norms, and of the products behind them: split by sequence parallelism only.
    outer = 2 * 2 * d + 2 * kept * d
    # Queries, keys and values, and the input of the output projection.
    inside = 2 * (inner * arch.query_width / arch.head_dim + 2 * keys) + kept * inner
    share = arch.moe_layers / arch.layers
    before = arch.ffn_matrices - 1
    dense = (2 * before + kept) * arch.ffn_width
    used = arch.experts_per_token + arch.shared_experts
    routed = used * (2 * before + kept) * arch.expert_width + (2 + kept) * arch.experts_per_token * d
    middle = (1 - share) * dense + share * routed
    scores = 0.0 if arch.flash or level != "none" else 5 * arch.heads * work.sequence
    middle *= KEPT_MIDDLE[level]
    return tokens * (outer / split + (inside + middle + scores) / t)


def memory(work: Workload) -> Memory:
    """The Memory of the fullest chip of a job."""
    arch, lay = work.architecture, work.layout
    dense, experts = local_params(work)
    ranks = lay.data * lay.context if lay.zero else 1
    if lay.shard_nodes:
        ranks = max(1, min(ranks, work.node // lay.tensor))
    expert_ranks = max(1, ranks * lay.tensor // max(lay.expert, 1)) if arch.moe_layers else 1
    full_precision = work.software.family in ("eager",)
    share = lambda least: dense / (ranks if lay.zero >= least else 1) + experts / (expert_ranks if lay.zero >= least else 1)  # noqa: E731
    # Megatron accumulates gradients in fp32, FSDP reduces them in the weights' format.
    gradient = 4 if work.software.family in ("megatron", "") and work.software.year < 2024 else 2
    states = 12.0
    if work.software.stack == "llm.q":
        states = 6.0
    if work.software.family == "pytorch":
        gradient, states = 4, 8.0
    weight = 2.0 if work.software.family != "pytorch" else 4.0
    stages = lay.pipeline
    in_flight = min(work.micro_batches, stages) * (1 + (stages - 1) / (stages * lay.pipeline_chunks) if lay.pipeline_chunks > 1 else 1)
    per_layer = activation_bytes_per_layer(work)
    layers = -(-arch.layers // stages)
    activations = per_layer * layers * in_flight
    if lay.recompute == "full":
        whole = activation_bytes_per_layer(work, "none")
        activations = lay.recompute_share * activations + (1 - lay.recompute_share) * whole * layers * in_flight + lay.recompute_share * whole
    if lay.offload_activations:
        activations *= 0.3
    logits = work.micro_tokens * arch.vocab / lay.tensor * 6 if stages == 1 else 0.0
    buffers = 2 * 3 * (arch.dense_params / arch.layers) / lay.tensor if lay.zero == 3 else 0.0
    return Memory(
        weights=weight * share(3),
        gradients=gradient * share(2),
        optimizer=0.0 if lay.offload_optimizer else states * share(1),
        activations=activations,
        logits=logits,
        buffers=buffers,
        overhead=1e9 if full_precision else 1e9,
    )
