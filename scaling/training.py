"""One run: configuration in, record out."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

import models
from models import kernels
from models.accounting import recompute_flops
from models.config import ModelConfig
from models.expert_rows import expert_rows
from models.fields import is_whole
from models.memory import PEAK, Memory, available_memory, check_memory, predict_memory
from models.precision import check_native, policy
from models.sharding import ONE_DEVICE, Layout, check_layout, placed
from models.transformer import check_kernels
from scaling import checkpoints, evaluation, step
from scaling.data.corpora import Corpus, load_corpus
from scaling.devices import device_name, threads
from scaling.errors import InputError
from scaling.finished import Finished, check_save, load_model, save_model, static_of
from scaling.run import NUMERICS_VERSION, RunConfig, RunRecord, run_id, unique_tokens

CURVE_POINTS = 32  # of the training curve kept in the record

Progress = Callable[[int, int], None]  # steps done, steps in all


class Interrupted(Exception):
    """The run was asked to stop; its state is in its folder of checkpoints, if it has one."""


@dataclasses.dataclass(frozen=True)
class Interruptions:
    """How a run outlives its process: a checkpoint in `folder` every `steps` steps and every `seconds`, and one when `stop` says so.

    `stop` is asked between calls of the compiled steps, whose grouping checkpoints by `seconds` leave as it is. Of several processes that
    train as one all must decide alike: there neither `seconds` nor `stop` is for use. `say` gets what happened to checkpoints.
    """

    folder: str | Path | None = None
    steps: int | None = None
    seconds: float = math.inf
    stop: Callable[[], bool] = lambda: False
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr)


def train(
    config: RunConfig,
    *,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 2000,
    interruptions: Interruptions | None = None,
    progress: Progress | None = None,
    devices: int | None = None,
    layout: Layout | None = None,
    save: str | Path | None = None,
) -> RunRecord:
    """Trains `config` to its horizon and returns its record; a diverged run is a record too.

    With `checkpoint` (a folder) the state is saved there every `checkpoint_every` steps and a later call carries on from
    the newest one, to the same bits as a run that was never interrupted. The micro-batches of a step are shared out over as many
    of the `devices` (default: all that JAX has) as divide them; a `layout` (`models.sharding`) splits weights too. Of several processes
    (`scaling.processes`) each calls this and gets the record. `save` is the folder that the trained model is left in: a new or empty one, or
    that of a finished run, which is replaced; InputError, before anything starts, for any other. `interruptions` says more about checkpoints
    than `checkpoint` and `checkpoint_every` do, and takes their place; Interrupted where its `stop` ends the run.
    """
    checkpoints.check(checkpoint, checkpoint_every)
    care = interruptions or Interruptions(checkpoint, checkpoint_every)
    if save is not None:
        check_save(save, care.folder)
    job = prepare(config, devices, layout)
    started = time.perf_counter()
    state = step.initialise(job.static, jnp.int32(config.seed))
    past = checkpoints.Past()
    if care.folder:
        state, past = checkpoints.restore(care.folder, job.id, state, care.say)
    compiled = step.train_steps.lower(job.static, state, job.data, job.hyper, jnp.int32(1)).compile()
    compile_seconds = time.perf_counter() - started

    run = Run(job, compiled, state, past)
    run.advance(config.steps, care, progress)
    record = run.record(compile_seconds=compile_seconds)
    if save is not None:
        save_model(save, run.state, record)
    return record


@dataclasses.dataclass(frozen=True)
class Job:
    """A run that has been checked and whose data are on the device."""

    config: RunConfig
    corpus: Corpus
    static: step.Static
    data: step.Data
    hyper: step.Hyper
    id: str
    unique_tokens: int
    memory: Memory
    teacher: Finished | None


def prepare(config: RunConfig, devices: int | None = None, layout: Layout | None = None) -> Job:
    """The job of `config`; InputError or ConfigError for one that cannot run here, before anything starts."""
    PEAK.begin()
    corpus = load_corpus(config.corpus)
    unique = unique_tokens(config, corpus)
    device = jax.devices()[0]
    if config.kernels:
        check_kernels(config.model, policy(config.precision))
    teacher = _teacher(config, corpus)
    for precision in (config.precision, *((teacher.config.precision,) if teacher else ())):
        check_native(precision, device.platform, device.device_kind, emulate=config.emulate or device.platform == "cpu")
    layout = layout or Layout(data=_shared_over(config, devices))
    check_layout(config.model, layout)
    if config.micro_batches % layout.batch_shares:
        raise InputError(
            f"layout {layout}: the {config.micro_batches} micro-batches of a step do not fall into {layout.batch_shares} equal shares"
        )
    memory = predicted_memory(config, corpus, layout, teacher.model if teacher else None)
    check_memory(memory, available_memory())
    static = static_of(config, layout, teacher.config if teacher else None)
    stream, (order,) = training_data(config, corpus, [config.seed])
    taught = (teacher.params, teacher.router) if teacher else None
    data = step.Data(jnp.asarray(stream), jnp.asarray(order), taught, step.dead_networks(static, config.seed))
    data = placed(data, layout)
    identity = run_id(config, corpus.id, threads(), str(layout), teacher.record["run_id"] if teacher else None)
    return Job(config, corpus, static, data, hyper(config), identity, unique, memory, teacher)


def predicted_memory(
    config: RunConfig, corpus: Corpus, layout: Layout = ONE_DEVICE, teacher: ModelConfig | None = None, members: int = 1
) -> Memory:
    """The peak of a process that trains `config`. Virtual CPU devices hold their parts in one memory; accelerators have each their own."""
    platform = jax.devices()[0].platform
    here = math.gcd(layout.devices, jax.local_device_count()) if platform == "cpu" else 1
    return predict_memory(
        config.model,
        config.precision,
        config.micro_batch,
        optimizer=config.optimizer,
        remat=config.remat,
        kernels=config.kernels,
        teacher=teacher,
        layout=layout,
        copies=members * here,
        dead=config.handicap_structure - 1,
        corpus_bytes=data_bytes(config, corpus) * here,
        platform=platform,
    )


def _shared_over(config: RunConfig, devices: int | None) -> int:
    """On how many devices: the most, up to `devices`, that divide a step's micro-batches evenly."""
    there = jax.device_count()
    if devices is not None and not (is_whole(devices) and 1 <= devices <= there):
        raise InputError(f"devices = {devices}: JAX has {there}; scaling.one_device_per_core() before its first use makes one of each core")
    return max(part for part in range(1, (devices or there) + 1) if config.micro_batches % part == 0)


def _teacher(config: RunConfig, corpus: Corpus) -> Finished | None:
    if config.teacher is None:
        return None
    teacher = load_model(config.teacher)
    if teacher.record["corpus"] != corpus.id:
        raise InputError(f"teacher {config.teacher}: was trained on corpus {teacher.record['corpus']}, but the student's is {corpus.id}")
    if teacher.model.vocab_size != config.model.vocab_size:
        raise InputError(
            f"teacher {config.teacher}: vocab_size = {teacher.model.vocab_size} differs from the student's {config.model.vocab_size}"
        )
    if teacher.model.context < config.model.context:
        raise InputError(
            f"teacher {config.teacher}: context = {teacher.model.context} is shorter than the student's {config.model.context}"
        )
    return teacher


class Run:
    """A run under way: its state on the device, and what its steps measured so far."""

    def __init__(self, job: Job, compiled: Callable[..., Any], state: step.TrainState, past: checkpoints.Past | None = None):
        past = past or checkpoints.Past()
        self.job, self.state = job, state
        self._compiled = compiled
        self.losses = past.curve  # loss and gradient norm of each step
        self.routers = [_metrics(row) for row in past.routers]  # one, the sum over steps from `routers_from` on; none before
        self.seconds, self.timed_steps = past.seconds, past.timed_steps

    @property
    def done(self) -> int:
        return len(self.losses)

    @property
    def diverged_at(self) -> int | None:
        place = int(self.state.diverged_at)
        return None if place < 0 else place

    def advance(self, stop: int, care: Interruptions | None = None, progress: Progress | None = None) -> None:
        """Trains up to step `stop`, or until the run diverges: the step that was lost is then the last that counts as done.

        Interrupted if `care.stop` says so before.
        """
        care, saved = care or Interruptions(), time.perf_counter()
        while self.done < stop:
            started, first = time.perf_counter(), self.done
            until = min(first + step.STEPS_PER_CALL, stop)
            if care.folder and care.steps:
                until = min(until, (first // care.steps + 1) * care.steps)
            self.state, metrics = self._compiled(self.state, self.job.data, self.job.hyper, jnp.int32(until - first))
            self._remember(metrics, until - first)  # waits for the call, whose own loop is long
            self.seconds, self.timed_steps = self.seconds + time.perf_counter() - started, self.timed_steps + self.done - first
            if self.diverged_at is not None:
                break
            stopped = self.done < stop and care.stop()
            due = bool(care.steps) and self.done % (care.steps or 1) == 0
            if care.folder and (stopped or due or time.perf_counter() - saved > care.seconds):
                self._save(care)
                saved = time.perf_counter()
            if stopped:
                raise Interrupted(f"run {self.job.id}: stopped after {self.done} of {self.job.config.steps} steps")
            if progress:
                progress(self.done, self.job.config.steps)

    def _save(self, care: Interruptions) -> None:
        """A checkpoint. One that cannot be written is no reason to lose the run."""
        assert care.folder is not None
        routers = [[np.asarray(part).tolist() for part in row if part is not None] for row in self.routers]
        try:
            checkpoints.save(care.folder, self.job.id, self.state, checkpoints.Past(self.losses, routers, self.seconds, self.timed_steps))
        except (OSError, ValueError) as error:  # the disk is full, say; TensorStore raises ValueError
            care.say(f"checkpoint {care.folder}: that of step {self.done} cannot be written: {' '.join(str(error).split())[:200]}")

    def _remember(self, metrics: step.Metrics, count: int) -> None:
        late = max(0, routers_from(self.job.config) - self.done)
        if self.job.config.model.is_moe and late < count:
            self.routers = summed(self.routers, jax.tree.map(lambda rows: np.asarray(rows)[late:count], metrics))
        self.losses.extend(np.stack([metrics.loss[:count], metrics.gradient_norm[:count]], axis=1).tolist())
        if self.diverged_at is not None:
            del self.losses[self.diverged_at + 1 :]

    def record(self, *, compile_seconds: float, flops_shared: float | None = None) -> RunRecord:
        """The record of the run as it stands: evaluated if it reached its horizon."""
        job, config = self.job, self.job.config
        started = time.perf_counter()
        diverged = self.diverged_at
        found = None
        if diverged is None:
            found = evaluation.validation(job.static, self.state.params, self.state.router, job.corpus, config.validation_tokens)
        finite = found is not None and math.isfinite(found.loss)
        reason = "" if finite else f"the loss or its gradient was not finite at step {config.steps if diverged is None else diverged}"
        rate = self.timed_steps * config.step_tokens / self.seconds if self.seconds else 0.0
        routers = self._router_summary() if finite else None
        curve = [float(part.mean()) for part in np.array_split(np.array(self.losses)[:, 0], CURVE_POINTS) if part.size]
        return RunRecord(
            **identity(job),
            loss=found.loss if found and finite else None,
            loss_se=found.loss_se if found and finite else None,
            bits_per_byte=found.bits_per_byte if found and finite else None,
            bits_per_byte_se=found.bits_per_byte_se if found and finite else None,
            status="done" if finite else "diverged",
            reason=reason,
            train_seconds=self.seconds,
            compile_seconds=compile_seconds,
            evaluation_seconds=time.perf_counter() - started,
            tokens_per_second=rate,
            flops_per_second=rate * config.flops_per_token,
            train_loss=[value for value in curve if math.isfinite(value)],
            expert_load_max=max(max(layer["load"]) for layer in routers) * config.model.experts if routers else None,
            flops_realised=realised_flops(config, routers, self.done),
            flops_shared=flops_shared,
            diverged_at=diverged,
            skipped_steps=int(self.state.scale.skipped),
            routers=routers,
            memory_peak=PEAK.read(),
        )

    def _router_summary(self) -> list[dict[str, Any]] | None:
        if not self.routers:
            return None
        mean = jax.tree.map(lambda rows: rows / (self.done - routers_from(self.job.config)), self.routers[0])
        return [
            {"load": load.tolist(), "entropy": float(entropy), "dropped": float(dropped)}
            for load, entropy, dropped in zip(mean.load_LE, mean.entropy_L, mean.dropped_L, strict=True)
        ]


def _metrics(row: list[Any]) -> step.Metrics:
    parts: list[Any] = [np.asarray(part, np.float64) for part in row]
    return step.Metrics(*parts)


def routers_from(config: RunConfig) -> int:
    """The step from which on the record averages what routers did: it begins the last tenth of the run."""
    return config.steps * 9 // 10


def summed(before: list[step.Metrics], rows: step.Metrics) -> list[step.Metrics]:
    """[the sum of `before` and of all rows], one row after another in float64: the same bits however the steps fell into calls."""
    parts = [jax.tree.map(lambda x: np.asarray(x, np.float64)[None], one) for one in before] + [rows]
    return [jax.tree.map(lambda *each: np.add.accumulate(np.concatenate(each), dtype=np.float64)[-1], *parts)]


def realised_flops(config: RunConfig, routers: list[dict[str, Any]] | None, steps: int) -> float:
    """Training FLOP of `steps` steps with what the exact count leaves out: padding (or drops) of experts' rows at the measured load, recomputed blocks."""
    rows = config.micro_batch * config.model.context
    per_token = None
    if config.model.is_moe:
        loads = [layer["load"] for layer in routers] if routers else [None] * config.model.layers
        per_token = float(np.mean([expert_rows(config.model, rows, load) for load in loads])) / rows
    count = models.training_flops(config.model, expert_rows_per_token=per_token)
    again = recompute_flops(config.model, config.remat, expert_rows_per_token=per_token)
    return (count.training + again) * config.handicap_structure * steps * config.step_tokens


def sequence_order(config: RunConfig, corpus: Corpus, seed: int) -> np.ndarray:
    """The order in which sequences are seen (`Corpus.order`), over and over: all of the corpus, or what `unique_tokens` leaves of it."""
    order = corpus.order(config.model.context, seed)
    return order if config.unique_tokens is None else order[: config.unique_tokens // config.model.context]


def training_data(config: RunConfig, corpus: Corpus, seeds: Sequence[int]) -> tuple[np.ndarray, list[np.ndarray]]:
    """What lies on the device for runs of `config` with `seeds`: a stream, and for each seed the order in which it is read.

    A corpus that is not `resident` gives the sequences that the runs read and no others, in rows of the order they are read in. Rows are
    filled up to a power of two, so that runs of like length share a compilation.
    """
    context = config.model.context
    if corpus.resident:
        return corpus.train(), [sequence_order(config, corpus, seed) for seed in seeds]
    count, kept = _rows(config, corpus)
    rows = np.zeros((len(seeds) * kept, context + 1), corpus.dtype)
    for place, seed in enumerate(seeds):
        rows[place * kept : place * kept + count] = corpus.sequences(context, seed, count)
    return rows, [np.arange(kept, dtype=np.int32) + place * kept for place in range(len(seeds))]


def _rows(config: RunConfig, corpus: Corpus) -> tuple[int, int]:
    """Sequences that a run reads of a corpus that is not resident, and rows kept for them."""
    available = (corpus.train_tokens - 1 if config.unique_tokens is None else config.unique_tokens) // config.model.context
    count = min(config.tokens_trained // config.model.context, available)
    return count, count if count == available else 1 << (count - 1).bit_length()


def data_bytes(config: RunConfig, corpus: Corpus) -> int:
    """Of training tokens on the device."""
    if corpus.resident:
        return corpus.train_tokens * corpus.dtype.itemsize
    return _rows(config, corpus)[1] * (config.model.context + 1) * corpus.dtype.itemsize


def hyper(config: RunConfig) -> step.Hyper:
    """The traced numbers of a run."""
    real, whole = jnp.float32, jnp.int32
    return step.Hyper(
        peak=real(config.peak),
        steps=whole(config.steps),
        warmup_steps=whole(config.warmup_steps),
        decay_steps=whole(config.decay_steps),
        weight_decay=real(config.weight_decay),
        balance_loss=real(config.balance_loss),
        z_loss=real(config.z_loss),
        bias_rate=real(config.bias_rate),
        distill_weight=real(config.distill_weight),
        temperature=real(config.temperature),
        micro_batches=whole(config.micro_batches),
    )


def identity(job: Job) -> dict[str, Any]:
    """The fields of a record that are known before the run."""
    config, device = job.config, jax.devices()[0]
    params, flops, format_ = models.count_params(config.model), models.training_flops(config.model), policy(config.precision)
    teacher, networks = job.teacher, config.handicap_structure
    return {
        "run_id": job.id,
        "corpus": job.corpus.id,
        "arm": config.arm,
        "precision": config.precision,
        "seed": config.seed,
        "params": params.total * networks,
        "active_params": params.active * networks,
        "non_embedding_params": params.non_embedding * networks,
        "tokens": config.tokens_trained,
        "unique_tokens": job.unique_tokens,
        "flops": config.flops_per_token * config.tokens_trained,
        "flops_causal": flops.training_causal * networks * config.tokens_trained,
        "width": config.model.width,
        "layers": config.model.layers,
        "experts": config.model.experts,
        "batch": config.sequences,
        "steps": config.steps,
        "learning_rate": config.peak,
        "optimizer": config.optimizer,
        "threads": threads(),
        "devices": job.static.devices,
        "layout": str(job.static.layout),
        "device": device_name(),
        "emulated": list(format_.emulated(device.platform, device.device_kind)),
        "bits": {"weights": format_.bits_weights, "activations": format_.bits_activations, "cache": format_.bits_cache},
        "memory_predicted": job.memory.total,
        "teacher": teacher.record["run_id"] if teacher else None,
        "teacher_training_flops": teacher.record["flops"] if teacher else None,
        "teacher_forward_flops": models.training_flops(teacher.model, config.model.context).forward * config.tokens_trained
        if teacher
        else None,
        "versions": {
            "isoloss": importlib.metadata.version("isoloss"),
            "numerics": str(NUMERICS_VERSION),
            "python": platform.python_version(),
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "flax": flax.__version__,
        }
        | ({"kernels": kernels.version()} if config.kernels else {}),
        "config": config.as_dict(),
    }
