"""Seconds of arithmetic and memory traffic of a step at nominal rates, by kind of work; the fitted constants turn them into time.

Every figure is for the busiest pipeline stage of one chip, all micro-batches of a step, forward, backward and recomputation.
"""

from __future__ import annotations

import math
from functools import lru_cache

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
    if dev.units == 1:  # systolic arrays: edges are padded to the array's width
        size = 256 if "v6" in dev.name or "v7" in dev.name else 128
        return (math.ceil(rows / 8) * 8 / rows) * (math.ceil(columns / size) * size / columns) - 1
    return _unfilled(rows, columns, dev.units)


@lru_cache(maxsize=1 << 16)
def _unfilled(rows: float, columns: float, units: int) -> float:
    """`waste` on chips of many units; a search of layouts meets the same shapes again and again."""
    least = math.inf
    for (m, n), cost in zip(TILES, TILE_COST, strict=True):
        tiles = math.ceil(rows / m) * math.ceil(columns / n)
        waves = math.ceil(tiles / units) * units
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
    arch, dev = work.architecture, work.device
    dense, expert, head = dense_products(work), expert_products(work), head_products(work)
    rate16 = dev.peak16 * dev.share16
    rate = dev.peak(work.bits) * (dev.share8 if work.bits < 16 else dev.share16)
    scale = work.micro_batches * imbalance(work) / work.layout.pipeline
    head_scale = work.micro_batches / work.layout.pipeline * (1 + arch.mtp_layers)
    found = {f"{kind}{bits}": 0.0 for kind in ("gemm", "waste", "expert") for bits in (16, 8, 4)}
    found[f"gemm{work.bits}"] += dense[0] / rate * scale
    found[f"waste{work.bits}"] += dense[1] / rate * scale
    found[f"expert{work.bits}"] += expert[0] / rate * scale
    found["gemm16"] += head[0] / rate16 * head_scale
    found["waste16"] += head[1] / rate16 * head_scale
    found["expert_waste"] = expert[1] / rate * scale
    # Operands of narrow products are written in 16 bits and read as narrow ones.
    size = (work.bits / 8 + 2) / 2
    found["operands"] = ((dense[2] + expert[2]) * size * scale + head[2] * 2 * head_scale) / dev.bandwidth
    return found


def _total(matrices: list[tuple[float, float, float, float]], dev: Device, extra: float) -> tuple[float, float, float]:
    """Sums of `product` over (count, rows, inputs, outputs)."""
    flops = lost = moved = 0.0
    for count, rows, inputs, outputs in matrices:
        if count and rows:
            one = product(rows, max(inputs, 1.0), max(outputs, 1.0), dev, extra)
            flops, lost, moved = flops + count * one[0], lost + count * one[1], moved + count * one[2]
    return flops, lost, moved


def dense_products(work: Workload) -> tuple[float, float, float]:
    """Projections, dense and shared feed-forward blocks of all layers for one micro-batch."""
    arch, t, tokens = work.architecture, work.layout.tensor, work.micro_tokens
    up = arch.ffn_matrices - 1
    matrices: list[tuple[float, float, float, float]] = [
        (arch.layers + arch.mtp_layers, tokens, inputs / (t if split == "in" else 1), outputs / (t if split == "out" else 1))
        for inputs, outputs, split in arch.attention_matrices()
    ]
    shared = arch.shared_experts * arch.expert_width
    blocks = [(float(arch.layers - arch.moe_layers), float(arch.ffn_width))]
    if shared and arch.moe_layers:
        blocks.append((float(arch.moe_layers + arch.mtp_layers), shared))
    for count, width in blocks:
        matrices += [(count, tokens, arch.width, up * width / t), (count, tokens, width / t, arch.width)]
    return _total(matrices, work.device, again(work)[0])


def expert_products(work: Workload) -> tuple[float, float, float]:
    """Routed experts of all layers for one micro-batch, balanced: each expert on the chip gets the same rows."""
    arch, lay = work.architecture, work.layout
    if not arch.moe_layers:
        return 0.0, 0.0, 0.0
    local = max(1.0, arch.experts / lay.expert)
    rows = work.micro_tokens / lay.tensor * arch.experts_per_token / local
    count = local * (arch.moe_layers + arch.mtp_layers)
    up = (arch.ffn_matrices - 1) * arch.expert_width
    return _total([(count, rows, arch.width, up), (count, rows, arch.expert_width, arch.width)], work.device, again(work)[0])


def head_products(work: Workload) -> tuple[float, float, float]:
    """The output head for one micro-batch; it is never recomputed."""
    arch = work.architecture
    return _total([(1.0, work.micro_tokens, arch.width, arch.vocab / work.layout.tensor)], work.device, 0.0)


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
