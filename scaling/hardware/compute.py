"""Seconds of arithmetic and memory traffic of a step at nominal rates, by kind of work; the fitted constants turn them into time.

Every figure is for the busiest pipeline stage of one chip, all micro-batches of a step, forward, backward and recomputation.
"""

from __future__ import annotations

import math

from scaling.hardware.devices import Device
from scaling.hardware.workload import Workload

# Share of a forward pass that is computed a second time, of the products and of attention.
AGAIN = {"none": (0.0, 0.0), "selective": (0.0, 1.0), "some": (0.45, 0.5), "full": (1.0, 1.0)}
BACKWARD_ATTENTION = 2.5  # FlashAttention's backward pass recomputes the scores: 5 products for 2 (arXiv 2205.14135)
TILES = ((128, 256), (256, 128), (128, 128), (64, 128))
TILE_COST = (1.0, 1.0, 1.06, 1.25)  # smaller tiles read their operands more often


def again(work: Workload) -> tuple[float, float]:
    """Shares of a forward pass computed a second time: products, attention."""
    products_again, attention_again = AGAIN[work.layout.recompute]
    return products_again * work.layout.recompute_share, attention_again * work.layout.recompute_share


def waste(rows: float, columns: float, dev: Device) -> float:
    """Time lost over time used, because tiles do not fill the last wave of the units or stand over the edge."""
    least = math.inf
    if dev.units == 1:  # systolic arrays: edges are padded to the array's width
        size = 256 if "v6" in dev.name or "v7" in dev.name else 128
        return (math.ceil(rows / 8) * 8 / rows) * (math.ceil(columns / size) * size / columns) - 1
    for (m, n), cost in zip(TILES, TILE_COST, strict=True):
        tiles = math.ceil(rows / m) * math.ceil(columns / n)
        waves = math.ceil(tiles / dev.units) * dev.units
        least = min(least, cost * waves * m * n / (rows * columns))
    return min(least - 1, 50.0)


def product(rows: float, inputs: float, outputs: float, dev: Device, extra: float) -> tuple[float, float, float]:
    """(FLOPs, FLOPs wasted, elements moved) of one matrix product with its two products of the backward pass."""
    flops = 2 * rows * inputs * outputs
    moved = rows * inputs + inputs * outputs + rows * outputs
    lost = flops * ((1 + extra) * waste(rows, outputs, dev) + waste(rows, inputs, dev) + waste(inputs, outputs, dev))
    return (3 + extra) * flops, lost, (3 + extra) * moved


def products(work: Workload) -> dict[str, float]:
    """Seconds of matrix products, of their waste and of moving their operands."""
    arch, lay, dev = work.architecture, work.layout, work.device
    tokens, t = work.micro_tokens, lay.tensor
    extra, _ = again(work)
    total = [0.0, 0.0, 0.0]

    def add(matrices: list[tuple[float, float, float]], count: float) -> None:
        for rows, inputs, outputs in matrices:
            for i, value in enumerate(product(rows, max(inputs, 1), max(outputs, 1), dev, extra)):
                total[i] += count * value

    attention = [
        (tokens, inputs / (t if split == "in" else 1), outputs / (t if split == "out" else 1))
        for inputs, outputs, split in arch.attention_matrices()
    ]
    up = (arch.ffn_matrices - 1)
    dense = [(tokens, arch.width, up * arch.ffn_width / t), (tokens, arch.ffn_width / t, arch.width)]
    add(attention, arch.layers + arch.mtp_layers)
    if arch.moe_layers < arch.layers:
        add(dense, arch.layers - arch.moe_layers)
    if arch.shared_experts and arch.moe_layers:
        width = arch.shared_experts * arch.expert_width
        add([(tokens, arch.width, up * width / t), (tokens, width / t, arch.width)], arch.moe_layers + arch.mtp_layers)
    dense_total = list(total)
    total[:] = [0.0, 0.0, 0.0]
    rows = 0.0
    if arch.moe_layers:
        local = max(1.0, arch.experts / lay.expert)
        rows = tokens / t * arch.experts_per_token / local
        add([(rows, arch.width, up * arch.expert_width), (rows, arch.expert_width, arch.width)], local * (arch.moe_layers + arch.mtp_layers))
    narrow = work.bits < 16
    rate = dev.peak(work.bits) * (dev.share8 if narrow else dev.share16)
    size = work.bits / 8
    scale = work.micro_batches * imbalance(work) / lay.pipeline
    head = product(tokens, arch.width, arch.vocab / t, dev, 0.0)
    head_scale = work.micro_batches / lay.pipeline * (1 + arch.mtp_layers)
    suffix = {16: "16", 8: "8", 4: "4"}[work.bits]
    found = {f"{kind}{width}": 0.0 for kind in ("gemm", "waste", "expert") for width in ("16", "8", "4")}
    found[f"gemm{suffix}"] += dense_total[0] / rate * scale
    found[f"waste{suffix}"] += dense_total[1] / rate * scale
    found[f"expert{suffix}"] += total[0] / rate * scale
    found["gemm16"] += head[0] / (dev.peak16 * dev.share16) * head_scale
    found["waste16"] += head[1] / (dev.peak16 * dev.share16) * head_scale
    found["expert_waste"] = total[1] / rate * scale
    # Operands of narrow products are written in 16 bits and read as narrow ones.
    found["operands"] = ((dense_total[2] + total[2]) * (size + 2) / 2 * scale + head[2] * 2 * head_scale) / dev.bandwidth
    found["expert_rows"] = rows
    return found


def imbalance(work: Workload) -> float:
    """Layers of the fullest stage over the mean."""
    parts = work.layout.pipeline * work.layout.pipeline_chunks
    if parts == 1:
        return 1.0
    # A model with two layers fewer than a multiple gives up a layer to each of the embedding and the head.
    layers = work.architecture.layers
    return math.ceil(layers / work.layout.pipeline) * work.layout.pipeline / layers if layers % work.layout.pipeline else 1.0


def attention(work: Workload) -> dict[str, float]:
    """Seconds of scores and values, causal half only, and of moving scores where they are written out."""
    arch, lay, dev = work.architecture, work.layout, work.device
    _, extra = again(work)
    tokens = work.micro_tokens * work.micro_batches * imbalance(work) / lay.pipeline / lay.tensor
    flops = arch.attention_flops(work.sequence, causal=arch.flash)
    factor = 1 + BACKWARD_ATTENTION + extra if arch.flash else 3 + extra
    small = arch.head_dim < 96
    seconds = tokens * flops * factor / (dev.peak16 * dev.share16)
    scores = 0.0 if arch.flash else tokens * arch.layers * arch.heads * work.sequence * 2 * (3 + extra) / dev.bandwidth
    return {"attention": seconds * (not small), "attention_small": seconds * small, "scores": scores}


def traffic(work: Workload) -> dict[str, float]:
    """Seconds at memory bandwidth of element-wise work, of casts to narrow formats, of the logits, and of the optimizer."""
    from scaling.hardware.memory import local_params

    arch, lay, dev = work.architecture, work.layout, work.device
    extra, _ = again(work)
    tokens = work.micro_tokens * work.micro_batches * imbalance(work) / lay.pipeline
    split = lay.tensor if lay.sequence_parallel else 1
    share = arch.moe_layers / arch.layers
    inner = arch.heads * arch.head_dim * 2 + 2 * arch.kv_heads * arch.head_dim
    routed = arch.experts_per_token + arch.shared_experts
    width = (1 - share) * arch.ffn_width + share * routed * arch.expert_width
    outer = 10 * arch.width / split + (2 * inner + arch.ffn_matrices * width) / lay.tensor
    permuted = share * arch.experts_per_token * arch.width / lay.tensor
    casts = (3 * arch.width + inner + arch.ffn_matrices * width) / lay.tensor
    narrow = work.bits < 16
    dense, experts = local_params(work)
    ranks = lay.data * lay.context if lay.zero else 1
    owned = dense / ranks + experts / max(1, ranks * lay.tensor // max(1, lay.expert))
    return {
        "elementwise": tokens * arch.layers * outer * 2 * (3 + extra) / dev.bandwidth,
        "permutation": tokens * arch.layers * permuted * 2 * (3 + extra) / dev.bandwidth,
        "casts": narrow * tokens * arch.layers * casts * 2 * (3 + extra) / dev.bandwidth,
        "fine_casts": narrow * work.fine_scales * tokens * arch.layers * casts * 2 * (3 + extra) / dev.bandwidth,
        "logits": work.micro_tokens * work.micro_batches / lay.pipeline * arch.vocab / lay.tensor * 12 / dev.bandwidth,
        "optimizer": 0.0 if lay.offload_optimizer else owned * 30 / dev.bandwidth,
    }


def launches(work: Workload) -> dict[str, float]:
    """Layers that the host must launch in a step: all, and those of experts; kernels are counted by the fit."""
    arch, lay = work.architecture, work.layout
    extra, _ = again(work)
    passes = work.micro_batches * (3 + extra) / 3
    return {
        "layers": passes * arch.layers / lay.pipeline,
        "expert_layers": passes * arch.moe_layers / lay.pipeline,
        "steps": 1.0,
    }
