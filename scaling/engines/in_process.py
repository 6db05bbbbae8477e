"""The engine `process`: every run in this process, one after another, with the threads and the device that it has."""

from __future__ import annotations

from collections.abc import Sequence

from scaling.engines import Listener, Settings, tasks
from scaling.engines.queues import shape_of
from scaling.plan import Job
from scaling.run import RunRecord


def run_in_process(jobs: Sequence[Job], ids: dict[Job, str], listener: Listener, settings: Settings) -> None:
    """Makes the jobs shape by shape, the dearest first."""
    dearest: dict[tuple, float] = {}
    for job in jobs:
        shape = shape_of(job.config)
        dearest[shape] = max(dearest.get(shape, 0.0), job.flops)
    shapes = sorted(dearest, key=lambda shape: -dearest[shape])
    for job in sorted(jobs, key=lambda job: (shapes.index(shape_of(job.config)), -job.flops)):
        if settings.stop.is_set():
            return
        if not listener.claimed(job):
            continue
        answer = tasks.perform(
            tasks.task_of(job, ids[job], settings),
            lambda done, steps, job=job: listener.advanced(job, done / steps),
            settings.stop.is_set,
            listener.noted,
        )
        if "record" in answer:
            listener.done(job, RunRecord(**answer["record"]))
        elif "failed" in answer:
            listener.failed(job, answer["failed"])
        else:
            listener.released(job)
