"""Several horizons from one warm-up-stable-decay run: until its decay begins, a run does not know how long it will be.

The longest run is the trunk. Where the decay of a shorter one begins, the trunk's state is copied and the copy decays by itself. So
every run is, bit for bit, the one that would have been trained alone (Hägele et al. 2024, arXiv 2405.18392, measure what that saves).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from models.fields import is_whole
from models.memory import Memory, available_memory, check_memory
from scaling import checkpoints, step
from scaling.devices import threads
from scaling.errors import InputError
from scaling.finished import check_save, save_model
from scaling.run import RunConfig, RunRecord, run_id, unique_tokens
from scaling.training import Job, Progress, Run, hyper, prepare, routers_from


def train_horizons(
    config: RunConfig,
    horizons: Sequence[int],
    *,
    devices: int | None = None,
    progress: Progress | None = None,
    save: str | Path | None = None,
) -> list[RunRecord]:
    """Records of `config` at each of `horizons` (tokens), in their order. None may exceed `config.tokens`.

    All have the batch, peak rate and warm-up steps of `config`, and decay over the last `config.decay` of themselves: see
    `branch_config`, whose run alone (`scaling.train`) has the same `run_id`, losses and weights. `flops` is what a run costs alone. Of
    `flops_shared` the longest run pays all of itself, which is the trunk, and every other one what it did after the trunk: the sum is
    what all cost together. Seconds are shared out in the same way. `progress` counts the steps of all. Models are left in `save`/RUN_ID.

    InputError, before anything starts, for a folder there that is not a finished run's, another schedule, a horizon named twice, beyond `config.tokens`, or too short to decay.
    """
    configs = [branch_config(config, tokens) for tokens in horizons]
    _check_distinct(configs)
    if not configs:
        return []
    longest = max(configs, key=lambda own: own.steps)
    job = _trunk_job(longest, len(configs), devices)
    if save is not None:
        for own in configs:
            check_save(Path(save) / _beside(job, own).id)
    started = time.perf_counter()
    state = step.initialise(job.static, jnp.int32(config.seed))
    compiled = step.train_steps.lower(job.static, state, job.data, job.hyper, jnp.int32(1)).compile()
    compile_seconds = time.perf_counter() - started

    count = _Count(progress, longest.steps + sum(own.steps - branch_point(own) for own in configs if own is not longest))
    trunk, records = Run(job, compiled, state), {}
    for own in sorted(configs, key=lambda own: own.steps):
        run, first = trunk, 0
        if own is not longest:
            first = branch_point(own)
            count.advance(trunk, first)
            run = Run(_beside(job, own), compiled, jax.tree.map(jnp.copy, trunk.state), checkpoints.Past(list(trunk.losses)))
        count.advance(run, own.steps)
        shared = own.flops_per_token * max(0, run.done - first) * own.step_tokens
        record = run.record(compile_seconds=compile_seconds if own is longest else 0.0, flops_shared=shared)
        if save is not None:
            save_model(Path(save) / record.run_id, run.state, record)
        records[own] = record
    return [records[own] for own in configs]


def branch_config(config: RunConfig, tokens: int) -> RunConfig:
    """The configuration, as of a run alone, of `config` cut to `tokens`: its warm-up steps, batch and rates, its own decay.

    `config` itself where `tokens` are its own. InputError where `tokens` exceed those, or warm-up and decay would overlap.
    """
    if config.schedule != "wsd":
        raise InputError(f"horizons: schedule = {config.schedule!r} shares no trunk, because its rate depends on the horizon; use 'wsd'")
    if not is_whole(tokens):
        raise InputError(f"horizons: tokens are whole numbers, got {tokens!r}")
    if tokens > config.tokens:
        raise InputError(f"horizons: {tokens} tokens exceed the trunk's, tokens = {config.tokens}; give the longest run as config")
    steps, warm = tokens // config.step_tokens, config.warmup_steps
    if steps < 1 or warm / steps + config.decay > 1:
        needed = f"at least {math.ceil(warm / (1 - config.decay))} are needed" if config.decay < 1 else "set decay below 1"
        raise InputError(
            f"horizons: {tokens} tokens are {steps} steps, too few for the trunk's {warm} of warm-up and a decay of {config.decay:g}: {needed}"
        )
    # The fraction stays as it is where it gives the same whole number of steps: the run may then be known already.
    warmup = config.warmup if round(config.warmup * steps) == warm else warm / steps
    return dataclasses.replace(config, tokens=tokens, warmup=warmup)


def branch_point(config: RunConfig) -> int:
    """The step before which a branch is its trunk: that of the first lower rate.

    For an MoE model no later than nine tenths of the run: over the last tenth its record averages what the routers did.
    """
    first = config.steps - max(1, config.decay_steps)
    return min(first, routers_from(config)) if config.model.is_moe else first


def _check_distinct(configs: Sequence[RunConfig]) -> None:
    seen: dict[int, int] = {}
    for own in configs:
        if own.steps in seen:
            raise InputError(f"horizons: {seen[own.steps]} and {own.tokens} tokens are the same {own.steps} steps; name each horizon once")
        seen[own.steps] = own.tokens


def _trunk_job(config: RunConfig, runs: int, devices: int | None) -> Job:
    """The longest run's job; a branch's state is in memory beside the trunk's."""
    job = prepare(config, devices)
    if runs == 1:
        return job
    copy = job.memory.parts["parameters"] + job.memory.parts["moments"]
    memory = Memory(job.memory.parts | {"trunk": copy})
    check_memory(memory, available_memory())
    return dataclasses.replace(job, memory=memory)


def _beside(job: Job, config: RunConfig) -> Job:
    """The job of a run that differs from that of `job` in its horizon only."""
    teacher = job.teacher.record["run_id"] if job.teacher else None
    return dataclasses.replace(
        job,
        config=config,
        hyper=hyper(config),
        id=run_id(config, job.corpus.id, threads(), str(job.static.layout), teacher),
        unique_tokens=unique_tokens(config, job.corpus),
    )


@dataclasses.dataclass
class _Count:
    """Steps of all runs together."""

    progress: Progress | None
    total: int
    done: int = 0

    def advance(self, run: Run, stop: int) -> None:
        """Trains `run` up to step `stop`, unless it has diverged."""
        first = run.done
        progress = self.progress
        if run.diverged_at is None:
            run.advance(stop, progress=None if progress is None else lambda done, _: progress(self.done + done - first, self.total))
        self.done += stop - first
