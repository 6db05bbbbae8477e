"""Engines: how the jobs of a sweep get done.

`local` keeps one single-threaded worker process a core, `process` makes every run in this process, `ray` gives the runs to a Ray cluster.
Small models gain little from a second thread and much from a second run beside them: two processes of one thread did about
twice the work of one process of two threads at widths 16 to 96 (`benchmarks/speed.py workers`).
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from scaling.errors import InputError
from scaling.plan import Job
from scaling.run import RunRecord

NAMES = ("local", "process", "ray")
WORKER_THREADS = 1


def _nothing(*_: object) -> None:
    pass


@dataclasses.dataclass
class Listener:
    """What an engine tells while it works. Called from several threads, one at a time."""

    advanced: Callable[[Job, float], None]  # share of its steps, 0 to 1
    done: Callable[[Job, RunRecord], None]
    failed: Callable[[Job, str], None]
    claimed: Callable[[Job], bool] = lambda job: True  # asked before a job is begun; False: somebody else makes it
    released: Callable[[Job], None] = _nothing  # a job that was begun and is given up, to be carried on later
    noted: Callable[[str], None] = _nothing  # what a user should know: a checkpoint that was cut short, a worker that was lost


@dataclasses.dataclass(frozen=True)
class Settings:
    """How an engine works. `workers`: processes of `local` (one a core where None), runs at once of `ray` (as many as fit).

    `address` of a Ray cluster (None starts one here), `cpus` and `gpus` of it a run. A run whose worker was lost is begun again
    `retries` times. Runs leave a checkpoint in a folder of `checkpoints` every `checkpoint_seconds`, and one when `stop` is set.
    """

    workers: int | None = None
    address: str | None = None
    cpus: float = 1
    gpus: float = 0
    retries: int = 2
    checkpoints: Path | None = None
    checkpoint_seconds: float = 60.0
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)


def check(engine: str) -> None:
    """InputError for an engine that there is not, or whose library is not installed."""
    if engine not in NAMES:
        raise InputError(f"engine {engine!r} is not known; it is one of {', '.join(NAMES)}")
    if engine == "ray":
        from importlib.util import find_spec

        if find_spec("ray") is None:
            raise InputError("engine 'ray' needs Ray, which is not installed: pip install 'isoloss[ray]'")


def threads_of(engine: str) -> int:
    """CPU threads of a run, which are part of its identity."""
    if engine != "process":
        return WORKER_THREADS
    from scaling.devices import threads

    return threads()


def run(engine: str, jobs: Sequence[Job], ids: dict[Job, str], listener: Listener, settings: Settings) -> None:
    """Makes all jobs by the engine of that name; returns when the last has ended, or when `settings.stop` was set."""
    from scaling.engines import in_process, local, on_ray

    engines = {"local": local.run_local, "process": in_process.run_in_process, "ray": on_ray.run_on_ray}
    engines[engine](jobs, ids, listener, settings)
