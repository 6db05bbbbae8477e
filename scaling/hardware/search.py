"""The fastest layout of N chips: every way to cut a job up that divides and fits in memory, timed at once."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator

import numpy as np

from scaling.errors import InputError
from scaling.hardware import memory
from scaling.hardware.constants import Constants, speeds
from scaling.hardware.workload import Layout, Workload, check

MICRO_BATCHES = (1, 2, 4, 8, 16)
CONTEXTS = (1, 2, 4, 8, 16)
CHUNKS = (1, 2, 3, 4, 6, 8, 12)
MOST_TENSOR = 64
FULLEST = 0.95  # of the memory that a layout may plan with
LONG = 8192  # tokens of a sequence from which cutting it up is tried


def layouts(work: Workload, chips: int) -> Iterator[Layout]:
    """Every layout of `chips` chips that divides the job's model and batch; memory is not looked at."""
    arch = work.architecture
    tensors = [t for t in _powers(min(MOST_TENSOR, chips)) if arch.heads % t == 0 and t <= work.domain_of(chips)]
    stages = [p for p in range(1, min(arch.layers, chips) + 1) if p & (p - 1) == 0 or arch.layers % p == 0]
    contexts = CONTEXTS if work.sequence >= LONG else (1,)
    for tensor, pipeline, context in itertools.product(tensors, stages, contexts):
        model = tensor * pipeline * context
        if chips % model or work.sequence % context:
            continue
        data = chips // model
        if work.batch % data:
            continue
        own = work.batch // data
        for micro in MICRO_BATCHES:
            if own % micro or own // micro < pipeline:
                continue
            for chunks in _chunks(arch.layers, pipeline, own // micro):
                for expert in _experts(work, tensor * context * data):
                    for zero in (1,) if pipeline > 1 else (1, 3):
                        for recompute in ("none", "selective", "full"):
                            yield Layout(tensor, pipeline, chunks, context, expert, data, zero if data > 1 else 0, micro, recompute)


def _powers(most: int) -> list[int]:
    return [2**n for n in range(int(math.log2(most)) + 1)]


def _chunks(layers: int, pipeline: int, micro_batches: int) -> list[int]:
    """Interleaving asks for micro-batches in multiples of the stages (arXiv 2104.04473, section 2.2)."""
    if pipeline == 1:
        return [1]
    even = micro_batches % pipeline == 0
    return [v for v in CHUNKS if v == 1 or (even and (layers % (pipeline * v) == 0 or (layers + 2) % (pipeline * v) == 0))]


def _experts(work: Workload, ranks: int) -> list[int]:
    if not work.architecture.moe_layers:
        return [1]
    return [e for e in _powers(work.architecture.experts) if work.architecture.experts % e == 0 and ranks % e == 0]


def best_layout(base: Workload, chips: int, constants: Constants) -> tuple[Workload, int]:
    """The job with its fastest layout, and how many that fit were timed. Raises InputError where none divides or fits."""
    fitting, least, smallest = [], math.inf, None
    # For one cutting-up, more recomputation only saves memory: the first level that fits is the fastest.
    seen: set[Layout] = set()
    for layout in layouts(base, chips):
        plain = dataclasses.replace(layout, recompute="none")
        if plain in seen:
            continue
        trial = dataclasses.replace(base, layout=layout)
        need = memory.memory(trial).total
        if need < least:
            least, smallest = need, layout
        if need <= FULLEST * base.device.memory:
            seen.add(plain)
            fitting.append(trial)
    if smallest is None:
        raise InputError(
            f"no layout of {chips} chips divides {base.architecture.layers} layers, {base.architecture.heads} heads and a batch of {base.batch} sequences;"
            f" {max(1, math.gcd(chips, base.batch))} divides chips and batch: change either"
        )
    if not fitting:
        raise InputError(
            f"no layout of {chips} x {base.device.name} holds this model: the leanest needs {least / 1e9:.1f} GB a chip of {base.device.memory / 1e9:.0f} GB"
            f" ({_words(smallest)}); about {chips * math.ceil(least / (FULLEST * base.device.memory))} chips would"
        )
    value = speeds(constants, fitting)
    best = fitting[int(np.argmax(value))]
    check(best)
    return best, len(fitting)


def _words(layout: Layout) -> str:
    return f"tensor {layout.tensor}, pipeline {layout.pipeline}, data {layout.data}, zero {layout.zero}, recompute {layout.recompute}"
