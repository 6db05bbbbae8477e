"""The fastest layout of N chips: every way to cut a job up that divides and fits in memory, timed at once."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

from scaling.errors import InputError
from scaling.hardware import memory
from scaling.hardware.constants import Constants, speeds
from scaling.hardware.workload import Layout, Workload, check

MICRO_BATCHES = (1, 2, 4, 8, 16)
CONTEXTS = (1, 2, 4, 8, 16)
CHUNKS = (1, 2, 3, 4, 6, 8, 12)
MOST_TENSOR = 64
STAGES = (1, 3)  # of what data-parallel ranks share out that are tried
FULLEST = 0.95  # of the memory that a layout may plan with
RECOMPUTED = ("none", "selective", "full")
LONG = 8192  # tokens of a sequence from which cutting it up is tried


def layouts(work: Workload, chips: int, zero: Sequence[int] = STAGES) -> Iterator[Layout]:
    """Every layout of `chips` chips that divides the job's model and batch, sharing out by the stages of `zero`; memory is not looked at."""
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
                    for stage in [stage for stage in zero if stage <= 1 or pipeline == 1]:
                        for recompute in RECOMPUTED:
                            yield Layout(tensor, pipeline, chunks, context, expert, data, stage if data > 1 else 0, micro, recompute)


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


class Search:
    """All layouts of a job on so many chips with the memory that each needs; their speeds are worked out once, when first asked for."""

    def __init__(self, base: Workload, chips: int, constants: Constants, zero: Sequence[int] = STAGES) -> None:
        self.base, self.chips, self.constants = base, chips, constants
        # One cutting-up to a group, by rising recomputation, which saves memory and costs time.
        self.groups: dict[Layout, list[tuple[Layout, memory.Memory]]] = {}
        for layout in dict.fromkeys(layouts(base, chips, zero)):
            need = memory.memory(dataclasses.replace(base, layout=layout))
            self.groups.setdefault(dataclasses.replace(layout, recompute="none"), []).append((layout, need))
        self._speeds: dict[Layout, float] = {}

    def on_network(self, nic: float) -> Search:
        """The same on another network, in byte/s a chip: what memory a layout needs does not depend on it."""
        other = copy.copy(self)
        other.base, other._speeds = dataclasses.replace(self.base, nic=nic), {}
        return other

    def best(
        self, room: float | None = None, optimizer: float = 1.0, activations: float = 1.0, zero: Sequence[int] | None = None
    ) -> tuple[Workload, int]:
        """The job with its fastest layout, and how many that fit were timed. Raises InputError where none divides or fits.

        room: bytes that may be planned with, the chip's memory by default. optimizer, activations: what their bytes are multiplied by.
        zero: the stages allowed, of those searched.
        """
        available = self.base.device.memory if room is None else room
        fitting, least, smallest = [], math.inf, None
        for plain, levels in self.groups.items():
            if zero is not None and plain.data > 1 and plain.zero not in zero:
                continue
            for layout, parts in levels:
                need = self._need(parts, available, optimizer, activations)
                if need < least:
                    least, smallest = need, layout
                if need <= FULLEST * available:
                    fitting.append(layout)
                    break  # the first level that fits is the fastest
        if not fitting:
            raise InputError(self._none_fits(available, least, smallest))
        self._time([layout for layout in fitting if layout not in self._speeds])
        best = dataclasses.replace(self.base, layout=max(fitting, key=lambda layout: self._speeds[layout]))
        check(best)
        return best, len(fitting)

    def _need(self, parts: memory.Memory, available: float, optimizer: float, activations: float) -> float:
        overhead = parts.overhead * (available / self.base.device.memory if self.chips > 1 else 1.0)
        changed = (optimizer - 1) * parts.optimizer + (activations - 1) * parts.activations
        return parts.total - parts.overhead + overhead + changed

    def _time(self, new: list[Layout]) -> None:
        if new:
            found = speeds(self.constants, [dataclasses.replace(self.base, layout=layout) for layout in new])
            self._speeds |= dict(zip(new, map(float, found), strict=True))

    def _none_fits(self, available: float, least: float, smallest: Layout | None) -> str:
        arch, batch, chips = self.base.architecture, self.base.batch, self.chips
        if smallest is None:
            return (
                f"no layout of {chips} chips divides {arch.layers} layers, {arch.heads} heads and a batch of {batch} sequences;"
                f" {max(1, math.gcd(chips, batch))} divides chips and batch: change either"
            )
        return (
            f"no layout of {chips} x {self.base.device.name} holds this model: the leanest needs {least / 1e9:.1f} GB a chip of {available / 1e9:.0f} GB"
            f" ({_words(smallest)}); about {chips * math.ceil(least / (FULLEST * available))} chips would"
        )


def best_layout(base: Workload, chips: int, constants: Constants) -> tuple[Workload, int]:
    """The job with its fastest layout, and how many that fit were timed. Raises InputError where none divides or fits."""
    return Search(base, chips, constants).best()


def _words(layout: Layout) -> str:
    return f"tensor {layout.tensor}, pipeline {layout.pipeline}, data {layout.data}, zero {layout.zero}, recompute {layout.recompute}"
