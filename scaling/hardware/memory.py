"""Bytes on one chip: states of the parameters, activations held until the backward pass, what the head and the collectives need.

Activations follow Korthikanti et al. 2022 (arXiv 2205.05198, equations 1-4 and 6), written for any ratio of widths.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources

from scaling.hardware.workload import Workload

# What is fitted to reported peaks (constants.json): name: (prior, spread of its logarithm). Activations are scaled for fragments and temporaries;
# logits take so many bytes each (16-bit, fp32 and their gradients); libraries, collectives and fragments take that share of the memory in a cluster, so many GB on one chip.
PRIORS = {"activations": (1.15, 0.2), "logit_bytes": (9.0, 0.3), "cluster_share": (0.05, 0.5), "one_chip_gb": (0.3, 0.5)}
KEPT_MIDDLE = {"none": 1.0, "selective": 0.8, "some": 0.25}  # share of the feed-forward block's activations kept


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
    routed = used * (2 * before + kept) * arch.expert_width + kept * arch.experts_per_token * d
    middle = (1 - share) * dense + share * routed
    scores = 0.0 if arch.flash or level != "none" else 5 * arch.heads * work.sequence
    middle *= KEPT_MIDDLE[level]
    return tokens * (outer / split + (inside + middle + scores) / t)


@cache
def shipped() -> Mapping[str, float]:
    """The fitted scales of the package."""
    return json.loads(resources.files("scaling.hardware").joinpath("constants.json").read_text())["memory"]


def state_bytes(work: Workload) -> tuple[float, float, float]:
    """(weight, gradient, optimizer) bytes of a parameter, as the stack keeps them; two moments and a master copy of Adam are 12.

    Megatron accumulates gradients in fp32 until 2024 and in the weights' format since, with fp32 beside it where asked. PyTorch's FSDP keeps fp32 weights,
    shared out, as the master copy. llm.q keeps moments in bf16.
    """
    soft = work.software
    if soft.stack == "llm.q":
        return 2.0, 2.0, 6.0
    if soft.family == "pytorch":
        return 4.0, 4.0, 8.0
    if work.wide_gradients:
        return 2.0, 6.0, 12.0
    early = soft.family in ("megatron", "") and soft.year < 2024 and soft.stack != "megatron-deepspeed"
    return 2.0, 4.0 if early else 2.0, 12.0


def memory(work: Workload, fitted: Mapping[str, float] | None = None) -> Memory:
    """The Memory of the fullest chip of a job: the first pipeline stage, which has the most micro-batches in flight."""
    fitted = fitted or shipped()
    arch, lay, soft = work.architecture, work.layout, work.software
    dense, experts = local_params(work)
    ranks = lay.data * lay.context if lay.zero else 1
    if lay.shard_nodes:
        ranks = max(1, min(ranks, work.node // lay.tensor))
    expert_ranks = max(1, ranks * lay.tensor // lay.expert)
    weight, gradient, states = state_bytes(work)

    def kept(size: float, stage: int) -> float:
        shared = lay.zero >= stage
        return size * (dense / (ranks if shared else 1) + experts / (expert_ranks if shared else 1))

    stages = lay.pipeline
    in_flight = min(work.micro_batches, stages) * (1 + (stages - 1) / (stages * lay.pipeline_chunks) if lay.pipeline_chunks > 1 else 1)
    whole = activation_bytes_per_layer(work, "none")
    per_layer = activation_bytes_per_layer(work)
    mean = lay.recompute_share * per_layer + (1 - lay.recompute_share) * whole
    activations = mean * -(-arch.layers // stages) * in_flight + (whole if lay.recompute == "full" else 0.0)
    if lay.offload_activations:
        activations *= 0.3
    # PyTorch's stacks keep the logits whole on every tensor rank; llm.q works through them in eight pieces.
    split = 8 * lay.tensor if soft.stack == "llm.q" else 1 if soft.family == "pytorch" else lay.tensor
    gathered = (dense + experts) * (2 + gradient) if lay.zero == 3 and stages > 1 else 0.0
    if lay.zero == 3 and stages == 1:
        gathered = 2 * (2 + gradient) * (arch.dense_params + arch.expert_params / lay.expert) / arch.layers / lay.tensor
    return Memory(
        weights=kept(weight, 3),
        gradients=kept(gradient, 2),
        optimizer=0.0 if lay.offload_optimizer else kept(states, 1),
        activations=fitted["activations"] * activations,
        logits=work.micro_tokens * arch.vocab / split * fitted["logit_bytes"] if stages == 1 else 0.0,
        buffers=gathered,
        overhead=fitted["cluster_share"] * work.device.memory if work.chips > 1 else 1e9 * fitted["one_chip_gb"],
    )
