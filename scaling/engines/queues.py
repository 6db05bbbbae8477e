"""The order in which the jobs of a sweep are given to workers on one machine: compilations shared, memory respected."""

from __future__ import annotations

import bisect
import functools
import threading
from collections.abc import Callable, Sequence

from models.memory import host_memory, predict_memory
from scaling.data.corpora import load_corpus
from scaling.plan import Job
from scaling.run import RunConfig


def shape_of(config: RunConfig) -> tuple:
    """What runs must share so that one compilation serves them (`scaling.step.Static`)."""
    return (
        config.model,
        config.precision,
        config.micro_batch,
        config.schedule,
        config.optimizer,
        config.remat,
        config.teacher,
        config.kernels,
        config.handicap_data > 1,
        config.handicap_structure,
    )


def host_bytes(config: RunConfig) -> int:
    """Predicted peak of a worker process on a CPU. (A teacher, which is one run's in a thousand, is left to the worker's own prediction.)"""
    from scaling.training import data_bytes  # brings Orbax

    return predict_memory(
        config.model,
        config.precision,
        config.micro_batch,
        optimizer=config.optimizer,
        remat=config.remat,
        kernels=config.kernels,
        dead=config.handicap_structure - 1,
        corpus_bytes=data_bytes(config, _corpus(config.corpus)),
    ).total


_corpus = functools.cache(load_corpus)


WORTH = 0.02  # of a worker's share of all jobs: a smaller one costs less at the end than a compilation


class Queue:
    """Jobs to do. A worker is given the dearest job of a shape that it has compiled, else of a shape that nobody has; but a job of more
    than half a worker's share of what is left first of all, so that no worker is left with it at the end.

    The predicted memory of the jobs under way stays within `memory` (what the machine has left); a job that does not fit beside the
    others waits for them, and one that does not fit at all is given out alone, for its worker to refuse with the prediction.
    """

    def __init__(self, jobs: Sequence[Job], claimed: Callable[[Job], bool], workers: int, memory: int | None = None):
        self._jobs = sorted(jobs, key=lambda job: -job.flops)
        self._workers, self._total = workers, sum(job.flops for job in jobs)
        self._claimed = claimed
        self._memory = host_memory() if memory is None else memory
        self._taken: set[tuple] = set()
        self._running: dict[Job, int] = {}
        self._closed = False
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)

    def take(self, own: set[tuple]) -> Job | None:
        """The next job for a worker that has compiled the shapes `own`, once one fits; None when there is no more to do."""
        with self._changed:
            while self._jobs and not self._closed:
                fitting = [job for job in self._jobs if self._fits(job)]
                if not fitting:
                    self._changed.wait()
                    continue
                job = self._next(fitting, own)
                self._jobs.remove(job)
                if not self._claimed(job):
                    continue
                own.add(shape_of(job.config))
                self._taken.add(shape_of(job.config))
                self._running[job] = host_bytes(job.config)
                return job
            return None

    def end(self, job: Job, *, again: bool = False) -> None:
        """A job that was taken is no longer under way; `again`: it is to be done once more."""
        with self._changed:
            self._running.pop(job, None)
            if again:
                bisect.insort(self._jobs, job, key=lambda each: -each.flops)
            self._changed.notify_all()

    def close(self) -> None:
        """Gives out no more jobs."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _fits(self, job: Job) -> bool:
        return not self._running or sum(self._running.values()) + host_bytes(job.config) <= self._memory

    def _next(self, fitting: Sequence[Job], own: set[tuple]) -> Job:
        share = self._workers * fitting[0].flops
        if 2 * share > sum(job.flops for job in self._jobs) and share > WORTH * self._total:
            return fitting[0]
        ranks = [0 if (shape := shape_of(job.config)) in own else 1 if shape not in self._taken else 2 for job in fitting]
        return fitting[ranks.index(min(ranks))]
