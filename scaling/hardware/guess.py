"""What a description of a job leaves out: the layout of least cutting-up that fits in memory, and a usual batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from scaling.hardware import memory
from scaling.hardware.workload import Layout, Workload

BATCH_TOKENS = 4e6  # a usual batch of a production run, where no other is known
USUAL_CHIPS = 256
MOST_MICRO_TOKENS = 16384
ROOM = 0.97  # of the memory


def complete_layout(
    base: Workload,
    *,
    chips: int | None,
    batch: int | None,
    given: Mapping[str, Any],
    shard_nodes: bool,
    offload: tuple[bool, bool],
    sequence_parallel: bool,
    said: list[str],
    scales: Mapping[str, float] | None = None,
) -> Workload:
    """`base` with a whole layout: what is `given` is kept unless it contradicts the number of chips; `said` gets the names of what was guessed."""
    arch = base.architecture
    if chips is None:
        said.append("n_chips")
        product = given.get("tensor", 1) * given.get("pipeline", 1) * given.get("context", 1)
        chips = product * given["data"] if "data" in given else max(USUAL_CHIPS, product)
    shape = _model_parallel(base, chips, given, said)
    data = max(1, chips // (shape["tensor"] * shape["pipeline"] * shape["context"]))
    if "data" in given and given["data"] != data:
        said.append("fsdp_dp")
    expert = given.get("expert", 1)
    if "expert" not in given and arch.moe_layers:
        said.append("ep")
        expert = _expert_parallel(arch.experts, shape["tensor"] * shape["context"] * data, base)
    expert = max(1, min(expert, arch.experts or 1))
    if batch is None:
        said.append("global_batch_seqs")
        batch = (
            max(data * given.get("micro_batch", 1), round(BATCH_TOKENS / base.sequence))
            if chips > 8
            else data * max(8, given.get("micro_batch", 8))
        )
    zero = given.get("zero")
    if zero is None:
        sharded = base.software.family in ("pytorch", "jax", "eager") and shape["pipeline"] == 1
        zero = 0 if data == 1 else 3 if sharded else 1
    layout = Layout(
        **shape,
        data=data,
        expert=expert,
        zero=zero,
        micro_batch=given.get("micro_batch", 1),
        recompute=given.get("recompute", "none"),
        sequence_parallel=sequence_parallel,
        shard_nodes=shard_nodes,
        offload_optimizer=offload[0],
        offload_activations=offload[1],
    )
    work = dataclasses.replace(base, layout=layout, batch=batch)
    return _micro_batch(_recompute(work, given, said, scales), given, said, scales)


def _model_parallel(base: Workload, chips: int, given: Mapping[str, Any], said: list[str]) -> dict[str, int]:
    """Tensor, pipeline (with chunks) and context parallelism; where neither is given, enough of them that the states fit."""
    arch = base.architecture
    context = given.get("context", 1)
    tensor, pipeline = given.get("tensor"), given.get("pipeline")
    if tensor is None and pipeline is None:
        said.append("layout")
        tensor = pipeline = 1
        sharded = base.software.family in ("pytorch", "jax", "eager", "cuda") or given.get("zero") == 3
        room = 0.55 * base.device.memory
        if not sharded:
            node = min(base.node, base.domain_of(chips)) if base.device.domain > 1 else 1

            def need() -> float:
                own = arch.params / (tensor * pipeline)
                return own * (4 + 14 / max(1, chips // (tensor * pipeline)))

            while need() > room and tensor < node and arch.heads % (2 * tensor) == 0:
                tensor *= 2
            while need() > room and pipeline * 2 <= arch.layers and tensor * pipeline * 2 <= chips:
                pipeline *= 2
    tensor, pipeline = tensor or 1, pipeline or 1
    # Some sources count cores where others count chips.
    while tensor > 1 and tensor * pipeline * context * given.get("data", 1) > chips and chips % (tensor * pipeline * context):
        tensor //= 2
    while tensor * pipeline * context * given.get("data", 1) > chips and tensor > 1 and "data" in given:
        tensor //= 2
    while tensor * pipeline * context > chips and pipeline > 1:
        pipeline //= 2
    while tensor * pipeline * context > chips and context > 1:
        context //= 2
    chunks = given.get("pipeline_chunks")
    if pipeline > 1 and chunks is None and base.software.year >= 2023 and base.software.family in ("megatron", ""):
        known = base.software.stack in ("megatron-bridge", "nemo", "megatron-core")
        chunks = 1 if known else max(1, min(4, round(arch.layers / pipeline / 2)))
    return {"tensor": tensor, "pipeline": pipeline, "pipeline_chunks": chunks or 1 if pipeline > 1 else 1, "context": context}


def _expert_parallel(experts: int, ranks: int, base: Workload) -> int:
    """The largest power of two that divides experts and ranks and stays within the fast links."""
    expert, most = 1, max(8, min(64, base.domain_of(ranks)))
    while expert * 2 <= most and experts % (expert * 2) == 0 and ranks % (expert * 2) == 0:
        expert *= 2
    return expert


def _recompute(work: Workload, given: Mapping[str, Any], said: list[str], scales: Mapping[str, float] | None) -> Workload:
    """The share of layers that must be recomputed for a micro-batch to fit, where the row does not tell."""
    if "recompute" in given:
        return work
    said.append("recompute")
    room = ROOM * work.device.memory
    plain, full = (memory.memory(with_layout(work, recompute=level), scales).total for level in ("none", "full"))
    if plain <= room:
        return with_layout(work, recompute="none")
    share = 1.0 if full >= room or plain <= full else (plain - room) / (plain - full)
    return with_layout(work, recompute="full", recompute_share=share)


def with_layout(work: Workload, **changes: Any) -> Workload:
    """The job with another layout."""
    return dataclasses.replace(work, layout=dataclasses.replace(work.layout, **changes))


def _micro_batch(work: Workload, given: Mapping[str, Any], said: list[str], scales: Mapping[str, float] | None) -> Workload:
    """The largest micro-batch that fits, up to a usual number of tokens; a given one is cut where a pipeline would stand empty."""
    own = max(1, work.batch // work.layout.data)
    if "micro_batch" in given:
        size = min(given["micro_batch"], own)
        if work.layout.pipeline > 1 and own / size < work.layout.pipeline:
            size = max(1, own // (2 * work.layout.pipeline))
            said.append("micro_batch_seqs")
        return with_layout(work, micro_batch=size)
    said.append("micro_batch_seqs")
    size = 1
    most = max(
        1,
        min(
            own // (4 * work.layout.pipeline if work.layout.pipeline > 1 else 1),
            int(MOST_MICRO_TOKENS * work.layout.context // work.sequence),
        ),
    )
    while size * 2 <= most and own % (size * 2) == 0:
        trial = with_layout(work, micro_batch=size * 2)
        if memory.memory(trial, scales).total > 0.9 * work.device.memory:
            break
        size *= 2
    return with_layout(work, micro_batch=size)
