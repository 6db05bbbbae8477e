"""Seconds of communication of a step at nominal link rates, by kind; the fitted constants say what share is reached and what is hidden.

Volumes per hardware.md, 7, and the sources named there: ring collectives, hierarchical across nodes (the slow link carries one share a chip).
"""

from __future__ import annotations

import math

from scaling.hardware.compute import again, imbalance
from scaling.hardware.memory import local_params
from scaling.hardware.workload import Workload


def seconds(work: Workload) -> dict[str, float]:
    """All kinds of communication of a step on one chip."""
    return {**tensor(work), **pipeline(work), **context(work), **expert(work), **data(work), **host(work)}


def _split(size: int, stride: int, work: Workload) -> tuple[int, int]:
    """How a group of `size` ranks, `stride` chips apart, falls into (ranks inside one fast domain, domains)."""
    inside = max(1, min(size, work.domain // max(1, stride)))
    return inside, math.ceil(size / inside)


def tensor(work: Workload) -> dict[str, float]:
    """Two all-reduces forward and two backward a layer, or their halves around sequence-parallel parts."""
    arch, lay = work.architecture, work.layout
    t = lay.tensor
    if t == 1:
        return {"tensor": 0.0, "tensor_network": 0.0, "tensor_calls": 0.0}
    extra, _ = again(work)
    layers = work.micro_batches * imbalance(work) * arch.layers / lay.pipeline
    calls = layers * (2 + 2 + 2 * extra)
    volume = calls * 2 * (t - 1) / t * work.micro_tokens * arch.width * 2
    inside, outside = _split(t, 1, work)
    fast = volume / work.link if inside > 1 else 0.0
    slow = volume / work.network / (inside if inside > 1 else 1) if outside > 1 else 0.0
    return {"tensor": fast, "tensor_network": slow, "tensor_calls": calls * math.log2(t)}


def pipeline(work: Workload) -> dict[str, float]:
    """Activations to the next stage and their gradients back, every chunk; the share of time that stages stand empty."""
    lay = work.layout
    p, chunks = lay.pipeline, lay.pipeline_chunks
    if p == 1:
        return {"stages": 0.0, "bubble": 0.0}
    split = lay.tensor if lay.sequence_parallel else 1
    volume = work.micro_batches * chunks * 2 * work.micro_tokens * work.architecture.width * 2 / split
    inside = lay.tensor * lay.context * lay.data * p <= work.domain
    rate = work.link if inside else work.network
    bubble = (p - 1) / (work.micro_batches * chunks)
    if work.software.stack == "hai-llm":  # DualPipe: half the bubble (arXiv 2412.19437, table 2)
        bubble /= 2
    return {"stages": volume / rate, "bubble": bubble}


def context(work: Workload) -> dict[str, float]:
    """Keys and values around the ring of context-parallel ranks, forward and twice backward."""
    arch, lay = work.architecture, work.layout
    c = lay.context
    if c == 1:
        return {"context": 0.0}
    extra, _ = again(work)
    keys = 2 * arch.kv_heads * arch.head_dim / lay.tensor if arch.attention != "mla" else 2 * arch.heads * arch.head_dim / lay.tensor
    layers = work.micro_batches * arch.layers / lay.pipeline
    volume = layers * (3 + extra) * work.micro_tokens * keys * 2 * (c - 1)
    _, outside = _split(c, lay.tensor, work)
    return {"context": volume / (work.network if outside > 1 else work.link)}


def expert(work: Workload) -> dict[str, float]:
    """Tokens to their experts and back, forward and backward. A token crosses the network once for every node that it visits."""
    arch, lay = work.architecture, work.layout
    e = lay.expert
    if e == 1 or not arch.moe_layers:
        return {"expert": 0.0, "expert_network": 0.0, "expert_calls": 0.0}
    extra, _ = again(work)
    layers = work.micro_batches * (arch.moe_layers + arch.mtp_layers) / lay.pipeline
    calls = layers * (4 + 2 * extra)
    inside, nodes = _split(e, 1, work)
    tokens = work.micro_tokens / lay.tensor
    volume = calls * tokens * arch.width * 2
    k = arch.experts_per_token
    visited = nodes * (1 - (1 - 1 / nodes) ** k)
    fast = volume * k * (inside - 1) / inside / work.link if inside > 1 else 0.0
    slow = volume * min(visited, 4.0) * (nodes - 1) / nodes / work.network if nodes > 1 else 0.0
    return {"expert": fast, "expert_network": slow, "expert_calls": calls}


def data(work: Workload) -> dict[str, float]:
    """Gradients and weights among data-parallel ranks: once a step, or around every micro-batch where weights are shared out."""
    lay = work.layout
    ranks = lay.data * lay.context
    zero = {"shards": 0.0, "shards_network": 0.0, "shards_calls": 0.0, "gradients": 0.0, "gradients_network": 0.0}
    if ranks == 1:
        return zero
    dense, experts = local_params(work)
    stride = lay.tensor
    inside, outside = _split(ranks, stride, work)
    expert_ranks = max(1, ranks * lay.tensor // max(1, lay.expert))
    expert_inside, expert_outside = _split(expert_ranks, max(1, lay.expert), work)

    def both(size: float) -> tuple[float, float]:
        fast = size * ((inside - 1) / inside * dense + (expert_inside - 1) / expert_inside * experts)
        slow = size * ((outside > 1) * dense / inside + (expert_outside > 1) * experts / expert_inside)
        return fast / work.link, slow / work.network

    if lay.zero < 3:
        fast, slow = both(2 + 4)
        return zero | {"gradients": fast, "gradients_network": slow}
    rounds = work.micro_batches * 3
    fast, slow = both(2 * rounds)
    calls = work.micro_batches * 3 * work.architecture.layers / lay.pipeline * bits_of(ranks)
    if lay.shard_nodes:
        slow = both(4)[1]
        return zero | {"shards": fast, "shards_calls": calls, "gradients_network": slow}
    return zero | {"shards": fast, "shards_network": slow, "shards_calls": calls}


def host(work: Workload) -> dict[str, float]:
    """Seconds to and from the host's memory of what is offloaded."""
    arch, lay, dev = work.architecture, work.layout, work.device
    dense, experts = local_params(work)
    ranks = lay.data if lay.zero else 1
    states = 24 * (dense + experts) / ranks if lay.offload_optimizer else 0.0
    kept = 4 * work.micro_tokens * work.micro_batches * arch.width * arch.layers / lay.pipeline if lay.offload_activations else 0.0
    return {"offload": (states + kept) / dev.host}


def bits_of(ranks: int) -> float:
    """log2 of the ranks: steps of a tree."""
    return math.log2(ranks) if ranks > 1 else 0.0
