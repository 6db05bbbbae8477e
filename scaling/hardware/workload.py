"""One training job: an architecture on so many chips, cut up by a layout, in a number format, by a software stack."""

from __future__ import annotations

import dataclasses
import math

from scaling.errors import InputError
from scaling.hardware.architecture import Architecture
from scaling.hardware.devices import Device
from scaling.hardware.software import UNKNOWN, Software

RECOMPUTE = ("none", "selective", "some", "full")


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a job is cut up. `pipeline_chunks` per stage are interleaved; `micro_batch` is sequences per data-parallel rank at a time.

    `zero` 0-3 says what the data-parallel ranks share out: nothing, the optimizer's states, gradients too, weights too (FSDP). `shard_nodes`: weights
    are shared out inside a node only (HSDP). `expert` ranks lie within data times tensor ranks. `recompute`: none, selective (scores and cheap
    parts), some (about half of every layer), full; in that share of the layers. `offload`: optimizer, or activations too, in the host's memory.
    """

    tensor: int = 1
    pipeline: int = 1
    pipeline_chunks: int = 1
    context: int = 1
    expert: int = 1
    data: int = 1
    zero: int = 1
    micro_batch: int = 1
    recompute: str = "none"
    recompute_share: float = 1.0
    sequence_parallel: bool = True
    shard_nodes: bool = False
    offload_optimizer: bool = False
    offload_activations: bool = False

    @property
    def chips(self) -> int:
        """Chips that the layout takes."""
        return self.tensor * self.pipeline * self.context * self.data


@dataclasses.dataclass(frozen=True)
class Workload:
    """A job whose step can be timed. `batch` counts sequences of a step; `format` is that of the linear layers, `bits` its width."""

    architecture: Architecture
    device: Device
    layout: Layout
    sequence: int
    batch: int
    bits: int = 16
    fine_scales: bool = False  # block or micro scaling of narrow formats
    node: int = 8
    nic: float = 0.0  # byte/s a chip, the device's own where 0
    software: Software = UNKNOWN
    wide_gradients: bool = False  # an fp32 sum of gradients beside those of a micro-batch
    compiled: bool = True
    async_tensor: bool = False
    measured_hours: bool = False  # the figure asked for is from hours, downtime included

    @property
    def chips(self) -> int:
        """Chips of the job."""
        return self.layout.chips

    @property
    def micro_batches(self) -> float:
        """Micro-batches a step of one data-parallel rank."""
        return max(1.0, self.batch / (self.layout.data * self.layout.micro_batch))

    @property
    def micro_tokens(self) -> float:
        """Tokens of a micro-batch on one context-parallel rank."""
        return self.layout.micro_batch * self.sequence / self.layout.context

    @property
    def domain(self) -> int:
        """Chips joined by the fast links."""
        return self.domain_of(self.chips)

    def domain_of(self, chips: int) -> int:
        """Chips joined by the fast links in a job of so many: the links' own reach, or the node where only PCIe reaches all of it."""
        return min(chips, self.device.domain if self._linked(chips) else self.node)

    def _linked(self, chips: int) -> bool:
        return self.device.domain >= min(self.node, chips)

    @property
    def link(self) -> float:
        """Byte/s of a chip, one way, inside the domain."""
        return self.device.link if self._linked(self.chips) else self.device.host

    @property
    def network(self) -> float:
        """Byte/s of a chip to other nodes."""
        return self.nic or self.device.nic


def check(work: Workload) -> None:
    """Raises InputError where the layout does not divide the model, the batch or the chips."""
    arch, lay = work.architecture, work.layout
    divisions = (
        ("heads", arch.heads, "tensor", lay.tensor),
        ("batch", work.batch, "data x micro_batch", lay.data * lay.micro_batch),
        ("sequence", work.sequence, "context", lay.context),
    )
    for what, size, name, parts in divisions:
        if size % parts:
            raise InputError(f"layout: {what} = {size} do not divide by {name} = {parts}; {_nearest(size, parts)}")
    # Stages need not be equal (DeepSeek-V3 has 61 layers on 16), but none may be empty; embedding and head may stand for a layer each.
    stages = lay.pipeline * lay.pipeline_chunks
    if stages > arch.layers + 2 * (lay.pipeline_chunks > 1):
        raise InputError(f"layout: {arch.layers} layers are too few for pipeline x pipeline_chunks = {stages}; {arch.layers} is the most")
    if lay.expert > 1:
        if not arch.moe_layers:
            raise InputError(f"layout: expert = {lay.expert}, but the model has no experts")
        if arch.experts < lay.expert or arch.experts % lay.expert:
            raise InputError(f"layout: {arch.experts} experts do not divide by expert = {lay.expert}; {_nearest(arch.experts, lay.expert)}")
        ranks = lay.tensor * lay.context * lay.data
        if ranks % lay.expert:
            raise InputError(f"layout: expert = {lay.expert} must divide tensor x context x data = {ranks}; {_nearest(ranks, lay.expert)}")
    if lay.zero not in (0, 1, 2, 3) or lay.recompute not in RECOMPUTE:
        raise InputError(f"layout: zero is 0 to 3 and recompute one of {', '.join(RECOMPUTE)}; got {lay.zero} and {lay.recompute!r}")


def _nearest(size: int, parts: int) -> str:
    fit = [n for n in range(1, math.isqrt(size) + 1) if size % n == 0]
    divisors = sorted({*fit, *(size // n for n in fit)}, key=lambda n: abs(math.log(n / parts)))
    return f"{' or '.join(map(str, sorted(divisors[:2])))} would"
