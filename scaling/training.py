"""One run: configuration in, record out."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

import models
from scaling import checkpoints, step
from scaling.data.corpora import Corpus, load_corpus
from scaling.engines import cores
from scaling.run import NUMERICS_VERSION, RunConfig, RunRecord, run_id, unique_tokens

CURVE_POINTS = 32  # of the training curve kept in the record
BLOCK_BYTES = 8192  # two of a corpus' chunks, whose places in the stream are random
EVALUATION_GROUP = 8  # validation sequences that go through the model at once

Progress = Callable[[int, int], None]  # steps done, steps in all


def train(
    config: RunConfig, *, checkpoint: str | Path | None = None, checkpoint_every: int = 2000, progress: Progress | None = None
) -> RunRecord:
    """Trains `config` to its horizon and returns its record; a diverged run is a record too.

    With `checkpoint` (a folder) the state is saved there every `checkpoint_every` steps and a later call carries on from
    the newest one, to the same bits as a run that was never interrupted.
    """
    corpus = load_corpus(config.corpus)
    unique = unique_tokens(config, corpus)
    run = run_id(config, corpus.id, threads())
    static = step.Static(config.model, config.precision, config.micro_batch, config.schedule)
    data = step.Data(jnp.asarray(corpus.train()), jnp.asarray(sequence_order(corpus, config.model.context, config.seed)))
    hyper = _hyper(config)

    started = time.perf_counter()
    state = step.initialise(static, jnp.int32(config.seed))
    state, curve = checkpoints.restore(checkpoint, run, state) if checkpoint else (state, [])
    compiled = step.train_steps.lower(static, state, data, hyper, jnp.int32(1)).compile()
    compile_seconds = time.perf_counter() - started

    started, first, done = time.perf_counter(), len(curve), len(curve)
    while done < config.steps:
        stop = min(done + step.STEPS_PER_CALL, config.steps)
        if checkpoint:
            stop = min(stop, (done // checkpoint_every + 1) * checkpoint_every)
        state, metrics = compiled(state, data, hyper, jnp.int32(stop - done))
        curve.extend(np.asarray(metrics)[: stop - done].tolist())  # waits for the call, whose own loop is long
        done = stop
        if not math.isfinite(curve[-1][0]):
            break
        if checkpoint and done % checkpoint_every == 0:
            checkpoints.save(checkpoint, run, state, curve)
        if progress:
            progress(done, config.steps)
    train_seconds = time.perf_counter() - started

    started = time.perf_counter()
    losses, places = _validation(static, state.params, corpus, config) if done == config.steps else (np.array([np.nan]), np.zeros(1))
    finite = bool(np.isfinite(losses).all())
    rate = (done - first) * config.sequences * config.model.context / train_seconds
    return RunRecord(
        **_identity(config, corpus, unique),
        loss=float(losses.mean()) if finite else None,
        loss_se=standard_error(losses, places) if finite else None,
        status="done" if finite else "diverged",
        reason="" if finite else f"the loss was not finite at step {done}",
        train_seconds=train_seconds,
        compile_seconds=compile_seconds,
        evaluation_seconds=time.perf_counter() - started,
        tokens_per_second=rate,
        flops_per_second=rate * models.training_flops(config.model).training,
        train_loss=[
            float(part.mean()) for part in np.array_split(np.array(curve)[:, 0], CURVE_POINTS) if part.size and np.isfinite(part).all()
        ],
        expert_load_max=float(curve[-1][1]) if config.model.is_moe and finite else None,
    )


def threads() -> int:
    """CPU threads that XLA was started with: NPROC where it is set (as for the sweep's workers), else all of this process'."""
    return int(os.environ.get("NPROC") or cores())


def sequence_order(corpus: Corpus, context: int, seed: int) -> np.ndarray:
    """The order in which sequences of `context` tokens are seen, int32: one permutation a corpus, context and seed.

    A shorter run sees a prefix of what a longer one sees, at every model size.
    """
    count = (corpus.manifest["train_bytes"] - 1) // context
    return np.random.Generator(np.random.Philox(key=[seed, context])).permutation(count).astype(np.int32)


def processor() -> str:
    """The CPU's name where the system tells it (Linux), else its architecture."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"cpu: {line.partition(':')[2].strip()}"
    return f"cpu: {platform.processor() or platform.machine()}"


def _hyper(config: RunConfig) -> step.Hyper:
    return step.Hyper(
        peak=jnp.float32(config.peak),
        steps=jnp.int32(config.steps),
        warmup=jnp.float32(config.warmup),
        decay=jnp.float32(config.decay),
        weight_decay=jnp.float32(config.weight_decay),
        balance_loss=jnp.float32(config.balance_loss),
        micro_batches=jnp.int32(config.sequences // config.micro_batch),
    )


def standard_error(losses: np.ndarray, places: np.ndarray) -> float:
    """Of the mean of `losses`, clustered: sequences within BLOCK_BYTES of the stream come from one text and err together."""
    excess = losses - losses.mean()
    _, block = np.unique(places // BLOCK_BYTES, return_inverse=True)
    sums = np.bincount(block, weights=excess)
    return float(np.sqrt(np.sum(sums**2) * sums.size / max(1, sums.size - 1)) / losses.size)


def _validation(static: step.Static, params: step.Params, corpus: Corpus, config: RunConfig) -> tuple[np.ndarray, np.ndarray]:
    """Loss of each validation sequence and its place in the stream: evenly spread, the same ones for every run of a context."""
    stream = corpus.validation()
    context = config.model.context
    available = (stream.size - 1) // context
    wanted = min(available, max(1, config.validation_tokens // context))
    groups = max(1, wanted // EVALUATION_GROUP)
    size = min(wanted, EVALUATION_GROUP)
    index = np.linspace(0, available - 1, groups * size).astype(np.int32).reshape(groups, size)
    losses = step.validation_losses(static, params, jnp.asarray(stream), jnp.asarray(index))
    return np.asarray(losses, np.float64).reshape(-1), index.reshape(-1) * context


def _identity(config: RunConfig, corpus: Corpus, unique: int) -> dict[str, Any]:
    """The fields of a record that are known before the run."""
    params, flops = models.count_params(config.model), models.training_flops(config.model)
    device = jax.devices()[0]
    return {
        "run_id": run_id(config, corpus.id, threads()),
        "corpus": corpus.id,
        "arm": config.arm,
        "precision": config.precision,
        "seed": config.seed,
        "params": params.total,
        "active_params": params.active,
        "non_embedding_params": params.non_embedding,
        "tokens": config.tokens_trained,
        "unique_tokens": unique,
        "flops": flops.training * config.tokens_trained,
        "flops_causal": flops.training_causal * config.tokens_trained,
        "width": config.model.width,
        "layers": config.model.layers,
        "experts": config.model.experts,
        "batch": config.sequences,
        "steps": config.steps,
        "learning_rate": config.peak,
        "threads": threads(),
        "device": processor() if device.platform == "cpu" else device.device_kind,
        "versions": {
            "isoloss": importlib.metadata.version("isoloss"),
            "numerics": str(NUMERICS_VERSION),
            "python": platform.python_version(),
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "flax": flax.__version__,
        },
        "config": config.as_dict(),
    }
