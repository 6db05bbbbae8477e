"""What a chip is worth against an H100: FLOP/s, memory and links, throughput of training and of serving by a roofline, and FLOP a dollar."""

from __future__ import annotations

import dataclasses
import math

from scaling.errors import InputError
from scaling.hardware.chips import Chip
from scaling.hardware.library import chip as find_chip

REFERENCE = "H100-SXM-80GB"
PCIE_GBPS = 32.0  # what a chip without links has

# FLOP for each byte of memory and of link traffic. Training: large products, and links at which an H800's halved ones just suffice (it trained
# DeepSeek-V3 at the throughput of an H100). Decoding: some tens of requests share each reading of the weights; links are no bound.
TRAINING = (1000.0, 5000.0)
SERVING = (20.0, math.inf)


@dataclasses.dataclass(frozen=True)
class Quality:
    """Ratios to an H100: dense bf16 FLOP/s, memory bandwidth, links; throughput of training and of serving; training FLOP a dollar of price."""

    chip: str
    flops: float
    memory: float
    links: float
    training: float
    serving: float
    per_dollar: float | None


def quality(name: str | Chip, price_usd: float | None = None) -> Quality:
    """The quality of a chip of the table; `price_usd` stands for its price. InputError where a rate is not known."""
    chip, reference = find_chip(name), find_chip(REFERENCE)
    ours, theirs = _rates(chip), _rates(reference)
    training, serving = (_rate(ours, work) / _rate(theirs, work) for work in (TRAINING, SERVING))
    price = chip.price_usd if price_usd is None else price_usd
    assert reference.price_usd is not None
    per_dollar = None if price is None else training * reference.price_usd / price
    return Quality(chip.name, *(one / other for one, other in zip(ours, theirs, strict=True)), training, serving, per_dollar)


def _rates(chip: Chip) -> tuple[float, float, float]:
    """FLOP/s, bytes/s of memory, bytes/s of links."""
    peak = chip.peak("bf16")
    if peak is None or chip.mem_bw_gbps is None:
        raise InputError(
            f"chip {chip.name}: its bf16 rate or its memory's bandwidth is not known, so its worth cannot be computed; choose another"
        )
    return peak, chip.mem_bw_gbps * 1e9, max(chip.scaleup_unidir_gbps or 0.0, PCIE_GBPS) * 1e9


def _rate(rates: tuple[float, float, float], work: tuple[float, float]) -> float:
    """FLOP/s of a workload: the slowest of the three resources."""
    return min(rates[0], rates[1] * work[0], rates[2] * work[1])
