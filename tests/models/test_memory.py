"""Predicted memory against XLA's own account of the compiled step and against a process' peak; the machine's memory as files tell it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from models import ConfigError, ModelConfig, Transformer, kernels, memory
from models.memory import FLOAT32, available_memory, check_memory, fits_in_memory, host_memory, peak_memory, predict_memory
from models.sharding import Layout, mesh_axes, specs
from scaling import step
from scaling.optimizers import optimizer

SMALL = ModelConfig(layers=2, width=32, heads=4, vocab_size=64, context=32)
WIDE = ModelConfig(layers=4, width=128, heads=4, context=128)
MOE = ModelConfig(layers=2, width=64, heads=4, context=64, experts=8, experts_per_token=2)
CORPUS = 100_000
FAST: dict[str, str | bool] = {
    "xla_backend_optimization_level": "0"
}  # halves the time to compile: machine code does not change the buffers


def _abstract(kind: type) -> Any:
    return jax.ShapeDtypeStruct((), kind)


def account(static: step.Static) -> int:
    """Bytes of the compiled training step, by XLA's own account: what goes in, what comes out beside it, and temporaries."""
    state = jax.eval_shape(lambda: step.initialise(static, jnp.int32(0)))
    stream: Any = jax.ShapeDtypeStruct((CORPUS,), jnp.uint8)
    order: Any = jax.ShapeDtypeStruct((CORPUS // static.model.context,), jnp.int32)
    whole = ("steps", "warmup_steps", "decay_steps", "micro_batches")
    hyper = step.Hyper(**{name: _abstract(jnp.int32 if name in whole else jnp.float32) for name in step.Hyper._fields})
    lowered = step.train_steps.lower(static, state, step.Data(stream, order), hyper, _abstract(jnp.int32))
    found = lowered.compile(compiler_options=FAST).memory_analysis()
    assert found is not None
    return found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes + found.temp_size_in_bytes


def predicted(static: step.Static) -> int:
    needed = predict_memory(
        static.model,
        static.precision,
        static.micro_batch,
        optimizer=static.optimizer,
        remat=static.remat,
        kernels=static.kernels,
        corpus_bytes=CORPUS,
    )
    return needed.total - needed.parts["process"]


def test_prediction_against_xla_of_a_small_step():
    static = step.Static(SMALL, "fp32", 8, "wsd")
    assert predicted(static) == pytest.approx(account(static), rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(
    "static",
    [
        step.Static(WIDE, "fp32", 4, "wsd"),
        step.Static(WIDE, "bf16", 4, "wsd"),
        step.Static(WIDE, "int8", 4, "wsd"),
        step.Static(dataclasses.replace(WIDE, kv_heads=1, activation="gelu", norm="layer", tied=True), "fp32", 4, "wsd"),
        step.Static(dataclasses.replace(WIDE, layers=2, vocab_size=4096), "fp32", 4, "wsd"),
        step.Static(dataclasses.replace(WIDE, layers=2, width=256, context=32), "fp32", 1, "wsd"),
        step.Static(dataclasses.replace(WIDE, layers=2, width=256, context=32), "fp32", 1, "wsd", optimizer="muon"),
        step.Static(dataclasses.replace(WIDE, layers=10, width=64), "fp32", 4, "wsd"),
        step.Static(dataclasses.replace(WIDE, layers=10), "fp32", 4, "wsd", remat="blocks"),
        step.Static(WIDE, "fp32", 4, "wsd", kernels=True),
        step.Static(MOE, "fp32", 8, "wsd"),
        step.Static(dataclasses.replace(MOE, dispatch="capacity", shared_experts=1), "fp32", 8, "wsd"),
    ],
    ids=["dense", "bf16", "int8", "gpt", "vocabulary", "adam", "muon", "loop", "remat", "kernels", "dropless", "capacity"],
)
def test_prediction_against_xla(static):
    if static.kernels and not kernels.status()[0]:
        pytest.skip(kernels.status()[1])
    assert predicted(static) == pytest.approx(account(static), rel=0.25)


@pytest.mark.slow
def test_rematerialised_blocks_need_less_by_xlas_account():
    """As predicted: a few layers, which would be unrolled, must save too."""
    static = step.Static(dataclasses.replace(WIDE, layers=6, width=64), "fp32", 8, "wsd")
    again = dataclasses.replace(static, remat="blocks")
    assert account(again) < 0.6 * account(static)
    assert predicted(again) < 0.6 * predicted(static)


PROCESS = """
import json, sys
import jax, jax.numpy as jnp
from models import ModelConfig, memory
from scaling import step
static = step.Static(ModelConfig(**json.loads(sys.argv[1])), "fp32", int(sys.argv[2]), "wsd")
state = step.initialise(static, jnp.int32(0))
stream = jnp.zeros(100_000, jnp.uint8)
data = step.Data(stream, jnp.arange(100_000 // static.model.context - 1, dtype=jnp.int32))
whole = ("steps", "warmup_steps", "decay_steps", "micro_batches")
hyper = step.Hyper(**{name: jnp.int32(1) if name in whole else jnp.float32(1e-3) for name in step.Hyper._fields})
jax.block_until_ready(step.train_steps(static, state, data, hyper, jnp.int32(2)))
print(memory.peak_memory())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize(("config", "micro_batch"), [(SMALL, 1), (dataclasses.replace(WIDE, layers=2), 32)], ids=["tiny", "large"])
def test_prediction_against_the_peak_of_a_process(config, micro_batch):
    command = [sys.executable, "-c", PROCESS, json.dumps(dataclasses.asdict(config)), str(micro_batch)]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert predict_memory(config, "fp32", micro_batch, corpus_bytes=CORPUS).total == pytest.approx(peak, rel=0.25)


LAYOUTS = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 4)
import jax.numpy as jnp
from models import ModelConfig, memory
from models.sharding import Layout, placed
from scaling import step
layout = Layout(**json.loads(sys.argv[3]))
static = step.Static(ModelConfig(**json.loads(sys.argv[1])), "fp32", int(sys.argv[2]), "wsd", layout=layout)
state = step.initialise(static, jnp.int32(0))
data = step.Data(jnp.zeros(100_000, jnp.uint8), jnp.arange(100_000 // static.model.context - 1, dtype=jnp.int32))
whole = {"steps": 1, "warmup_steps": 1, "decay_steps": 1, "micro_batches": 4}
hyper = step.Hyper(**{name: jnp.int32(whole[name]) if name in whole else jnp.float32(1e-3) for name in step.Hyper._fields})
data, hyper, count = placed((data, hyper, jnp.int32(1)), layout)
compiled = step.train_steps.lower(static, state, data, hyper, count).compile()
found = compiled.memory_analysis()
jax.block_until_ready(compiled(state, data, hyper, count))
account = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes + found.temp_size_in_bytes
print(account, memory.peak_memory())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("layout", [Layout(fsdp=4), Layout(tensor=4), Layout(fsdp=2, tensor=2), Layout(data=4), Layout(expert=4)], ids=str)
def test_prediction_of_a_layout(layout):
    """Of one device by XLA's account; of the host, whose memory its four devices share, by the process' peak."""
    shape = MOE if layout.expert > 1 else WIDE
    config, micro_batch = dataclasses.replace(shape, width=256, context=64), 8 if layout.expert > 1 else 1
    sizes = json.dumps(dataclasses.asdict(layout))
    command = [sys.executable, "-c", LAYOUTS, json.dumps(dataclasses.asdict(config)), str(micro_batch), sizes]
    account, peak = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    device = predict_memory(config, "fp32", micro_batch, layout=layout, corpus_bytes=CORPUS)
    assert device.total - device.parts["process"] == pytest.approx(account, rel=0.15)
    host = predict_memory(config, "fp32", micro_batch, layout=layout, copies=4, corpus_bytes=4 * CORPUS)
    assert host.total == pytest.approx(peak, rel=0.25)


@pytest.mark.parametrize("layout", [Layout(fsdp=4), Layout(tensor=4), Layout(fsdp=2, tensor=2, expert=2), Layout(data=8)], ids=str)
@pytest.mark.parametrize(
    "config", [SMALL, dataclasses.replace(MOE, shared_experts=1, positions="learned", tied=True)], ids=["dense", "moe"]
)
def test_a_device_holds_its_part_of_the_state(config, layout):
    """As the table of `models.sharding` divides every single weight and moment."""

    def part(tree: Any) -> int:
        entries = jax.tree.leaves(specs(tree, layout), is_leaf=lambda entry: isinstance(entry, PartitionSpec))
        over = [math.prod(getattr(layout, axis) for axis in mesh_axes(entry)) for entry in entries]
        return sum(FLOAT32 * leaf.size // parts for leaf, parts in zip(jax.tree.leaves(tree), over, strict=True))

    params = nnx.eval_shape(lambda: nnx.state(Transformer(config, rngs=nnx.Rngs(0)), nnx.Param))
    for platform in ("cpu", "gpu"):
        for name in memory.OPTIMIZERS:
            found = predict_memory(config, optimizer=name, layout=layout, platform=platform).parts
            assert found["parameters"] == part(params)
            assert 0 <= part(jax.eval_shape(optimizer(name, config).init, params)) - found["moments"] < 100  # step counters


def test_a_layout_that_splits_weights_needs_less():
    whole, split = (predict_memory(WIDE, micro_batch=4, layout=layout).parts for layout in (Layout(data=4), Layout(fsdp=4)))
    assert whole == predict_memory(WIDE, micro_batch=4).parts
    assert split["parameters"] < 0.3 * whole["parameters"]
    assert split["activations"] == whole["activations"]
    assert whole["gathered weights"] == 0 < split["gathered weights"]
    many = dataclasses.replace(WIDE, layers=12)  # in a loop, where one block's weights are there at a time
    gathered = [predict_memory(config, layout=Layout(fsdp=4)).parts["gathered weights"] for config in (WIDE, many)]
    assert gathered[1] < gathered[0]
    assert predict_memory(WIDE, micro_batch=4, layout=Layout(tensor=4)).parts["activations"] < 0.6 * whole["activations"]


@pytest.mark.parametrize("name", memory.OPTIMIZERS)
@pytest.mark.parametrize("config", [SMALL, dataclasses.replace(MOE, shared_experts=1)], ids=["dense", "moe"])
def test_state_is_that_of_the_real_optimiser(name, config):
    def bytes_of(tree: object) -> int:
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

    params = nnx.eval_shape(lambda: nnx.state(Transformer(config, rngs=nnx.Rngs(0)), nnx.Param))
    moments = jax.eval_shape(optimizer(name, config).init, params)
    parts = predict_memory(config, optimizer=name).parts
    assert parts["parameters"] == bytes_of(params)
    assert 0 <= bytes_of(moments) - parts["moments"] < 100  # step counters, constants of Newton-Schulz


def test_what_grows_with_what():
    small, large = (predict_memory(SMALL, micro_batch=rows).parts for rows in (4, 8))
    for name, size in small.items():
        grows = name in ("activations", "working arrays")
        assert large[name] == pytest.approx(2 * size if grows else size), name
    many = predict_memory(SMALL, micro_batch=4, copies=3, corpus_bytes=7).parts
    assert {name: 3 * size for name, size in small.items()} | {"corpus": 7, "process": memory.PROCESS_BYTES} == many


def test_half_precision_counts_by_the_platform():
    """An accelerator keeps two bytes a value; a CPU widens operands on the way."""
    sizes = {
        (name, platform): predict_memory(WIDE, name, 4, kernels=True, platform=platform).parts["activations"]
        for name in ("fp32", "bf16")
        for platform in ("cpu", "gpu")
    }
    assert sizes["bf16", "gpu"] * 2 == sizes["fp32", "gpu"] == sizes["fp32", "cpu"]
    assert sizes["bf16", "gpu"] < sizes["bf16", "cpu"] < sizes["fp32", "cpu"]
    assert predict_memory(WIDE, platform="gpu").parts["process"] == 0


def test_options_that_save_memory_do_so():
    plain = predict_memory(WIDE, micro_batch=8).total
    assert predict_memory(WIDE, micro_batch=8, kernels=True).total < plain
    assert predict_memory(WIDE, micro_batch=8, remat="blocks").total < plain
    assert predict_memory(WIDE, micro_batch=8, optimizer="muon").total < plain
    assert predict_memory(WIDE, micro_batch=8, teacher=SMALL).total > plain
    capacity = dataclasses.replace(MOE, dispatch="capacity")
    assert predict_memory(capacity, micro_batch=8).total < predict_memory(MOE, micro_batch=8).total


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"remat": "all"}, "remat must be one of none, blocks"), ({"optimizer": "sgd"}, "optimizer must be one of adam, muon")],
)
def test_unknown_options_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        predict_memory(SMALL, **fields)


def test_a_model_that_does_not_fit_is_refused_with_the_numbers():
    config = ModelConfig(layers=96, width=12288, heads=96, vocab_size=50257, context=2048)
    needed = predict_memory(config, "bf16")
    assert not fits_in_memory(needed, 16 * 10**9)
    with pytest.raises(ConfigError) as refusal:
        check_memory(needed, 16 * 10**9)
    text = str(refusal.value)
    assert "16 GB are available" in text
    assert f"needs about {needed.total / 1e12:.3g} TB (" in text
    assert f"parameters {needed.parts['parameters'] / 1e9:.3g} GB" in text
    assert "\n" not in text
    check_memory(needed, needed.total)


def _machine(root, files: dict[str, str]):
    base = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n", "proc/self/status": "Name: x\nVmRSS:\t 100 kB\n"}
    for name, text in (base | files).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def _version2(folder: str, limit: str, used: int, cache: int = 0) -> dict[str, str]:
    texts = {"memory.max": limit, "memory.current": str(used), "memory.stat": f"anon 1\ninactive_file {cache}\nactive_file 24\n"}
    return {f"sys/fs/cgroup/{folder}/{name}": text + "\n" for name, text in texts.items()}


def _version1(folder: str, limit: str, used: int) -> dict[str, str]:
    texts = {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": str(used), "memory.stat": "cache 9\ntotal_inactive_file 1000\n"}
    return {f"sys/fs/cgroup/memory/{folder}/{name}": text + "\n" for name, text in texts.items()}


OWN = 100 * 1024
MACHINES = {
    "no limit": ({"proc/self/cgroup": "0::/a\n"} | _version2("a", "max", 5000), 8000 * 1024),
    "a limit": ({"proc/self/cgroup": "0::/a/b\n"} | _version2("a/b", "900000", 300000, cache=100000), 900000 - 300000 + 100024),
    "a limit above": (
        {"proc/self/cgroup": "0::/a/b\n"} | _version2("a/b", "900000", 300000) | _version2("a", "700000", 650000),
        700000 - 650000 + 24,
    ),
    "a container that sees its group as the root": ({"proc/self/cgroup": "0::/\n"} | _version2(".", "500000", 1000), 499000 + 24),
    "version 1": (
        {"proc/self/cgroup": "5:cpu:/x\n4:memory:/job/7\n0::/\n"} | _version1("job/7", "600000", 200000) | _version1(".", str(2**63 - 4096), 1),
        600000 - 200000 + 1000,
    ),
    "a path that is not mounted": ({"proc/self/cgroup": "4:memory:/elsewhere\n"} | _version1(".", "800000", 100), 800000 - 100 + 1000),
}  # fmt: skip


@pytest.mark.parametrize("name", MACHINES)
def test_memory_of_the_host_is_what_the_tightest_limit_leaves(name, tmp_path):
    files, free = MACHINES[name]
    assert host_memory(_machine(tmp_path, files)) == OWN + free


def test_memory_of_this_machine_is_plausible(tmp_path):
    found = available_memory()
    assert found is not None
    assert 50e6 < found < 1e15
    peak = peak_memory()
    assert peak is None or 50e6 < peak < 1e12
    assert host_memory(tmp_path) >= 10**8  # no proc: the physical memory


@pytest.mark.skipif(not os.access(memory.CLEAR_REFS, os.W_OK), reason="the kernel's high-water mark cannot be set back here")
def test_a_later_run_has_a_peak_of_its_own():
    """What was held and given back before it began is not in it; what it holds for a while is."""
    peaks, megabyte = memory.Peak(), 2**20
    for held in (400, 100, 250):
        peaks.begin()
        start = host_memory_held()
        block = np.ones(held * megabyte, np.uint8)
        del block
        found = peaks.read()
        assert found is not None
        assert held * megabyte * 0.95 < found - start < (held + 60) * megabyte


def host_memory_held() -> int:
    return 1024 * memory._numbers(memory.PROCESS_STATUS)["VmRSS:"]


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_a_peak_that_cannot_be_told_apart_is_not_told(platform, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path / "no such folder" / "clear_refs")
    device: Any = SimpleNamespace(platform=platform, memory_stats=lambda: {"peak_bytes_in_use": 70})
    peaks = memory.Peak()
    peaks.begin(device)
    assert (peaks.read(device) or 0) >= 70
    peaks.begin(device)
    assert peaks.read(device) is None


def test_memory_of_an_accelerator_is_what_its_allocator_may_take():
    def device(stats: dict[str, int] | None) -> Any:
        return SimpleNamespace(platform="gpu", device_kind="H100", memory_stats=lambda: stats)

    told = device({"bytes_limit": 80, "bytes_in_use": 3, "peak_bytes_in_use": 70})
    assert (available_memory(told), peak_memory(told)) == (80, 70)
    assert available_memory(device(None)) is peak_memory(device(None)) is None
    check_memory(predict_memory(SMALL), None)
