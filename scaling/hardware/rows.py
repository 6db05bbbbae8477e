"""One row of a table of runs (the columns of training-runs.csv) as a Workload: what it lacks is inferred where it can be, and said."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from scaling.errors import InputError
from scaling.hardware.architecture import Architecture, from_params, windows
from scaling.hardware.chips import Chip
from scaling.hardware.devices import Device, device
from scaling.hardware.guess import complete_layout
from scaling.hardware.software import software
from scaling.hardware.workload import Layout, Workload

SEQUENCE, VOCAB = 4096, 50304
FLASH_YEAR = 2022.7  # stacks of before wrote attention scores to memory (FlashAttention: arXiv 2205.14135, May 2022)
LIMITS = {"tp": 4096, "pp": 4096, "n_chips": 1e8, "n_layers": 1e5, "d_model": 1e7, "seq_len": 1e9, "vocab": 1e9}


class Row:
    """A row's figures and words, whatever is in it; `inferred` gathers the columns that had to be guessed."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values
        self.inferred: list[str] = []

    def number(self, name: str) -> float | None:
        """A positive number, or None; of "50-100" the first."""
        match = re.match(r"\s*([\d.]+(?:[eE][+-]?\d+)?)", str(self.values.get(name)))
        try:
            value = float(match[1]) if match else 0.0
        except ValueError:
            return None
        return value if math.isfinite(value) and 0 < value <= LIMITS.get(name, 1e30) else None

    def whole(self, name: str) -> int | None:
        """A positive whole number, or None."""
        value = self.number(name)
        return int(value) if value and value >= 1 else None

    def words(self, *names: str) -> str:
        """The texts of these columns in lower case, empty where there are none."""
        values = (self.values.get(name) for name in names)
        return " ".join(str(value).strip().lower() for value in values if value is not None and value == value)

    def or_guess(self, name: str, guess: float) -> float:
        """The number, or a guess that is noted."""
        value = self.number(name)
        if value is None:
            self.inferred.append(name)
        return guess if value is None else value


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
    """A positive number of a raw row, or None."""
    return Row(row).number(name)


def describe(values: Mapping[str, Any], find_chip: Callable[[str], Chip], scales: Mapping[str, float] | None = None) -> Described:
    """The row's Workload; `scales` of the memory model decide what fits (`memory.PRIORS`), by default the shipped ones. Raises InputError where no estimate can be made, and says why."""
    row = Row(values)
    name = str(values.get("chip") or "").strip()
    if not name or name.lower() == "nan":
        raise InputError("no chip is named")
    if "mixed" in name.lower():
        raise InputError(f"several kinds of chips in one run: {name}")
    dev = device(find_chip(name))
    arch, full_shape = architecture(row)
    soft = software(row.words("framework"), row.words("source"), dev.released)
    if not soft.stack:
        row.inferred.append("software")
    if soft.year < FLASH_YEAR and dev.generation != "tpu":
        arch = dataclasses.replace(arch, flash=False)
    bits, fine, remarks = precision(row, dev)
    if "lora" in row.words("model"):
        remarks = (*remarks, "trains adapters: the estimate is of training all parameters")
    given, words = row.words("precision"), row.words("recompute", "notes", "zero_stage")
    base = Workload(
        architecture=arch,
        device=dev,
        layout=Layout(),
        sequence=int(row.or_guess("seq_len", SEQUENCE)),
        batch=0,
        bits=bits,
        fine_scales=fine,
        node=row.whole("chips_per_node") or dev.node,
        nic=(row.number("nic_gbps_per_chip") or 0.0) * 1e9 / 8,
        software=soft,
        wide_gradients="fp32 grad" in given or (soft.stack == "megatron-deepspeed" and given.startswith("bf16")),
        compiled="no torch.compile" not in words and soft.family != "eager",
        async_tensor="async tp" in words,
        measured_hours=any(word in row.words("tok_basis") for word in ("hours", "wall", "training time")),
    )
    work = lay_out(row, base, scales)
    return Described(work, tuple(dict.fromkeys(row.inferred)), full_shape, remarks)


def architecture(row: Row) -> tuple[Architecture, bool]:
    """The shape of a row's model, and whether the row had all of it."""
    width = row.whole("d_model")
    params = (row.number("params_total_b") or 0.0) * 1e9
    vocab = int(row.or_guess("vocab", VOCAB))
    if not width:
        if not params:
            raise InputError("neither the model's shape nor its number of parameters is given")
        row.inferred.append("shape from params")
        return from_params((row.number("params_active_b") or 0.0) * 1e9 or params, vocab), False
    fields = windows(row.words("attn"))
    heads = int(row.or_guess("n_heads", max(1, round(width / (row.number("head_dim") or 128)))))
    usual = 128 if fields["attention"] == "mla" else max(1, width // heads)
    head_dim = int(row.or_guess("head_dim", usual))
    matrices = 3 if row.number("ffn_matrices") == 3 else 2
    experts = row.whole("n_experts") or 0
    used = min(row.whole("top_k") or 0, experts)
    ffn_width = row.whole("d_ff")
    if not ffn_width:
        ffn_width = int(4 * width if matrices == 2 else 8 * width / 3)
        if not row.number("expert_d_ff"):
            row.inferred.append("d_ff")
    layers = row.whole("n_layers")
    if not layers:
        per_layer = 4 * width**2 + matrices * width * ffn_width
        layers = int(row.or_guess("n_layers", max(1, round(max(params - vocab * width, 0.5 * params) / per_layer)) if params else 32))
    if not used:
        experts = 0
    shape = Architecture(
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=min(row.whole("n_kv_heads") or heads, heads),
        head_dim=head_dim,
        ffn_width=ffn_width,
        vocab=vocab,
        ffn_matrices=matrices,
        experts=experts,
        experts_per_token=used,
        shared_experts=(row.number("n_shared_experts") or 0.0) if experts else 0.0,
        expert_width=(row.whole("expert_d_ff") or ffn_width) if experts else 0,
        moe_layers=min(int(row.or_guess("moe_layers", layers)), layers) if experts else 0,
        mtp_layers=int(any(words in row.words("notes") for words in ("extra mtp", "w/ mtp"))),
        **fields,
    )
    needed = ("n_layers", "n_heads", "vocab", "seq_len")
    return shape, all(row.number(name) for name in needed) and bool(row.number("d_ff") or row.number("expert_d_ff"))


def precision(row: Row, dev: Device) -> tuple[int, bool, tuple[str, ...]]:
    """Bits of the linear layers' format, whether its scales are fine-grained, and remarks."""
    given, notes = row.words("precision"), row.words("notes")
    storage_only = given.startswith("bf16 (fp8 storage")
    bits = 4 if "fp4" in given else 8 if "fp8" in given and not storage_only else 16
    fine = bits == 8 and ("fine-grained" in notes or any(word in given for word in ("mxfp8", "fine", "block", "rowwise")))
    if (bits == 4 and not dev.peak4) or (bits == 8 and not dev.peak8):
        return 16, False, (f"{dev.name} has no fp{bits}: estimated in bf16",)
    return bits, fine, ()


def recompute(words: str) -> str | None:
    """The level of recomputation that a row's words mean; None where it says nothing."""
    if not words:
        return None
    if words.startswith(("none", "partial")) or words in ("minimal", "norm", "recompute swiglu"):
        return "none"
    if "full" in words or "recompute all" in words:
        return "full"
    if any(word in words for word in ("per op", "ffn", "offloaded", "custom", "block")):
        return "some"
    return "selective"


def zero_stage(row: Row) -> int | None:
    """What data-parallel ranks share, by the row's words."""
    stage = row.words("zero_stage")
    if "hsdp" in stage or re.search(r"shard.weights", row.words("recompute", "notes")):
        return 3
    return int(stage[0]) if stage[:1] in ("0", "1", "2", "3") else None


def lay_out(row: Row, base: Workload, scales: Mapping[str, float] | None) -> Workload:
    """`base` with the row's layout; what is missing is the smallest that fits in memory."""
    words = row.words("recompute", "notes", "zero_stage")
    given = {
        "tensor": row.whole("tp"),
        "pipeline": row.whole("pp"),
        "pipeline_chunks": row.whole("vp"),
        "context": row.whole("cp"),
        "expert": row.whole("ep"),
        "data": row.whole("fsdp_dp"),
        "micro_batch": row.whole("micro_batch_seqs"),
        "zero": zero_stage(row),
        "recompute": recompute(row.words("recompute")),
    }
    states = bool(re.search(r"offload-opt|offload m|cpu offload|\+ offload", words))
    modern = base.software.year >= 2022.4 and base.software.stack != "megatron-deepspeed"
    return complete_layout(
        base,
        chips=row.whole("n_chips"),
        batch=row.whole("global_batch_seqs"),
        given={name: value for name, value in given.items() if value is not None},
        shard_nodes="hsdp" in row.words("zero_stage"),
        offload=(states, "offload-residual" in words),
        sequence_parallel=modern or "sequence-parallel" in words,
        said=row.inferred,
        scales=scales,
    )
