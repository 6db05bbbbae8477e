"""One run: configuration in, record out."""

from __future__ import annotations

import contextlib
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
from scaling.errors import InputError
from scaling.run import RunConfig, RunRecord, run_id

CURVE_POINTS = 32  # of the training curve kept in the record
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
    unique_tokens = _unique_tokens(config, corpus)
    static = step.Static(config.model, config.precision, config.micro_batch, config.schedule)
    data = step.Data(jnp.asarray(corpus.train()), jnp.asarray(sequence_order(corpus, config.model.context, config.seed)))
    hyper = _hyper(config)

    started = time.perf_counter()
    state = step.initialise(static, jnp.int32(config.seed))
    state, curve = checkpoints.restore(checkpoint, config, state) if checkpoint else (state, [])
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
            checkpoints.save(checkpoint, config, state, curve)
        if progress:
            progress(done, config.steps)
    train_seconds = time.perf_counter() - started

    started = time.perf_counter()
    losses = _validation(static, state.params, corpus, config) if done == config.steps else np.array([np.nan])
    finite = bool(np.isfinite(losses).all())
    trained_here = (done - first) * config.sequences * config.model.context
    return RunRecord(
        **_identity(config, corpus, unique_tokens),
        loss=float(losses.mean()) if finite else None,
        loss_se=float(losses.std(ddof=1) / math.sqrt(losses.size)) if finite else None,
        status="done" if finite else "diverged",
        reason="" if finite else f"the loss was not finite at step {done}",
        train_seconds=train_seconds,
        compile_seconds=compile_seconds,
        evaluation_seconds=time.perf_counter() - started,
        tokens_per_second=trained_here / train_seconds if trained_here else 0.0,
        train_loss=[
            float(part.mean()) for part in np.array_split(np.array(curve)[:, 0], CURVE_POINTS) if part.size and np.isfinite(part).all()
        ],
        expert_load_max=float(curve[-1][1]) if config.model.is_moe and finite else None,
    )


def threads() -> int:
    """CPU threads that XLA was started with: NPROC where it is set (as for the sweep's workers), else all of this process'."""
    return int(os.environ.get("NPROC") or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def planned_id(config: RunConfig, corpus: Corpus, thread_count: int) -> str:
    """The id that a run of `config` will have when trained with `thread_count` threads."""
    return run_id(config, corpus.id, thread_count)


def sequence_order(corpus: Corpus, context: int, seed: int) -> np.ndarray:
    """The order in which sequences of `context` tokens are seen, int32: one permutation a corpus, context and seed.

    A shorter run sees a prefix of what a longer one sees, at every model size.
    """
    count = (corpus.manifest["train_bytes"] - 1) // context
    return np.random.Generator(np.random.Philox(key=[seed, context])).permutation(count).astype(np.int32)


def _unique_tokens(config: RunConfig, corpus: Corpus) -> int:
    context = config.model.context
    available = (corpus.manifest["train_bytes"] - 1) // context * context
    if config.tokens_trained > available * config.epochs:
        raise InputError(
            f"run: {config.tokens_trained} tokens asked for, but corpus {corpus.id} has {available} in its training split"
            f" (epochs = {config.epochs}); set epochs = {math.ceil(config.tokens_trained / available)} to repeat them"
        )
    if config.model.vocab_size < corpus.manifest["vocab_size"]:
        raise InputError(
            f"run: vocab_size = {config.model.vocab_size} is smaller than the {corpus.manifest['vocab_size']} symbols of corpus {corpus.id}"
        )
    return min(config.tokens_trained, available)


def _processor() -> str:
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


def _validation(static: step.Static, params: step.Params, corpus: Corpus, config: RunConfig) -> np.ndarray:
    """Loss of each validation sequence: evenly spread over the validation stream, the same ones for every run of a context."""
    stream = corpus.validation()
    context = config.model.context
    available = (stream.size - 1) // context
    wanted = min(available, max(1, config.validation_tokens // context))
    groups = max(1, wanted // EVALUATION_GROUP)
    size = min(wanted, EVALUATION_GROUP)
    index = np.linspace(0, available - 1, groups * size).astype(np.int32).reshape(groups, size)
    return np.asarray(step.validation_losses(static, params, jnp.asarray(stream), jnp.asarray(index)), np.float64).reshape(-1)


def _identity(config: RunConfig, corpus: Corpus, unique_tokens: int) -> dict[str, Any]:
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
        "unique_tokens": unique_tokens,
        "flops": flops.training * config.tokens_trained,
        "flops_causal": flops.training_causal * config.tokens_trained,
        "width": config.model.width,
        "layers": config.model.layers,
        "experts": config.model.experts,
        "batch": config.sequences,
        "steps": config.steps,
        "learning_rate": config.peak,
        "threads": threads(),
        "device": _processor() if device.platform == "cpu" else device.device_kind,
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "jaxlib": jaxlib.__version__, "flax": flax.__version__},
        "config": config.as_dict(),
    }
