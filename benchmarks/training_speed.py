"""The training step timed: parts `train` and `moe` of `benchmarks/speed.py`. Called with a shape it times that one and prints JSON."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

REPEATS = 5
SECONDS = 6  # of every way of the training step


def timed(work: Callable[[], object], repeats: int = REPEATS) -> tuple[float, float]:
    """Median and best seconds of `work`."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)), min(seconds)


# Layers, width, heads, sequences a step, context: bytes, squared ReLU, RMSNorm, RoPE, AdamW.
TRAIN_SHAPES = ((4, 64, 2, 32, 128), (4, 128, 4, 32, 128), (6, 256, 4, 32, 256), (6, 512, 8, 16, 256))
WAYS = (("fp32", False), ("bf16", False), ("fp32", True), ("bf16", True))  # number format, compiled kernels


def train(torch: str | None) -> None:
    """Training speed against PyTorch (--torch names a Python that has it): each shape in turn, every way in a process of its own."""
    print(
        "| shape (layers, width, heads, sequences, context) | way | tokens/s, median | best | GFLOP/s | of best product | Python outside, % | compile cold, s | from the cache, s | peak memory, GiB |"
    )
    print("|" + "---|" * 10)
    for shape in TRAIN_SHAPES:
        name = ",".join(map(str, shape))
        for precision, kernels in WAYS:
            with tempfile.TemporaryDirectory() as cache:
                environment = os.environ | {"ISOLOSS_COMPILATION_CACHE": cache}
                command = [sys.executable, __file__, name, precision, "kernels" if kernels else "plain"]
                cold = _answer([*command, "0"], environment)  # only to compile
                warm = _answer([*command, str(SECONDS)], environment)
            print(
                f"| {name} | {'kernels' if kernels else 'plain JAX'}, {precision} | {warm['median']:,.0f} | {warm['best']:,.0f} | {warm['gflops']:.0f}"
                f" | {warm['of_product']:.2f} | {warm['outside']:.2%} | {cold['compile']:.1f} | {warm['compile']:.1f} | {warm['memory']:.2f} |",
                flush=True,
            )
        for way, precision in itertools.product(("eager", "compiled"), ("fp32", "bf16")) if torch else ():
            answer = _answer([str(torch), str(Path(__file__).with_name("torch_step.py")), name, way, precision], dict(os.environ))
            print(
                f"| {name} | PyTorch {answer['torch']} {way}, {precision} | {answer['median']:,.0f} | {answer['best']:,.0f} | | | | {answer['compile']:.1f} | | {answer['memory']:.2f} |",
                flush=True,
            )


def _answer(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _train_shape(name: str, precision: str, way: str, seconds: str) -> None:
    """One shape and way in this process; prints one JSON object."""
    import jax

    from models.memory import peak_memory
    from scaling.devices import one_device_per_core

    devices = one_device_per_core()
    jax.config.update("jax_compilation_cache_dir", os.environ["ISOLOSS_COMPILATION_CACHE"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    import jax.numpy as jnp

    import models
    from models.sharding import Layout
    from scaling import step
    from scaling.run import RunConfig
    from scaling.training import hyper

    layers, width, heads, batch, context = map(int, name.split(","))
    shape = models.ModelConfig(layers, width, heads, context=context, activation="relu2", qk_norm=False)
    micro_batch = 4 if width == 64 else 2
    config = RunConfig(shape, 2 * 10**8, precision=precision, batch=batch, micro_batch=micro_batch, learning_rate=1e-3)
    static = step.Static(shape, precision, micro_batch, "wsd", layout=Layout(data=devices), kernels=way == "kernels")
    generator = np.random.default_rng(0)
    stream = generator.integers(0, 256, 4096 * context + 1, dtype=np.uint8)
    data = step.Data(jnp.asarray(stream), jnp.asarray(generator.permutation(4096).astype(np.int32)))
    state = step.initialise(static, jnp.int32(0))
    began = time.perf_counter()
    compiled = step.train_steps.lower(static, state, data, hyper(config), jnp.int32(1)).compile()
    compile_seconds = time.perf_counter() - began
    flops = models.training_flops(shape).training * batch * context
    count = max(1, min(step.STEPS_PER_CALL, int(4e11 / flops)))
    state, metrics = compiled(state, data, hyper(config), jnp.int32(count))
    jax.block_until_ready(metrics)
    inside, began = [], time.perf_counter()
    while not inside or time.perf_counter() - began < float(seconds):
        started = time.perf_counter()
        state, metrics = compiled(state, data, hyper(config), jnp.int32(count))
        jax.block_until_ready(metrics)
        inside.append(time.perf_counter() - started)
        np.asarray(metrics.loss)
    outside = 1 - sum(inside) / (time.perf_counter() - began)
    tokens, median, best = count * batch * context, float(np.median(inside)), min(inside)
    answer = {
        "median": tokens / median,
        "best": tokens / best,
        "gflops": count * flops / median / 1e9,
        "of_product": count * flops / median / _best_product(precision, devices) if float(seconds) else None,
        "outside": outside,
        "compile": compile_seconds,
        "memory": (peak_memory() or 0) / 2**30,
        "loss": float(metrics.loss[count - 1]),
    }
    print(json.dumps(answer))


PRODUCT_ROUNDS = 8


def _best_product(precision: str, devices: int) -> float:
    """FLOP/s of the best matrix product seen of that format with a float32 result, on all devices at once."""
    import jax
    import jax.numpy as jnp

    from models.precision import policy
    from models.sharding import data_mesh

    def rounds(a_MIJ: jax.Array, b_MJK: jax.Array) -> jax.Array:
        def add(i: jax.Array, total: jax.Array) -> jax.Array:
            return total + jnp.einsum("MIJ,MJK->MIK", a_MIJ + i.astype(a_MIJ.dtype), b_MJK, preferred_element_type=jnp.float32)

        return jax.lax.fori_loop(0, PRODUCT_ROUNDS, add, jnp.zeros((*a_MIJ.shape[:2], b_MJK.shape[2])))

    mesh, spec = data_mesh(devices), jax.sharding.PartitionSpec("data")
    run = jax.jit(jax.shard_map(rounds, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))
    best = 0.0
    for rows, inner, columns in ((512, 1024, 256), (1024, 1024, 1024), (512, 512, 2048)):
        shapes = ((devices, rows, inner), (devices, inner, columns))
        sharding = jax.sharding.NamedSharding(mesh, spec)
        a, b = (jax.device_put(jnp.ones(shape, policy(precision).compute), sharding) for shape in shapes)
        jax.block_until_ready(run(a, b))
        _, seconds = timed(partial(lambda a, b: jax.block_until_ready(run(a, b)), a, b), 15)
        best = max(best, PRODUCT_ROUNDS * 2 * devices * rows * inner * columns / seconds)
    return best


MOE_STEPS = 4  # a call


def moe() -> None:
    """MoE against the dense model of equal active parameters: cost per token, and where the difference goes."""
    import models

    print("| model | dispatch | tokens/s | over dense | padding | router |")
    print("|---|---|---|---|---|---|")
    dense = models.ladder(64, layers=4, context=128)
    base = _moe_rate(dense)
    print(f"| dense, width 64, 4 layers | | {base:,.0f} | 1.00 | | |", flush=True)
    for experts, dispatch in itertools.product((8, 32, 128), ("dropless", "capacity")):
        config = models.ladder(64, layers=4, context=128, experts=experts, experts_per_token=2, dispatch=dispatch)
        from models.expert_rows import expert_rows

        rows = 8 * 128
        padding = expert_rows(config, rows) / (2 * rows)
        rate = _moe_rate(config)
        counted = models.training_flops(config)
        router = counted.groups["router"] / counted.forward
        print(f"| {experts} experts, top 2 | {dispatch} | {rate:,.0f} | {base / rate:.2f} | {padding:.2f} | {router:.1%} |", flush=True)
    import moe_profile

    moe_profile.profile()


def _moe_rate(config: Any) -> float:
    """tokens/s of the median call, fp32, micro-batches of eight sequences on one device of all threads."""
    import jax
    import jax.numpy as jnp

    from scaling import step
    from scaling.run import RunConfig
    from scaling.training import hyper

    run = RunConfig(config, 2 * 10**8, batch=16, micro_batch=8, learning_rate=1e-3)
    static = step.Static(config, "fp32", 8, "wsd")
    generator = np.random.default_rng(0)
    stream = generator.integers(0, 256, 4096 * config.context + 1, dtype=np.uint8)
    data = step.Data(jnp.asarray(stream), jnp.asarray(generator.permutation(4096).astype(np.int32)))
    state = step.initialise(static, jnp.int32(0))
    seconds = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        state, metrics = step.train_steps(static, state, data, hyper(run), jnp.int32(MOE_STEPS))
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - started)
    return MOE_STEPS * run.sequences * config.context / float(np.median(seconds[1:]))


if __name__ == "__main__":
    _train_shape(*sys.argv[1:])
