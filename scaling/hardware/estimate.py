"""What a training run takes: speed with its band, utilisation, memory, hours, energy and dollars, for a layout or for the best one."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from scaling.errors import InputError
from scaling.hardware import memory
from scaling.hardware.architecture import Architecture, preset, presets
from scaling.hardware.chips import FORMATS, Chip
from scaling.hardware.compute import again
from scaling.hardware.constants import Constants, load, speed
from scaling.hardware.cost import Cost, cost
from scaling.hardware.devices import device
from scaling.hardware.library import chip as find_chip
from scaling.hardware.memory import Memory
from scaling.hardware.search import best_layout
from scaling.hardware.software import software as find_software
from scaling.hardware.workload import RECOMPUTE, Layout, Workload, check

USUAL_BATCH_TOKENS = 4e6
USUAL_STACKS = {"tpu": "MaxText", "consumer": "llm.q", "other": ""}
USUAL_STACK = "Megatron-Core"


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A training run on so many chips. `low` and `high` are an 80% band of the speed; `mfu` and `hfu` are shares of the format's dense peak.

    `step_s` is the time of a step of `batch` sequences, `breakdown` its seconds by purpose before overlap (their sum is above `step_s`).
    `flops_per_token` counts the full score matrix and no recomputation. `cost` is None where no tokens are asked for.
    """

    model: str
    chip: str
    chips: int
    tok_per_s_per_chip: float
    low: float
    high: float
    mfu: float
    hfu: float
    flops_per_token: float
    step_s: float
    breakdown: dict[str, float]
    layout: Layout
    batch: int
    sequence: int
    format: str
    memory: Memory
    memory_available_gb: float
    fits: bool
    layouts_timed: int
    tokens: float | None
    cost: Cost | None
    notes: tuple[str, ...] = ()

    @property
    def memory_gb(self) -> float:
        """Peak memory of the fullest chip, GB."""
        return self.memory.total / 1e9

    @property
    def hours(self) -> float | None:
        """Wall-clock hours, goodput included."""
        return self.cost.hours if self.cost else None

    @property
    def chip_hours(self) -> float | None:
        """Hours times chips."""
        return self.cost.chip_hours if self.cost else None

    @property
    def usd(self) -> dict[str, float | None]:
        """Dollars to rent, and the share of buying; None where rent or price is not known."""
        return {"rent": self.cost.usd_rent if self.cost else None, "buy": self.cost.usd_buy if self.cost else None}

    def as_dict(self) -> dict[str, Any]:
        """What `isoloss estimate --json` prints."""
        gigabytes = {name: value / 1e9 for name, value in dataclasses.asdict(self.memory).items()}
        return {
            "model": self.model,
            "chip": self.chip,
            "chips": self.chips,
            "tok_per_s_per_chip": self.tok_per_s_per_chip,
            "low": self.low,
            "high": self.high,
            "mfu": self.mfu,
            "hfu": self.hfu,
            "hours": self.hours,
            "chip_hours": self.chip_hours,
            "usd": self.usd,
            "cost": dataclasses.asdict(self.cost) if self.cost else None,
            "memory_gb": self.memory_gb,
            "memory": {"available_gb": self.memory_available_gb, "fits": self.fits, "gb": gigabytes},
            "layout": dataclasses.asdict(self.layout),
            "layouts_timed": self.layouts_timed,
            "batch": self.batch,
            "sequence": self.sequence,
            "format": self.format,
            "flops_per_token": self.flops_per_token,
            "step_s": self.step_s,
            "breakdown": self.breakdown,
            "notes": list(self.notes),
        }


def estimate_training(
    model: str | Architecture,
    *,
    chip: str | Chip,
    chips: int,
    tokens: float | None = None,
    sequence: int | None = None,
    batch: int | None = None,
    format: str = "bf16",
    layout: Layout | None = None,
    framework: str | None = None,
    node: int | None = None,
    network_gbps: float | None = None,
    peer_to_peer: bool | None = None,
    goodput: float | None = None,
    allow_overflow: bool = False,
    constants: Constants | None = None,
) -> Estimate:
    """The Estimate of training `model` (a preset's name or an Architecture) on `chips` of `chip`, in the given layout or the fastest that fits.

    sequence: tokens of a sequence, by default the preset's. batch: sequences of a step, by default about four million tokens. format: bf16, fp16, fp8,
    mxfp8, nvfp4, ... of the linear layers. framework: a stack and its age, such as "Megatron-Core 2024" or "MaxText"; usual for the chip by default.
    node: chips of a node; network_gbps: Gb/s a chip to other nodes; both the chip's own by default. peer_to_peer: whether chips of a node copy to each other
    directly, where a driver decides. goodput: share of the wall-clock time that trains, by default 0.85 to 0.9. tokens: of the run, for hours and dollars.
    A layout that does not divide the job, or does not fit in memory unless `allow_overflow`, raises InputError with the numbers.
    """
    found = find_chip(chip)
    if goodput is not None and not 0 < goodput <= 1:
        raise InputError(f"estimate: goodput is a share of the time, above 0 and at most 1, got {goodput}")
    base = job(
        model,
        chip=found,
        chips=chips,
        tokens=tokens,
        sequence=sequence,
        batch=batch,
        format=format,
        layout=layout,
        framework=framework,
        node=node,
        network_gbps=network_gbps,
        peer_to_peer=peer_to_peer,
    )
    fitted = constants or load()
    if layout is None:
        work, timed = best_layout(base, chips, fitted)
    else:
        if layout.chips != chips:
            raise InputError(
                f"layout: tensor {layout.tensor} x pipeline {layout.pipeline} x context {layout.context} x data {layout.data} = {layout.chips} chips, not {chips}"
            )
        check(base)
        work, timed = base, 1
    return _estimate(work, found, format, tokens, goodput, fitted, timed, allow_overflow)


def job(
    model: str | Architecture,
    *,
    chip: Chip,
    chips: int,
    tokens: float | None = None,
    sequence: int | None = None,
    batch: int | None = None,
    format: str = "bf16",
    layout: Layout | None = None,
    framework: str | None = None,
    node: int | None = None,
    network_gbps: float | None = None,
    peer_to_peer: bool | None = None,
) -> Workload:
    """The job of `estimate_training`'s arguments, in `layout` or not cut up yet. Raises InputError for values without meaning."""
    arch = preset(model) if isinstance(model, str) else model
    for name, value in (
        ("chips", chips),
        ("sequence", sequence),
        ("batch", batch),
        ("tokens", tokens),
        ("network_gbps", network_gbps),
        ("node", node),
    ):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise InputError(f"estimate: {name} must be positive and finite, got {value}")
    dev = device(chip)
    if peer_to_peer is not None:
        dev = dataclasses.replace(dev, direct=peer_to_peer)
    bits, fine = _format(format, chip)
    dev.peak(bits)
    length = sequence or int(presets().get(arch.name, {}).get("sequence", 4096))
    stack = framework if framework is not None else USUAL_STACKS.get(dev.generation, USUAL_STACK)
    return Workload(
        architecture=arch,
        device=dev,
        layout=layout or Layout(),
        sequence=length,
        batch=batch or _usual_batch(chips, length, layout),
        bits=bits,
        fine_scales=fine,
        node=node or dev.node,
        nic=(network_gbps or 0.0) * 1e9 / 8,
        software=find_software(stack, "", dev.released + 0.5),
    )


def _estimate(
    work: Workload,
    chip: Chip,
    format: str,
    tokens: float | None,
    goodput: float | None,
    fitted: Constants,
    timed: int,
    allow_overflow: bool,
) -> Estimate:
    need = memory.memory(work)
    fits = need.total <= work.device.memory
    if not fits and not allow_overflow:
        raise InputError(overflow(work, need))
    value, breakdown = speed(fitted, work)
    low, high = fitted.band.around(value, work)
    arch = work.architecture
    flops = arch.flops_per_token(work.sequence)
    mfu = value * flops / work.device.peak(work.bits)
    products, attention = again(work)
    forward = 2 * (arch.active_matmul_params - arch.head_params) * products + arch.attention_flops(work.sequence, causal=False) * attention
    notes = []
    if not work.software.stack:
        notes.append("no framework is known for this chip: speed of the law alone")
    if work.device.name not in fitted.band.chips:
        notes.append(f"no run on {work.device.name} was fitted to: its speed follows from its rates, and the band is wide")
    if not work.device.direct and work.chips > 1:
        notes.append("copies between chips go through the host's memory")
    return Estimate(
        model=arch.name or "custom",
        chip=chip.name,
        chips=work.chips,
        tok_per_s_per_chip=value,
        low=low,
        high=high,
        mfu=mfu,
        hfu=mfu * (1 + forward / flops),
        flops_per_token=flops,
        step_s=work.batch * work.sequence / (value * work.chips),
        breakdown=breakdown,
        layout=work.layout,
        batch=work.batch,
        sequence=work.sequence,
        format=format,
        memory=need,
        memory_available_gb=work.device.memory / 1e9,
        fits=fits,
        layouts_timed=timed,
        tokens=tokens,
        cost=cost(chip, work.chips, tokens, (low, value, high), goodput) if tokens else None,
        notes=tuple(notes),
    )


def _format(name: str, chip: Chip) -> tuple[int, bool]:
    """Bits of a format and whether it scales in small blocks."""
    if name not in FORMATS or name in ("fp32", "tf32", "int8", "fp16_fp16acc"):
        raise InputError(f"estimate: format must be one of bf16, fp16, fp8, mxfp8, fp4, nvfp4, mxfp4; got {name!r}")
    if chip.peak(name) is None:
        raise InputError(f"chip {chip.name} has no {name} (no rate is known); it has {', '.join(chip.formats) or 'no published rates'}")
    return {"bf16": 16, "fp8": 8, "fp4": 4}[FORMATS[name]], name.startswith(("mx", "nv"))


def _usual_batch(chips: int, sequence: int, layout: Layout | None) -> int:
    """Sequences of about four million tokens, in a number that many layouts divide."""
    if layout:
        unit = layout.data * layout.micro_batch
        return unit * max(1, round(USUAL_BATCH_TOKENS / sequence / unit))
    wanted = max(USUAL_BATCH_TOKENS / sequence, min(chips, 2 * USUAL_BATCH_TOKENS / sequence))
    odd = chips // (chips & -chips)
    return odd * 2 ** max(0, round(math.log2(wanted / odd)))


def overflow(work: Workload, need: Memory) -> str:
    """By how much a job does not fit, and the smallest change that would."""
    room = work.device.memory
    lay = work.layout
    text = f"memory: {need.total / 1e9:.1f} GB a chip are needed and {work.device.name} has {room / 1e9:.0f} GB, {(need.total - room) / 1e9:.1f} GB too little"
    halved = lay.micro_batch // 2 if lay.micro_batch % 2 == 0 else 0
    changes: list[tuple[str, dict[str, Any]]] = [
        *(
            (f"recompute {level}", {"recompute": level, "recompute_share": 1.0})
            for level in RECOMPUTE[RECOMPUTE.index(lay.recompute) + 1 :]
            if level != "some"
        ),
        *([(f"micro_batch {halved}", {"micro_batch": halved})] if halved else []),
        *((f"zero {stage}", {"zero": stage}) for stage in range(lay.zero + 1, 4) if lay.data > 1),
        *([(f"zero {3} and recompute full", {"zero": 3, "recompute": "full"})] if lay.data > 1 else []),
        ("the optimizer's states in the host's memory", {"offload_optimizer": True}),
    ]
    for words, change in changes:
        if memory.memory(dataclasses.replace(work, layout=dataclasses.replace(lay, **change))).total <= room:
            return f"{text}; {words} would fit"
    return f"{text}; no change of recomputation, micro-batch or sharing alone would fit: cut the model up further, or let the layout be searched"
