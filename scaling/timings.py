"""How long the runs of a plan will take on this machine, from a short measurement under the conditions of a sweep.

Single-threaded workers, as many as a sweep would use, side by side, each compile a shape and time some of its steps. What is measured
is kept (`timings.json` in the cache), by shape, processor, workers and versions. A shape that the time did not suffice for
is taken to compute as many FLOP a second as those next to it in FLOP a token, of its own arm where there are any.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import threading
import time
from collections.abc import Collection, Sequence

import numpy as np

import models
from scaling.devices import cores, processor
from scaling.engines.local import Worker
from scaling.engines.queues import shape_of
from scaling.paths import cache_folder
from scaling.plan import Job
from scaling.run import NUMERICS_VERSION, RunConfig

MEASURE_SECONDS = 20.0  # all measurements together; one that was begun is ended
SHAPE_SECONDS = 0.7  # of steps that are timed
FORWARD_SHARE = 1 / 3  # of a training step's work, which an evaluated token takes


@dataclasses.dataclass(frozen=True)
class Timing:
    """Of one shape: training FLOP a second of one worker, and the seconds until its first step (compilation, or the cache of it)."""

    flops_per_second: float
    setup_seconds: float


@dataclasses.dataclass(frozen=True)
class Expected:
    """Seconds of each job on one of `workers`, NaN where nothing could be measured; `reading` says what was measured.

    `setup` are the seconds before the first step of a shape, which are counted once, by the first job of the shape.
    """

    seconds: dict[Job, float]
    setup: dict[tuple, float]
    workers: int
    reading: str

    def wall_seconds(self, jobs: Collection[Job]) -> float:
        """Of these jobs: what the workers share, or the longest one."""
        shapes = {shape_of(job.config) for job in jobs}
        work = sum(self.seconds[job] for job in jobs) + sum(self.setup[shape] for shape in shapes)
        return max(work / self.workers, max((self.seconds[job] for job in jobs), default=0.0))

    def fitting(self, order: Sequence[Job], limit: float) -> list[Job]:
        """The jobs that can be made within `limit` seconds, taken in order; one that does not fit is passed over."""
        taken: list[Job] = []
        for job in order:
            if self.wall_seconds([*taken, job]) <= limit:
                taken.append(job)
        return taken


def expected(jobs: Sequence[Job], workers: int | None = None, seconds: float = MEASURE_SECONDS) -> Expected:
    """The expected time of the jobs, after at most about `seconds` of measuring."""
    workers = min(workers or cores(), max(1, len(jobs)))
    shapes = _by_shape(jobs)
    kept = _read()
    keys = {shape: _key(shape, workers) for shape in shapes}
    missing = [shape for shape in shapes if keys[shape] not in kept]
    started = time.monotonic()
    fresh = _measure([shapes[shape].config for shape in missing], workers, started + seconds) if missing else {}
    if fresh:
        kept |= {keys[shape_of(config)]: timing for config, timing in fresh.items()}
        _write(kept)
    known = {shape: kept[key] for shape, key in keys.items() if key in kept}
    reading = (
        f"{len(known)} of {len(shapes)} shapes measured ({len(fresh)} now, in {time.monotonic() - started:.0f} s;"
        f" {workers} workers side by side){'' if len(known) == len(shapes) else ', the others by their neighbours'}"
    )
    timings = {shape: known.get(shape) or _neighbours(shapes[shape], known, shapes) for shape in shapes}
    setup = {shape: timing.setup_seconds if timing else math.nan for shape, timing in timings.items()}
    return Expected({job: _seconds(job, timings[shape_of(job.config)]) for job in jobs}, setup, workers, reading)


def _by_shape(jobs: Sequence[Job]) -> dict[tuple, Job]:
    """One job of each shape, in the order of measuring: of each arm the shape that computes most, then its smallest, then the rest."""
    work: dict[tuple, float] = {}
    example: dict[tuple, Job] = {}
    for job in jobs:
        shape = shape_of(job.config)
        work[shape] = work.get(shape, 0.0) + job.flops
        example.setdefault(shape, job)
    ranks: dict[tuple, int] = {}
    for arm in {job.config.arm for job in jobs}:
        own = sorted((shape for shape in example if example[shape].config.arm == arm), key=lambda shape: -work[shape])
        smallest = min(own, key=lambda shape: models.training_flops(shape[0]).training, default=None)
        ranks |= {shape: 0 if place == 0 else 1 if shape == smallest else 2 for place, shape in enumerate(own)}
    return {shape: example[shape] for shape in sorted(example, key=lambda shape: (ranks[shape], -work[shape]))}


def _seconds(job: Job, timing: Timing | None) -> float:
    if timing is None:
        return math.nan
    evaluated = FORWARD_SHARE * models.training_flops(job.config.model).training * job.config.validation_tokens
    return (job.flops + evaluated) / timing.flops_per_second


def _neighbours(job: Job, known: dict[tuple, Timing], shapes: dict[tuple, Job]) -> Timing | None:
    arm = [shape for shape in known if shapes[shape].config.arm == job.config.arm] or list(known)
    if not arm:
        return None
    place = sorted(((math.log(models.training_flops(shape[0]).training), known[shape]) for shape in arm), key=lambda each: each[0])
    at = math.log(models.training_flops(job.config.model).training)
    logs, timings = [each[0] for each in place], [each[1] for each in place]
    rate = np.interp(at, logs, [math.log(each.flops_per_second) for each in timings])
    return Timing(math.exp(float(rate)), float(np.interp(at, logs, [each.setup_seconds for each in timings])))


def _measure(configs: Sequence[RunConfig], workers: int, deadline: float) -> dict[RunConfig, Timing]:
    """Timings of the configurations whose turn came before the deadline (monotonic seconds), at least one."""
    found: dict[RunConfig, Timing] = {}
    left, lock = list(configs), threading.Lock()

    def work() -> None:
        with Worker() as worker:
            while True:
                with lock:
                    if not left or (time.monotonic() > deadline and found):
                        return
                    config = left.pop(0)
                for answer in worker.ask({"measure": config.as_dict(), "seconds": SHAPE_SECONDS}):
                    if "timing" in answer:
                        with lock:
                            found[config] = Timing(*answer["timing"])

    threads = [threading.Thread(target=work) for _ in range(min(workers, len(configs)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _key(shape: tuple, workers: int) -> str:
    import jax

    about = (shape, processor(), os.environ.get("JAX_PLATFORMS"), workers, jax.__version__, NUMERICS_VERSION)
    return hashlib.sha256(repr(about).encode()).hexdigest()[:16]


def _read() -> dict[str, Timing]:
    try:
        return {key: Timing(*values) for key, values in json.loads((cache_folder() / "timings.json").read_text()).items()}
    except (OSError, ValueError, TypeError):  # not there, or of another version: measured again
        return {}


def _write(timings: dict[str, Timing]) -> None:
    file = cache_folder() / "timings.json"
    temporary = file.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):  # a cache that cannot be written is none
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({key: dataclasses.astuple(timing) for key, timing in timings.items()}))
        temporary.replace(file)
