"""The columns from which the time law computes a step: nominal seconds by kind of work, and what describes stack and chip."""

from __future__ import annotations

import math

from scaling.hardware import communication, compute
from scaling.hardware.workload import Workload

GENERATIONS = ("volta", "ampere", "consumer", "hopper", "hopper_new", "blackwell", "tpu", "other")


def features(work: Workload) -> dict[str, float]:
    """Columns of one job."""
    kind = work.device.generation if work.device.generation in GENERATIONS else "other"
    soft = work.software
    if kind == "hopper" and soft.year > 2023.9 and (soft.family in ("megatron", "jax") or soft.year > 2025.4):
        kind = "hopper_new"  # FlashAttention 3 and cuDNN's kernel use the asynchronous units, version 2 does not
    found = {
        **compute.products(work),
        **compute.attention(work),
        **compute.traffic(work),
        **compute.launches(work),
        **communication.seconds(work),
        "doublings": math.log2(max(work.chips, 8) / 8),
        "eager": float(not work.compiled or work.software.family in ("eager",) or not work.architecture.flash),
        "async": float(work.async_tensor or (work.software.family in ("megatron", "jax") and work.software.year > 2023.5)),
        "hidden": float(work.software.stack == "hai-llm" or (work.software.family == "megatron" and work.software.year > 2025.6)),
        "direct": float(work.device.direct),
        "tokens": work.batch * work.sequence / work.chips,
    }
    for name in GENERATIONS:
        found[f"on_{name}"] = float(kind == name)
    return found
