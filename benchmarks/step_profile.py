"""Where the time of a training step goes: part `profile` of `benchmarks/speed.py`. Called with a shape it profiles that one and prints JSON.

The compiled step runs on one single-threaded device, as it does on every core of a sweep, under JAX's profiler, which times each
operation that XLA runs. The compiled program names the line of the source that an operation came from; that decides its part.
"""

from __future__ import annotations

import collections
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from training_speed import TRAIN_SHAPES

WAYS = (("fp32", "plain"), ("bf16", "plain"), ("bf16", "kernels"))

KERNEL = 'custom_call_target="isoloss_'

# The innermost of these functions on an operation's stack says which part of the step it belongs to.
PARTS = {
    "attend": "attention",
    "rope": "RoPE",
    "RMSNorm.__call__": "norms",
    "activate": "activation",
    "Attention.__call__": "projections",
    "MLP.__call__": "feed-forward",
    "Transformer._logits": "head and loss",
    "cross_entropy": "head and loss",
    "looked_up": "embedding",
    "_sequences": "embedding",
    "optimizer.<locals>.update": "optimizer",
    "_update": "optimizer",
    "_device_gradients.<locals>.micro_batch": "sum of gradients",
}
COLUMNS = (
    "projections", "feed-forward", "casts and copies", "attention", "RoPE", "norms", "activation", "head and loss", "embedding",
    "sum of gradients", "optimizer", "other",
)  # fmt: skip


def profile() -> None:
    """Shares of the step's time, one row a shape and way, and the FLOP rate within the two parts that are products of weights."""
    print(f"| shape | way | {' | '.join(COLUMNS)} | GFLOP/s in projections and feed-forward | in attention | in all |")
    print("|" + "---|" * (len(COLUMNS) + 5))
    for shape in TRAIN_SHAPES:
        for precision, way in WAYS:
            command = [sys.executable, __file__, ",".join(map(str, shape)), precision, way]
            environment = os.environ | {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "NPROC": "1"}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            shares = " | ".join(f"{found['shares'].get(part, 0):.0%}" for part in COLUMNS)
            rates = " | ".join(f"{found[name]:.0f}" for name in ("weights_gflops", "attention_gflops", "gflops"))
            print(f"| {','.join(map(str, shape))} | {way}, {precision} | {shares} | {rates} |", flush=True)


def _profile_shape(name: str, precision: str, way: str) -> None:
    import jax
    import jax.numpy as jnp

    import models
    from scaling import step
    from scaling.run import RunConfig
    from scaling.training import hyper

    layers, width, heads, batch, context = map(int, name.split(","))
    shape = models.ModelConfig(layers, width, heads, context=context, activation="relu2", qk_norm=False)
    micro_batch = 4 if width == 64 else 2
    config = RunConfig(shape, 2 * 10**8, precision=precision, batch=batch, micro_batch=micro_batch, learning_rate=1e-3)
    static = step.Static(shape, precision, micro_batch, "wsd", kernels=way == "kernels")
    generator = np.random.default_rng(0)
    stream = generator.integers(0, 256, 4096 * context + 1, dtype=np.uint8)
    data = step.Data(jnp.asarray(stream), jnp.asarray(generator.permutation(4096).astype(np.int32)))
    state = step.initialise(static, jnp.int32(0))
    compiled = step.train_steps.lower(static, state, data, hyper(config), jnp.int32(1)).compile()
    counted = models.training_flops(shape)
    count = max(1, int(2e11 / (counted.training * batch * context)))
    state, metrics = compiled(state, data, hyper(config), jnp.int32(count))
    jax.block_until_ready(metrics)
    options = jax.profiler.ProfileOptions()
    options.host_tracer_level, options.python_tracer_level = 3, 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            state, metrics = compiled(state, data, hyper(config), jnp.int32(count))
            jax.block_until_ready(metrics)
        seconds = _seconds_by_part(_events(folder), compiled.as_text() or "")
    total = sum(seconds.values())
    tokens = count * batch * context
    training = {group: 3 * forward * tokens / 1e9 for group, forward in counted.groups.items()}  # the backward pass is two forward ones
    weights = sum(value for group, value in training.items() if group not in ("attention_square", "head"))
    answer = {
        "shares": {part: value / total for part, value in seconds.items()},
        "weights_gflops": weights / (seconds["projections"] + seconds["feed-forward"]),
        "attention_gflops": training["attention_square"] / seconds["attention"],
        "gflops": counted.training * tokens / 1e9 / total,
    }
    print(json.dumps(answer))


def _events(folder: str) -> list[dict[str, Any]]:
    (trace,) = Path(folder).rglob("*.trace.json.gz")
    with gzip.open(trace) as file:
        return json.load(file)["traceEvents"]


def _seconds_by_part(events: list[dict[str, Any]], program: str) -> dict[str, float]:
    """Seconds of every operation of the program, added up by part. Loops are left out: their bodies' operations are there."""
    parts = _part_of_operations(program)
    seconds: dict[str, float] = collections.defaultdict(float)
    for event in events:
        part = parts.get(event.get("name", ""))
        if event.get("ph") == "X" and part is not None:
            seconds[part] += event["dur"] / 1e6
    return seconds


def _part_of_operations(program: str) -> dict[str, str]:
    """The part that each operation of a compiled program's text belongs to."""
    names = dict(re.findall(r'^(\d+) "(.*)"$', _table(program, "FunctionNames"), re.MULTILINE))
    places = dict(re.findall(r"^(\d+) {.*function_name_id=(\d+)", _table(program, "FileLocations"), re.MULTILINE))
    frames = {  # a parent is written as its number plus one
        int(frame): (names[places[place]], int(parent) - 1)
        for frame, place, parent in re.findall(
            r"^(\d+) {file_location_id=(\d+) parent_frame_id=(\d+)}", _table(program, "StackFrames"), re.MULTILINE
        )
    }
    inside: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    found, computation = {}, ""
    for line in program.splitlines():
        if opened := re.match(r"%([\w.-]+) \(.*{$", line):
            computation = opened.group(1)
        match = re.match(r"\s+(?:ROOT )?%([\w.-]+) = .*? ([\w-]+)\(", line)
        if match is None or match.group(2) in ("while", "conditional", "call", "parameter", "constant"):
            continue
        frame, calls = re.search(r"stack_frame_id=(\d+)", line), re.search(r"calls=%([\w.-]+)", line)
        part = _part(int(frame.group(1)), frames) if frame else "other"
        if not frame and calls and inside[calls.group(1)]:  # a fusion across parts: that of most of its operations
            part = inside[calls.group(1)].most_common(1)[0][0]
        if KERNEL in line:
            part = "attention"
        elif part in ("projections", "feed-forward") and match.group(2) != "dot" and "dot_general" not in line:
            part = "casts and copies"
        if frame:
            inside[computation][part] += 1
        found[match.group(1)] = part
    return found


def _table(program: str, name: str) -> str:
    """The lines of one of the tables that open a program's text."""
    match = re.search(rf"^{name}\n(.*?)\n\n", program, re.MULTILINE | re.DOTALL)
    return match.group(1) if match else ""


def _part(frame: int, frames: dict[int, tuple[str, int]]) -> str:
    while frame in frames:
        name, parent = frames[frame]
        if name in PARTS:
            return PARTS[name]
        frame = parent
    return "other"


if __name__ == "__main__":
    _profile_shape(*sys.argv[1:])
