"""Peak memory of a training process, predicted from shapes before anything is allocated, and what the machine has.

A step holds float32 parameters and moments (donated: old and new share their place), two sets of gradients (one micro-batch's and
their sum), what the forward pass keeps for the backward one, and working arrays. Which arrays a block keeps is known; how often XLA holds
one of them twice, in another layout or before it is reused, is not: those factors are measured on XLA's own account of compiled
steps (`memory_analysis`, CPU, jax 0.10.2), which the tests compare.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from models.accounting import REMAT, count_params
from models.config import ConfigError, ModelConfig
from models.expert_rows import expert_rows
from models.precision import policy
from models.sharding import ONE_DEVICE, Layout
from models.transformer import UNROLLED_LAYERS

OPTIMIZERS = ("adam", "muon")
FLOAT32 = 4
PROCESS_BYTES = 510_000_000  # resident once a tiny model trains: Python, JAX, Flax, the compiler (Linux, x86-64)

PROCESS_STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")

# Measured factors.
GRADIENT_COPIES = 3  # sizes of the parameters during the backward pass: the sum, the newest, and weights turned for products
UPDATE_COPIES = 4  # the same during the optimiser's update
LOOP_FACTOR = 1.2  # activations where blocks run in a loop, over those of unrolled blocks
HOST_BYTES = {"bfloat16": 3.0, "float16": 4.5}  # per value on a CPU, whose products widen operands to float32


@dataclasses.dataclass(frozen=True)
class Memory:
    """Predicted bytes by what they hold; `total` is the peak."""

    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def __str__(self) -> str:
        largest = sorted(self.parts.items(), key=lambda item: -item[1])
        return f"{_human(self.total)} ({', '.join(f'{name} {_human(size)}' for name, size in largest if size)})"


def predict_memory(
    config: ModelConfig,
    precision: str = "fp32",
    micro_batch: int = 1,
    *,
    optimizer: str = "adam",
    remat: str = "none",
    kernels: bool = False,
    teacher: ModelConfig | None = None,
    layout: Layout = ONE_DEVICE,
    copies: int = 1,
    dead: int = 0,
    corpus_bytes: int = 0,
    platform: str = "cpu",
) -> Memory:
    """Peak bytes of a process that trains `config` with `micro_batch` sequences at once.

    `kernels`: attention keeps no score matrix. `teacher`: the model whose logits are learnt from. Of a `layout` one device's part counts,
    with the weights that it brings together from others: of all blocks where they are unrolled, else of one. `copies` of everything but
    corpus and process live side by side: members of an ensemble, or the layout's devices where they are a host's virtual ones. `dead`
    networks lie beside, whose gradient is made and dropped, one after another. `corpus_bytes`: what the caller keeps on the device besides. On the host the process itself counts, on an accelerator only its arrays. Rematerialised blocks are
    taken to run in a loop: unrolled, XLA moves the second computation forward and saves nothing. ConfigError for an unknown
    optimizer or remat policy.
    """
    if remat not in REMAT:
        raise ConfigError(f"remat must be one of {', '.join(REMAT)}, got {remat!r}")
    weights, width = _weight_bytes(config, layout), _value_bytes(precision, platform)
    kept, working = _block_bytes(config, micro_batch, width, kernels, layout)
    logits = FLOAT32 * micro_batch * config.context * config.vocab_size
    looped = LOOP_FACTOR if remat == "blocks" or config.layers > UNROLLED_LAYERS else 1.0
    if remat == "blocks":  # the stream between blocks, and one block's activations made again
        kept, working = width * micro_batch * config.context * config.width, working + kept
    parts = {
        "parameters": (1 + dead) * weights,
        "moments": _moment_bytes(config, optimizer, layout),
        "gathered weights": _gathered_bytes(config, layout, remat),
        "gradients": (1 + bool(dead)) * GRADIENT_COPIES * weights,
        "activations": looped * config.layers * kept,
        "working arrays": working + 2 * logits,
        "overflow of experts": _overflow_bytes(config, micro_batch, width, layout),
    }
    if teacher is not None:  # its activations are gone before the student's backward pass
        forward = _block_bytes(teacher, micro_batch, width, kernels, layout)[0]
        parts["teacher"] = _weight_bytes(teacher, layout) + 2 * logits + max(0, forward - parts["activations"])
    backward = sum(size for name, size in parts.items() if name not in ("parameters", "moments"))
    # The update begins when activations are gone.
    parts["update"] = max(0, UPDATE_COPIES * weights - backward)
    return Memory(
        {name: round(copies * size) for name, size in parts.items()}
        | {"corpus": corpus_bytes, "process": PROCESS_BYTES if platform == "cpu" else 0}
    )


SPLIT = ("attention", "ffn", "shared_experts", "experts", "embedding", "position", "head")  # groups that a layout divides


def _group_bytes(config: ModelConfig, layout: Layout) -> dict[str, float]:
    """Float32 bytes of each group of parameters that one device holds at rest (the table of `models.sharding`)."""
    found: dict[str, float] = {}
    for name, count in count_params(config).groups.items():
        parts = layout.fsdp * (layout.tensor if name != "position" else 1) if name in SPLIT else 1
        found[name] = FLOAT32 * count / (parts * (layout.expert if name == "experts" else 1))
    return found


def _weight_bytes(config: ModelConfig, layout: Layout) -> float:
    return sum(_group_bytes(config, layout).values())


def _gathered_bytes(config: ModelConfig, layout: Layout, remat: str) -> float:
    """Weights that a device brings together from its `fsdp` group, beyond its own part of them, and one block's whole gradient."""
    if layout.fsdp == 1:
        return 0
    whole = {name: size * layout.fsdp for name, size in _group_bytes(config, layout).items() if name in SPLIT}
    ends = sum(whole.get(name, 0) for name in ("embedding", "position", "head"))
    blocks = sum(whole.values()) - ends
    unrolled = remat == "none" and config.layers <= UNROLLED_LAYERS
    return ends + (blocks if unrolled else blocks / config.layers) + blocks / config.layers


def _overflow_bytes(config: ModelConfig, micro_batch: int, width: float, layout: Layout) -> float:
    """The dropless dispatch's rows beyond an even load, of all devices of an `expert` group, in and out, and their gradient of the experts."""
    if not config.is_moe or config.dispatch != "dropless":
        return 0
    rows = micro_batch * config.context * config.experts_per_token
    return 2 * config.layers * layout.expert * rows * config.width * width + _group_bytes(config, layout)["experts"]


def _value_bytes(precision: str, platform: str) -> float:
    """Bytes of one value between products."""
    compute = jnp.dtype(policy(precision).compute)
    return HOST_BYTES.get(compute.name, compute.itemsize) if platform == "cpu" else compute.itemsize


def _moment_bytes(config: ModelConfig, optimizer: str, layout: Layout) -> float:
    """Adam keeps two float32 per parameter; Muon one for the matrices inside the blocks, and is Adam for the rest."""
    if optimizer not in OPTIMIZERS:
        raise ConfigError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {optimizer!r}")
    groups = _group_bytes(config, layout)
    hidden = sum(groups[name] for name in ("attention", "ffn", "experts", "shared_experts")) if optimizer == "muon" else 0
    return 2 * sum(groups.values()) - hidden


def _block_bytes(config: ModelConfig, micro_batch: int, width: float, kernels: bool, layout: Layout) -> tuple[float, float]:
    """Bytes that one block keeps for its backward pass on a device, and those of its working arrays during it.

    Kept: its input and middle, both also normed; queries, keys and values, together and apart; queries and keys normed, and
    turned; the mixed values in two layouts; the hidden layers; rows on their way to experts and back; scores (float32). Devices that
    share `tensor` have their heads and hidden units each, and the stream in full; an `expert` group exchanges as many rows as it has.
    """
    rows, N, K = micro_batch * config.context, config.heads, config.key_heads
    heads = 2 * (N + 2 * K) + (N + K) * (config.qk_norm + (config.positions == "rope")) + 2 * N
    scores = 0 if kernels else FLOAT32 * rows * N * config.context
    hidden, routed = rows * config.ffn_width, 0
    if config.is_moe:
        multiplied = expert_rows(config, rows)
        hidden = (multiplied + rows * config.shared_experts) * config.expert_width
        routed = (multiplied + rows * config.experts_per_token) * config.width
    # Gate and value, what the gate's derivative needs, their product in two layouts; without a gate two arrays fewer.
    heads, hidden, scores = heads / layout.tensor, hidden / layout.tensor, scores / layout.tensor
    kept = rows * (4 * config.width + heads * config.head_width) + (5 if config.gated else 3) * hidden + routed
    return width * kept + scores, width * (2 if config.gated else 1) * hidden + scores


def fits_in_memory(needed: Memory, available: int) -> bool:
    """Whether the prediction stays within `available` bytes."""
    return needed.total <= available


def check_memory(needed: Memory, available: int | None) -> None:
    """ConfigError with the numbers where the prediction exceeds `available` bytes. None, not known, lets everything pass."""
    if available is not None and not fits_in_memory(needed, available):
        raise ConfigError(
            f"the run needs about {needed}, but {_human(available)} are available;"
            ' a smaller micro_batch, remat = "blocks" or a smaller model needs less'
        )


def available_memory(device: jax.Device | None = None) -> int | None:
    """Bytes that this process may hold in all, on `device` (the first one by default).

    On the host: what it holds already, and the least of what the kernel calls available and what its control groups leave.
    On an accelerator: what its allocator may take, or None where it keeps no statistics.
    """
    device = device or jax.devices()[0]
    return host_memory() if device.platform == "cpu" else (device.memory_stats() or {}).get("bytes_limit")


def peak_memory(device: jax.Device | None = None) -> int | None:
    """The most bytes that this process has held on `device` so far (the first one by default); None where nobody counts.

    On Linux the kernel's high-water mark: `ru_maxrss` would begin at that of the process that started this one.
    """
    device = device or jax.devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("peak_bytes_in_use")
    if PROCESS_STATUS.exists():
        return 1024 * _numbers(PROCESS_STATUS)["VmHWM:"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Peak:
    """The most bytes held on a device since a run began, in a process that may make many runs.

    On Linux `begin` sets the kernel's high-water mark back to what is held now. Elsewhere, and on accelerators, whose allocators count
    from the start of the process, it is the first run's alone, and of later ones nobody knows.
    """

    def __init__(self) -> None:
        self._known, self._begun = True, False

    def begin(self, device: jax.Device | None = None) -> None:
        """A run begins, before it holds anything."""
        device = device or jax.devices()[0]
        anew = device.platform == "cpu" and _reset_high_water_mark()
        self._known, self._begun = anew or not self._begun, True

    def read(self, device: jax.Device | None = None) -> int | None:
        """`peak_memory` since `begin`, or None."""
        return peak_memory(device) if self._known else None


def _reset_high_water_mark() -> bool:
    """Whether VmHWM could be set to VmRSS (proc(5), clear_refs, value 5)."""
    try:
        CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


PEAK = Peak()  # of this process


def host_memory(root: Path = Path("/")) -> int:
    """`available_memory` of the host; `root` holds proc and sys. Without proc (not Linux) the machine's physical memory."""
    free = _numbers(root / "proc/meminfo").get("MemAvailable:")
    if free is None:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    own = _numbers(root / "proc/self/status").get("VmRSS:", 0)
    return 1024 * own + min([1024 * free, *_left_by_groups(root)])


# Names of limit, use and droppable page cache (its lines in memory.stat) in the two versions of control groups.
GROUP_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
    2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
}


def _left_by_groups(root: Path) -> list[int]:
    """What every control group above this process leaves of its limit. A container may see its own group as the root."""
    left = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        version, mount = (2, root / "sys/fs/cgroup") if controllers == "" else (1, root / "sys/fs/cgroup/memory")
        limit_file, used_file, cache = GROUP_FILES[version]
        group = Path(path.lstrip("/"))
        for folder in (mount / group, *(mount / parent for parent in group.parents)):
            limit = _text(folder / limit_file)
            if limit.isdigit():
                stats = _numbers(folder / "memory.stat")
                left.append(int(limit) - int(_text(folder / used_file) or 0) + sum(stats.get(name, 0) for name in cache))
    return left


def _text(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def _numbers(path: Path) -> dict[str, int]:
    """Lines of `name number ...`."""
    fields = (line.split() for line in _text(path).splitlines())
    return {field[0]: int(field[1]) for field in fields if len(field) > 1 and field[1].isdigit()}


def _human(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
