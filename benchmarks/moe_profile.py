"""Where a token's time goes in an MoE step and in the dense one: the end of part `moe` of `benchmarks/speed.py`. Called with EXPERTS DISPATCH
it profiles that model and prints JSON.

Like `step_profile`, from XLA's operations under JAX's profiler on one single-threaded device, by the source that each came from.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import step_profile

import models
from scaling import step
from scaling.run import RunConfig
from scaling.training import hyper

MICRO_BATCH, CONTEXT, STEPS = 8, 128, 8
MODELS = (("0", ""), *((experts, dispatch) for experts in ("8", "32", "128") for dispatch in ("dropless", "capacity")))

# The innermost of these on an operation's stack decides. Of what the feed-forward layer does besides the router, `step_profile` tells
# products from the rest, which is the activation and, with experts, moving rows; a dispatch does both in functions that leave no trace.
PARTS = {"route": "router", "activate": "feed-forward", "MoE.__call__": "feed-forward", "Attention.__call__": "attention"}
NAMES = {"feed-forward": "feed-forward products", "casts and copies": "moving rows, activation"}
COLUMNS = ("router", "moving rows, activation", "feed-forward products", "optimizer", "sum of gradients", "rest")


def profile() -> None:
    """Microseconds a token of each part, dense and MoE of equal active parameters (width 64, 4 layers, top 2)."""
    print(f"\nmicroseconds a token, one thread, under the profiler\n\n| model | dispatch | {' | '.join(COLUMNS)} | in all |")
    print("|" + "---|" * (len(COLUMNS) + 3))
    for experts, dispatch in MODELS:
        environment = os.environ | {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "NPROC": "1"}
        command = [sys.executable, __file__, experts, dispatch]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        name = f"{experts} experts, top 2" if dispatch else "dense"
        parts = " | ".join(f"{found.get(part, 0):.2f}" for part in COLUMNS)
        print(f"| {name} | {dispatch} | {parts} | {sum(found.values()):.2f} |", flush=True)


def _profile_model(experts: str, dispatch: str) -> None:
    more = {"experts": int(experts), "experts_per_token": 2, "dispatch": dispatch} if dispatch else {}
    config = RunConfig(models.ladder(64, layers=4, context=CONTEXT, **more), 2 * 10**8, batch=2 * MICRO_BATCH, micro_batch=MICRO_BATCH)
    static = step.Static(config.model, "fp32", MICRO_BATCH, "wsd")
    generator = np.random.default_rng(0)
    stream = generator.integers(0, 256, 4096 * CONTEXT + 1, dtype=np.uint8)
    data = step.Data(jnp.asarray(stream), jnp.asarray(generator.permutation(4096).astype(np.int32)))
    state = step.initialise(static, jnp.int32(0))
    compiled = step.train_steps.lower(static, state, data, hyper(config), jnp.int32(1)).compile()
    state, metrics = compiled(state, data, hyper(config), jnp.int32(STEPS))
    jax.block_until_ready(metrics)
    options = jax.profiler.ProfileOptions()
    options.host_tracer_level, options.python_tracer_level = 3, 0
    step_profile.PARTS.update(PARTS)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            state, metrics = compiled(state, data, hyper(config), jnp.int32(STEPS))
            jax.block_until_ready(metrics)
        seconds = step_profile._seconds_by_part(step_profile._events(folder), compiled.as_text() or "")
    answer: dict[str, float] = {}
    for part, value in seconds.items():
        column = NAMES.get(part, part if part in COLUMNS else "rest")
        answer[column] = answer.get(column, 0.0) + 1e6 * value / (STEPS * config.sequences * CONTEXT)
    print(json.dumps(answer))


if __name__ == "__main__":
    _profile_model(*sys.argv[1:])
