"""How many rows the experts of one layer multiply, from shapes and loads alone. Plain integers, no arrays.

The nominal number is `rows * experts_per_token`. What a dispatch really does differs: padding adds, capacity drops.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from models.config import ModelConfig


def expert_capacity(config: ModelConfig, rows: int) -> int:
    """Rows of each expert in the batched product of `config.dispatch`, at most `rows`.

    With m = rows * K / E, the even load: ceil(capacity_factor * m) for capacity (Fedus et al. 2021, arXiv 2101.03961, eq. 3), and
    ceil(m + 2 sqrt(m)) for dropless, which an expert chosen at random exceeds in one of forty batches (a choice by measurement: the
    rest, in blocks, costs up to twice as much a row on a CPU). The dense dispatch gives every row to every expert.
    """
    if config.dispatch == "dense":
        return rows
    even = rows * config.experts_per_token / config.experts
    wanted = config.capacity_factor * even if config.dispatch == "capacity" else even + 2 * math.sqrt(even)
    return min(rows, math.ceil(round(wanted, 9)))  # 1.1 * 10 is above 11 in floating point


def block_rows(capacity: int) -> int:
    """Rows of the blocks in which dropless multiplies what exceeds `capacity`: the power of two at or below its eighth, at least 16."""
    return max(16, 2 ** int(math.log2(max(1, capacity // 8))))


def expert_rows(config: ModelConfig, rows: int, load: Sequence[float] | None = None) -> int:
    """Rows that one layer's routed experts multiply, forward, when `rows` tokens pass at once; padding in, shared experts out.

    `load` is each expert's share of the choices (`RouterStats.load_E`); dropless needs it, since its work depends on the
    routing, and takes an even load without it. Where the platform has a true grouped product (TPU), dropless multiplies
    `rows * experts_per_token` rows exactly. Rows that hold a token in a capacity dispatch: (1 - dropped) * rows * experts_per_token.
    """
    capacity = expert_capacity(config, rows)
    total = config.experts * capacity
    if config.dispatch != "dropless" or load is None or capacity >= rows:
        return total
    block = block_rows(capacity)
    choices = rows * config.experts_per_token
    return total + sum(block * math.ceil(max(0, round(share * choices) - capacity) / block) for share in load)
