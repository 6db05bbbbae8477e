"""A task: one run as it is given to whoever makes it, a worker process, this process or a Ray worker. All make it by `perform`."""

from __future__ import annotations

import dataclasses
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scaling.engines import Settings
from scaling.plan import Job
from scaling.run import RunConfig


@dataclasses.dataclass(frozen=True)
class Task:
    """A run's configuration and identity, and where and how often it leaves checkpoints."""

    run: str
    config: dict[str, Any]
    checkpoints: str | None = None
    checkpoint_seconds: float = 60.0


def task_of(job: Job, run: str, settings: Settings) -> Task:
    """The task of a plan's job."""
    folder = None if settings.checkpoints is None else str((settings.checkpoints / run).absolute())
    return Task(run, job.config.as_dict(), folder, settings.checkpoint_seconds)


def perform(task: Task, progress: Callable[[int, int], None], stop: Callable[[], bool], say: Callable[[str], None]) -> dict[str, Any]:
    """{"record": ...}, {"stopped": why} or {"failed": reason}: one run that cannot be made must not end the sweep."""
    from scaling.training import Interrupted, Interruptions, train

    care = Interruptions(_reachable(task.checkpoints), seconds=task.checkpoint_seconds, stop=stop, say=say)
    try:
        record = train(RunConfig.from_dict(task.config), interruptions=care, progress=progress, devices=1)
    except Interrupted as stopped:
        return {"stopped": str(stopped)}
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        return {"failed": f"{type(error).__name__}: {error}"}
    if record.run_id != task.run:
        return {
            "failed": f"the worker made run {record.run_id} in place of {task.run}: its threads or its corpus differ from this process's"
        }
    return {"record": record.as_dict()}


def measure(config: dict[str, Any], seconds: float) -> dict[str, Any]:
    """{"timing": [training FLOP a second, seconds until the first step]} from `seconds` of a run's first steps, or {"failed": reason}."""
    import jax.numpy as jnp

    from scaling import step, training

    run_config = RunConfig.from_dict(config)
    try:
        started = time.perf_counter()
        job = training.prepare(run_config, devices=1)
        state = step.initialise(job.static, jnp.int32(run_config.seed))
        compiled = step.train_steps.lower(job.static, state, job.data, job.hyper, jnp.int32(1)).compile()
        run = training.Run(job, compiled, state)
        run.advance(1)
        setup = time.perf_counter() - started
        run.seconds, run.timed_steps, more = 0.0, 0, 1
        while run.seconds < seconds and run.done < run_config.steps and run.diverged_at is None:
            run.advance(min(run.done + more, run_config.steps))
            more *= 2
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    return {"timing": [run_config.flops_per_token * run_config.step_tokens * run.timed_steps / run.seconds, setup]}


def _reachable(folder: str | None) -> Path | None:
    """The folder if it lies on this machine, or on a disk shared with it: elsewhere a run leaves no checkpoints."""
    return Path(folder) if folder and Path(folder).parent.parent.is_dir() else None
