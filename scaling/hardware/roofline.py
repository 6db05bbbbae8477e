"""Seconds of one forward pass by the roofline: every part as slow as its products or its memory traffic, and the links on top.

Assumed where no data calibrate it: the shares of the rates in SLOW, USUAL and FAST. The share of grouped products is that of the training
rows; a link's share is near the measured 80% of a ring.
"""

from __future__ import annotations

import dataclasses
import math

from scaling.hardware.architecture import Architecture
from scaling.hardware.workload import Workload

GROUPED_SHARE = 0.6  # grouped products of experts over plain ones: padding, uneven load (0.59 in a fit to training rows)
ATTENTION_SHARE = 0.6  # attention over plain products
CALL_S, SLOW_CALL_S = 10e-6, 30e-6  # seconds to start a collective over links, and over PCIe or the network; assumed
MOST_NODES = 4.0  # that a token is routed to (arXiv 2412.19437, section 2.1.2)


@dataclasses.dataclass(frozen=True)
class Shares:
    """What is reached: of the best matrix product, of the memory's and of the links' nominal bandwidth; `exposed`: of the links' time, not hidden."""

    compute: float
    bandwidth: float
    links: float
    exposed: float


SLOW, USUAL, FAST = Shares(0.5, 0.6, 0.6, 1.0), Shares(0.7, 0.75, 0.75, 0.5), Shares(0.9, 0.9, 0.9, 0.0)


@dataclasses.dataclass(frozen=True)
class Seconds:
    """Of a pass, by what bounds its parts."""

    compute: float
    bandwidth: float
    links: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.compute + self.bandwidth + self.links

    @property
    def bound(self) -> str:
        """What most of the time goes by: compute, bandwidth or links."""
        return max(("compute", "bandwidth", "links"), key=lambda name: getattr(self, name))


def cache_bytes(arch: Architecture, context: float, bits: int = 16) -> float:
    """Bytes of the keys and values of one sequence of `context` tokens, all layers.

    GQA keeps 2 x kv_heads x head_dim elements a token and layer (arXiv 2305.13245), MLA the latent and the shared rotary key (arXiv 2405.04434,
    section 2.1.2); windowed layers keep their window.
    """
    element = arch.kv_rank + arch.rope if arch.attention == "mla" else 2 * arch.kv_heads * arch.head_dim
    held = (1 - arch.windowed) * context + arch.windowed * min(context, arch.window)
    return arch.layers * element * held * bits / 8


def cache_split(work: Workload) -> int:
    """Chips among which tensor parallelism divides a sequence's cache: no more than heads of keys; MLA's latent is kept whole on each."""
    return 1 if work.architecture.attention == "mla" else min(work.layout.tensor, work.architecture.kv_heads)


def weight_bytes(work: Workload) -> float:
    """Bytes of weights on one chip: experts are divided among all chips, the rest among tensor and pipeline ranks. 16-bit input embedding."""
    arch, lay = work.architecture, work.layout
    model = lay.tensor * lay.pipeline
    stored = (arch.dense_params + arch.head_params) * work.bits / 8 + 2 * arch.head_params
    return stored / model + arch.expert_params * work.bits / 8 / (model * lay.data)


def decode(work: Workload, batch: float, context: float, cache_bits: int, shares: Shares) -> Seconds:
    """One more token for each of `batch` sequences that hold `context` tokens: latency of the pass through all stages."""
    arch, lay = work.architecture, work.layout
    tokens = max(1.0, batch / (lay.data * lay.pipeline))
    # MLA meets the latent itself (the up-projections are absorbed): arXiv 2405.04434, section 2.1.2.
    width = 2 * arch.kv_rank + arch.rope if arch.attention == "mla" else arch.query_width + arch.head_dim
    seen = (1 - arch.windowed) * context + arch.windowed * min(context, arch.window)
    flops = 2 * arch.layers * arch.heads * width * seen * tokens / lay.tensor
    traffic = cache_bytes(arch, context, cache_bits) * tokens / cache_split(work)
    # Keys and values of a narrow format are multiplied in it where the chip can (FlashMLA-FP8, FlashAttention 3).
    narrow = cache_bits == 8 and bool(work.device.peak8)
    return _pass(work, tokens, tokens, flops / 2 if narrow else flops, traffic, shares)


def prefill(work: Workload, prompts: float, prompt: int, shares: Shares) -> Seconds:
    """`prompts` of `prompt` tokens on every data-parallel rank: latency of the pass through all stages. Only a prompt's last token needs logits."""
    arch = work.architecture
    tokens = prompts * prompt
    return _pass(work, tokens, prompts, arch.attention_flops(prompt) * tokens / work.layout.tensor, 0.0, shares)


def _pass(work: Workload, tokens: float, logits: float, flops: float, traffic: float, shares: Shares) -> Seconds:
    """All layers for `tokens` of every data-parallel rank; `flops` and `traffic` of the attention of one chip."""
    arch, lay, dev = work.architecture, work.layout, work.device
    share = dev.share16 if work.bits == 16 else dev.share8
    rate = dev.peak(work.bits) * share * shares.compute
    bandwidth = dev.bandwidth * shares.bandwidth
    size = work.bits / 8
    routed = arch.moe_layers * arch.experts_per_token * arch.ffn_params(arch.expert_width)
    touched = 1 - (1 - arch.experts_per_token / arch.experts) ** (tokens * lay.data) if arch.moe_layers else 0.0
    parts = (
        (2 * (arch.dense_params * tokens + arch.head_params * logits) / rate, (arch.dense_params + arch.head_params) * size / bandwidth),
        (2 * routed * tokens / rate / GROUPED_SHARE, arch.expert_params * touched * size / lay.data / bandwidth),
        (
            flops * lay.tensor / (dev.peak16 * dev.share16 * shares.compute * ATTENTION_SHARE),
            traffic * lay.tensor / bandwidth,
        ),
    )
    compute = sum(products for products, moved in parts if products > moved) / lay.tensor
    moving = sum(moved for products, moved in parts if moved >= products) / lay.tensor
    return Seconds(compute, moving, shares.exposed * _links(work, tokens, shares.links))


def _links(work: Workload, tokens: float, share: float) -> float:
    """Seconds of the collectives of a pass: two all-reduces a layer, two all-to-alls an expert layer, and the steps between stages."""
    arch, lay = work.architecture, work.layout
    direct = 1.0 if work.device.direct else 0.5  # copies through the host's memory cross PCIe twice
    link, network = work.link * direct * share, work.network * share
    fast = CALL_S if work.device.domain > 1 else SLOW_CALL_S
    seconds = 0.0
    if lay.tensor > 1:
        volume = 2 * (lay.tensor - 1) / lay.tensor * tokens * arch.width * 2
        seconds += 2 * arch.layers * (volume / link + fast)
    if lay.pipeline > 1:
        seconds += (lay.pipeline - 1) * (tokens * arch.width * 2 / lay.tensor / network + SLOW_CALL_S)
    if arch.moe_layers and work.chips > 1:
        inside = min(work.chips, work.domain)
        nodes = math.ceil(work.chips / inside)
        # Out in the products' format, back in 16 bits; a token crosses the network once for every node that it visits.
        volume = tokens / lay.tensor * arch.width * (work.bits / 8 + 2)
        visited = min(nodes * (1 - (1 - 1 / nodes) ** arch.experts_per_token), MOST_NODES)
        each = volume * arch.experts_per_token * (inside - 1) / inside / link + 2 * fast
        if nodes > 1:
            each += volume * visited * (nodes - 1) / nodes / network + 2 * SLOW_CALL_S
        seconds += arch.moe_layers * each
    return seconds
