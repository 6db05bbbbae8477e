"""One row of a table of runs (the columns of training-runs.csv) as a Workload: what it lacks is inferred where it can be, and said."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from scaling.errors import InputError
from scaling.hardware.architecture import Architecture, from_params, windows
from scaling.hardware.devices import Device, device
from scaling.hardware.software import software
from scaling.hardware.workload import Layout, Workload

SEQUENCE, VOCAB = 4096, 50304
FLASH_YEAR = 2022.7  # stacks of before wrote attention scores to memory (FlashAttention: arXiv 2205.14135, May 2022)


@dataclasses.dataclass(frozen=True)
class Described:
    """A row's workload, which of its inputs were inferred (by column), and whether the shape was complete."""

    workload: Workload
    inferred: tuple[str, ...]
    full_shape: bool
    remarks: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """What was inferred, in words."""
        return "; ".join([*self.remarks, *([f"inferred: {', '.join(self.inferred)}"] if self.inferred else [])])


def number(row: Mapping[str, Any], name: str) -> float | None:
    """A positive number of a row, or None; of "50-100" the first."""
    match = re.match(r"\s*([\d.]+(?:[eE][+-]?\d+)?)", str(row.get(name, "") if row.get(name) is not None else ""))
    try:
        value = float(match[1]) if match else None
    except ValueError:
        return None
    return value if value and math.isfinite(value) and value > 0 else None


def text(row: Mapping[str, Any], name: str) -> str:
    """A text of a row in lower case, empty where there is none."""
    value = row.get(name)
    return "" if value is None or value != value else str(value).strip().lower()


def describe(row: Mapping[str, Any], find_chip: Callable[[str], Any]) -> Described:
    """The row's Workload. Raises InputError where no estimate can be made, and says why."""
    said: list[str] = []
    name = str(row.get("chip") or "").strip()
    if not name or name.lower() == "nan":
        raise InputError("no chip is named")
    if "mixed" in name.lower():
        raise InputError(f"several kinds of chips in one run: {name}")
    dev = device(find_chip(name))
    arch, full_shape = architecture(row, said)
    soft = software(text(row, "framework"), text(row, "source"), dev.released)
    if not soft.stack:
        said.append("software")
    bits, fine, remark = precision(row, dev)
    words = " ".join(text(row, key) for key in ("recompute", "notes", "zero_stage"))
    if soft.year < FLASH_YEAR and dev.generation != "tpu":
        arch = dataclasses.replace(arch, flash=False)
    base = Workload(
        architecture=arch,
        device=dev,
        layout=Layout(),
        sequence=int(number(row, "seq_len") or said.append("seq_len") or SEQUENCE),
        batch=0,
        bits=bits,
        fine_scales=fine,
        node=int(number(row, "chips_per_node") or min(dev.domain, 8) if dev.domain > 1 else number(row, "chips_per_node") or 8),
        nic=(number(row, "nic_gbps_per_chip") or 0.0) * 1e9 / 8,
        software=soft,
        wide_gradients="fp32 grad" in text(row, "precision") or soft.stack == "megatron-deepspeed" and text(row, "precision").startswith("bf16"),
        compiled="no torch.compile" not in words and soft.family != "eager",
        async_tensor="async tp" in words,
        measured_hours=any(word in text(row, "tok_basis") for word in ("hours", "wall", "training time")),
    )
    work = lay_out(row, base, said)
    return Described(work, tuple(dict.fromkeys(said)), full_shape, (remark,) if remark else ())


def architecture(row: Mapping[str, Any], said: list[str]) -> tuple[Architecture, bool]:
    """The shape of a row's model, and whether the row had all of it."""
    get = lambda name: number(row, name)  # noqa: E731
    layers, width = get("n_layers"), get("d_model")
    params = (get("params_total_b") or 0) * 1e9
    vocab = int(get("vocab") or said.append("vocab") or VOCAB)
    if not width:
        if not params:
            raise InputError("neither the model's shape nor its number of parameters is given")
        said.append("shape from params")
        return from_params((get("params_active_b") or 0) * 1e9 or params, vocab), False
    heads = get("n_heads") or (round(width / get("head_dim")) if get("head_dim") else None)
    full = bool(layers and heads and (get("d_ff") or get("expert_d_ff")) and get("vocab") and get("seq_len"))
    if not heads:
        said.append("n_heads")
        heads = max(1, round(width / 128))
    fields = windows(text(row, "attn"))
    head_dim = get("head_dim") or (128 if fields["attention"] == "mla" else max(1, width // heads))
    if not get("head_dim"):
        said.append("head_dim")
    if not get("d_ff") and not get("expert_d_ff"):
        said.append("d_ff")
    matrices = int(get("ffn_matrices") or 2)
    d_ff = get("d_ff") or (4 * width if matrices == 2 else 8 * width / 3)
    experts, top_k = get("n_experts") or 0, get("top_k") or 0
    moe_layers = get("moe_layers") or (layers if experts and top_k and layers else 0)
    if not layers:
        said.append("n_layers")
        per_layer = 4 * width**2 + matrices * width * d_ff
        layers = max(1, round(max(params - vocab * width, 0.5 * params) / per_layer)) if params else 32
    if experts and not get("moe_layers"):
        said.append("moe_layers")
    kv = get("n_kv_heads") or heads
    shape = Architecture(
        layers=int(layers), width=int(width), heads=int(heads), kv_heads=int(min(kv, heads)), head_dim=int(head_dim), ffn_width=int(d_ff),
        vocab=vocab, ffn_matrices=matrices, experts=int(experts), experts_per_token=int(min(top_k, experts)), shared_experts=get("n_shared_experts") or 0,
        expert_width=int(get("expert_d_ff") or d_ff) if experts else 0, moe_layers=int(min(moe_layers, layers)) if experts and top_k else 0,
        mtp_layers=1 if "mtp" in text(row, "notes") and "w/o mtp" not in text(row, "notes") and "extra mtp" in text(row, "notes") + " extra mtp" * ("w/ mtp" in text(row, "notes")) else 0,
        **fields,
    )  # fmt: skip
    return shape, full


def precision(row: Mapping[str, Any], dev: Device) -> tuple[int, bool, str]:
    """Bits of the linear layers' format, whether its scales are fine-grained, and a remark."""
    given, notes = text(row, "precision"), text(row, "notes")
    bits = 4 if re.search(r"fp4", given) else 8 if re.search(r"fp8", given) and not given.startswith("bf16 (fp8 storage") else 16
    fine = bits == 8 and ("mxfp8" in given or "fine" in given or "block" in given or "fine-grained" in notes or "rowwise" in given)
    if bits == 4 and not dev.peak4 or bits == 8 and not dev.peak8:
        return 16, False, f"{dev.name} has no fp{bits}: estimated in bf16"
    return bits, fine, ""


def recompute(row: Mapping[str, Any]) -> str | None:
    """The level of recomputation that a row's words mean; None where it says nothing."""
    words = text(row, "recompute")
    if not words:
        return None
    if words.startswith("none") or words == "minimal" or words.startswith("partial") or words in ("norm", "recompute swiglu"):
        return "none"
    if "full" in words or "recompute all" in words:
        return "full"
    if "per op" in words or "ffn" in words or "offloaded" in words or "custom" in words or "block" in words:
        return "some"
    return "selective"


def lay_out(row: Mapping[str, Any], base: Workload, said: list[str]) -> Workload:
    """`base` with the row's layout; what is missing is the smallest that fits in memory."""
    from scaling.hardware.guess import complete_layout

    get = lambda name: number(row, name)  # noqa: E731
    whole = lambda name: int(get(name)) if get(name) else None  # noqa: E731
    words = " ".join(text(row, key) for key in ("recompute", "notes", "zero_stage"))
    stage = text(row, "zero_stage")
    zero = 3 if stage.startswith("3") or "hsdp" in stage else 2 if stage.startswith("2") else int(stage[0]) if stage[:1] in "01" and stage else None
    if zero is None and "shard-weights" in words or "shard weights" in words:
        zero = 3
    offload = "offload" in words
    given = {
        "tensor": whole("tp"), "pipeline": whole("pp"), "pipeline_chunks": whole("vp"), "context": whole("cp"), "expert": whole("ep"), "data": whole("fsdp_dp"),
        "micro_batch": whole("micro_batch_seqs"), "zero": zero, "recompute": recompute(row),
    }  # fmt: skip
    return complete_layout(
        base,
        chips=whole("n_chips"),
        batch=whole("global_batch_seqs"),
        given={name: value for name, value in given.items() if value is not None},
        shard_nodes="hsdp" in stage,
        offload=(offload and bool(re.search(r"opt-|offload m|cpu offload|\+ offload|no offload", words)) and "no offload" not in words, "offload-residual" in words),
        sequence_parallel=base.software.year >= 2022.4 and base.software.stack != "megatron-deepspeed" or "sequence" in words,
        said=said,
    )
