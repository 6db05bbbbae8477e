"""What serving a model takes: tokens per second of prefill and decode, latency, memory, dollars and energy a million tokens.

A roofline (`scaling.hardware.roofline`) with chips, links and costs of the training estimate. Its shares of the rates are assumed, not fitted:
the ends of a band are its slow and its fast shares, not quantiles. A few published deployments are compared in benchmarks/README.md.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from scaling.errors import InputError
from scaling.hardware import roofline
from scaling.hardware.architecture import Architecture, preset
from scaling.hardware.chips import FORMATS, Chip
from scaling.hardware.cost import Cost, cost
from scaling.hardware.devices import device
from scaling.hardware.library import chip as find_chip
from scaling.hardware.roofline import FAST, SLOW, USUAL, Seconds
from scaling.hardware.workload import Layout, Workload

BITS = {"bf16": 16, "fp8": 8, "int8": 8, "fp4": 4}
CHUNK = 8192  # tokens of prompts that a pass of prefill takes together, where prompts are shorter
USABLE = 0.9  # of the memory, for weights and cache; the rest is for activations and libraries (vLLM's default)
CONTEXT = 4096
MILLION = 1e6


@dataclasses.dataclass(frozen=True)
class Phase:
    """Prefill or decode: tokens a second and chip with a band, the seconds of a pass by what bounds them, and the cost of a million tokens.

    The Cost's hours are those that the whole deployment takes for them.
    """

    tok_per_s_per_chip: float
    low: float
    high: float
    seconds: Seconds
    cost: Cost

    @property
    def bound(self) -> str:
        """compute, bandwidth or links."""
        return self.seconds.bound

    def as_dict(self) -> dict[str, Any]:
        """For JSON; dollars and kWh are of a million tokens."""
        paid = self.cost
        return {
            "tok_per_s_per_chip": self.tok_per_s_per_chip,
            "low": self.low,
            "high": self.high,
            "bound": self.bound,
            "seconds": dataclasses.asdict(self.seconds),
            "usd_per_million": {"rent": paid.usd_rent, "buy": paid.usd_buy},
            "usd_per_million_band": {"rent": paid.usd_rent_band, "buy": paid.usd_buy_band},
            "kwh_per_million": paid.energy_kwh,
        }


@dataclasses.dataclass(frozen=True)
class Inference:
    """One deployment at full load. Latencies in seconds; memory in GB a chip; `batch` sequences at a time on all chips together.

    `time_to_first_token_s` is that of one prompt that waits for no other, `time_per_output_token_s` that of a sequence in the batch; each has a
    band. `largest_batch` fits beside the weights at this context.
    """

    model: str
    chip: str
    chips: int
    tensor: int
    pipeline: int
    data: int
    format: str
    cache_format: str
    batch: int
    context: int
    prompt: int
    prefill: Phase
    decode: Phase
    time_to_first_token_s: float
    time_to_first_token_band: tuple[float, float]
    time_per_output_token_s: float
    time_per_output_token_band: tuple[float, float]
    weights_gb: float
    cache_gb: float
    cache_bytes_per_token: float
    memory_available_gb: float
    fits: bool
    largest_batch: int
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """What `isoloss estimate --inference --json` prints."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values |= {"prefill": self.prefill.as_dict(), "decode": self.decode.as_dict(), "notes": list(self.notes)}
        shares = {"low": SLOW, "middle": USUAL, "high": FAST}
        assumed = {name: dataclasses.asdict(share) for name, share in shares.items()}
        return values | {"assumed": {"shares": assumed, "cost": self.decode.cost.assumed}}


def estimate_inference(
    model: str | Architecture,
    *,
    chip: str | Chip,
    chips: int = 1,
    batch: int | None = None,
    context: int | None = None,
    prompt: int | None = None,
    format: str = "bf16",
    cache_format: str = "bf16",
    tensor: int | None = None,
    node: int | None = None,
    network_gbps: float | None = None,
    peer_to_peer: bool | None = None,
    busy: float = 1.0,
    allow_overflow: bool = False,
) -> Inference:
    """The Inference of serving `model` (a preset's name or an Architecture) from one copy on `chips` of `chip`.

    batch: sequences that decode together on all chips, by default as many as fit. context: tokens that each holds in its cache, by default 4,096. prompt: tokens
    of a prompt, by default `context`. format: bf16, fp16, fp8, int8, nvfp4, ... of weights and products; cache_format: of keys and values.
    tensor: tensor-parallel ranks, by default as many as links join; dense models put further chips in a pipeline. MoE models spread experts over all
    chips and attention over data-parallel ranks, and by default take the tensor ranks that decode fastest. node, network_gbps, peer_to_peer: as for training. busy: share of the time at this load,
    for cost and energy. What does not fit raises InputError unless `allow_overflow`.
    """
    found = find_chip(chip)
    arch = dataclasses.replace(preset(model) if isinstance(model, str) else model, mtp_layers=0)
    held = CONTEXT if context is None else context
    wanted = held if prompt is None else prompt
    given = {
        "chips": chips,
        "batch": batch,
        "context": held,
        "prompt": wanted,
        "tensor": tensor,
        "node": node,
        "network_gbps": network_gbps,
    }
    for name, value in given.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise InputError(f"inference: {name} must be positive and finite, got {value}")
        if name != "network_gbps" and value is not None and value != int(value):
            raise InputError(f"inference: {name} must be a whole number, got {value}")
    if not 0 < busy <= 1:
        raise InputError(f"inference: busy is a share of the time, above 0 and at most 1, got {busy}")
    base = _workload(arch, found, format, node, network_gbps, peer_to_peer)
    cache_bits = BITS[_format(cache_format, "cache_format")]
    layouts = _layouts(base, chips, tensor)
    rooms = [(work, _largest(work, held, cache_bits)) for work in layouts]
    fitting = [(work, room) for work, room in rooms if room >= (batch or 1)]
    if not fitting and not allow_overflow:
        raise InputError(
            _overflow(max(rooms, key=lambda each: (each[1], -_need(each[0], 1, held, cache_bits))), batch or 1, held, cache_bits)
        )

    def rate(each: tuple[Workload, int]) -> float:
        size = batch or max(1, each[1])
        return size / roofline.decode(each[0], size, held, cache_bits, USUAL).total

    work, room = max(fitting or rooms, key=rate)
    return _inference(work, found, format, cache_format, batch or max(1, room), held, wanted, room, busy)


def _workload(arch: Architecture, chip: Chip, format: str, node: int | None, network: float | None, direct: bool | None) -> Workload:
    """The model on one chip in that format. Raises InputError for a format the chip lacks."""
    name = _format(format, "format")
    peak = chip.peak(name)
    if peak is None:
        raise InputError(f"chip {chip.name} has no {name} (no rate is known); it has {', '.join(chip.formats) or 'no published rates'}")
    dev = device(chip)
    if name == "int8":
        dev = dataclasses.replace(dev, peak8=peak)
    if direct is not None:
        dev = dataclasses.replace(dev, direct=direct)
    nic = (network or 0.0) * 1e9 / 8
    return Workload(arch, dev, Layout(), sequence=1, batch=1, bits=BITS[name], node=node or dev.node, nic=nic)


def _format(name: str, what: str) -> str:
    found = FORMATS.get(name, "")
    if found not in BITS:
        raise InputError(f"inference: {what} must be one of bf16, fp16, fp8, int8, mxfp8, fp4, nvfp4, mxfp4; got {name!r}")
    return found


def _layouts(base: Workload, chips: int, tensor: int | None) -> list[Workload]:
    """Every way to cut one copy up: tensor ranks inside the links' reach, then stages of a dense model or data ranks of an MoE model."""
    arch = base.architecture
    most = min(chips, base.domain_of(chips))
    tried = [tensor] if tensor else [t for t in range(most, 0, -1) if t & (t - 1) == 0 or t == most]
    found = []
    for t in tried:
        rest = chips // t
        if chips % t or arch.heads % t or t > most or (not arch.moe_layers and rest > arch.layers):
            continue
        layout = Layout(tensor=t, data=rest, expert=chips) if arch.moe_layers else Layout(tensor=t, pipeline=rest)
        found.append(dataclasses.replace(base, layout=layout))
        if not arch.moe_layers:
            break  # stages are filled only by many sequences at once: the most tensor ranks answer soonest
    if not found:
        asked = f"tensor = {tensor}" if tensor else f"{chips} chips"
        raise InputError(
            f"inference: {asked} cannot hold a copy: tensor must divide {chips} chips and {arch.heads} heads and be at most {most}"
        )
    return found


def _cache(work: Workload, context: int, bits: int) -> float:
    """Bytes of the cache of one sequence on each of the chips that hold it."""
    return roofline.cache_bytes(work.architecture, context, bits) / roofline.cache_split(work) / work.layout.pipeline


def _largest(work: Workload, context: int, bits: int) -> int:
    """Sequences that fit beside the weights, on all chips; below 1 where the weights alone do not fit."""
    room = USABLE * work.device.memory - roofline.weight_bytes(work)
    return max(0, int(room // _cache(work, context, bits))) * work.layout.data


def _need(work: Workload, batch: int, context: int, bits: int) -> float:
    """Bytes of weights and cache on the fullest chip."""
    return roofline.weight_bytes(work) + math.ceil(batch / work.layout.data) * _cache(work, context, bits)


def _overflow(leanest: tuple[Workload, int], batch: int, context: int, bits: int) -> str:
    """By how much a deployment does not fit, and what would."""
    work, largest = leanest
    batch = batch if largest else 1
    need, room = _need(work, batch, context, bits), USABLE * work.device.memory
    text = f"memory: weights and cache of {batch} sequences need {need / 1e9:.1f} GB a chip and {work.device.name} has {room / 1e9:.1f} GB for them"
    text += f", {(need - room) / 1e9:.1f} GB too little"
    if largest >= 1:
        return f"{text}; a batch of {largest} would fit"
    return f"{text}; about {math.ceil(work.chips * need / room)} chips, or a narrower format, would hold it"


def _inference(
    work: Workload, chip: Chip, format: str, cache_format: str, batch: int, context: int, prompt: int, room: int, busy: float
) -> Inference:
    arch, lay = work.architecture, work.layout
    bits = BITS[_format(cache_format, "cache_format")]
    together = max(1, CHUNK // prompt)
    steps = [roofline.decode(work, batch, context, bits, share) for share in (SLOW, USUAL, FAST)]
    passes = [roofline.prefill(work, together, prompt, share) for share in (SLOW, USUAL, FAST)]
    first = [roofline.prefill(work, 1, prompt, share).total for share in (SLOW, USUAL, FAST)]
    decoded = _phase(chip, work.chips, steps, batch / work.chips, busy)
    # Stages work on different prompts at once.
    filled = _phase(chip, work.chips, passes, together * prompt / lay.tensor, busy)
    need = _need(work, batch, context, bits)
    cache = need - roofline.weight_bytes(work)
    notes = ["speeds are a roofline with assumed shares of the rates; a band spans the slow and the fast ones"]
    if not work.device.direct and work.chips > 1:
        notes.append("copies between chips go through the host's memory")
    if arch.moe_layers and work.chips > arch.experts:
        notes.append(f"{arch.experts} experts are cut up among {work.chips} chips")
    return Inference(
        model=arch.name or "custom",
        chip=chip.name,
        chips=work.chips,
        tensor=lay.tensor,
        pipeline=lay.pipeline,
        data=lay.data,
        format=format,
        cache_format=cache_format,
        batch=batch,
        context=context,
        prompt=prompt,
        prefill=filled,
        decode=decoded,
        time_to_first_token_s=first[1],
        time_to_first_token_band=(first[2], first[0]),
        time_per_output_token_s=steps[1].total,
        time_per_output_token_band=(steps[2].total, steps[0].total),
        weights_gb=roofline.weight_bytes(work) / 1e9,
        cache_gb=cache / 1e9,
        cache_bytes_per_token=roofline.cache_bytes(arch, context, bits) / context,
        memory_available_gb=USABLE * work.device.memory / 1e9,
        fits=need <= USABLE * work.device.memory,
        largest_batch=room,
        notes=tuple(notes),
    )


def _phase(chip: Chip, chips: int, passes: list[Seconds], tokens: float, busy: float) -> Phase:
    """A phase from its passes with slow, usual and fast shares, of so many tokens a chip."""
    low, middle, high = (tokens / each.total for each in passes)
    return Phase(middle, low, high, passes[1], cost(chip, chips, MILLION, (low, middle, high), busy))
