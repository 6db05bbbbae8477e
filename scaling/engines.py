"""Engines: how the jobs of a sweep get done. `local` keeps one single-threaded worker process a core.

Small models gain little from a second thread and much from a second run beside them: two processes of one thread did about
twice the work of one process of two threads at widths 16 to 96 (`benchmarks/speed.py workers`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import IO

from scaling.devices import cores
from scaling.plan import Job
from scaling.run import RunConfig, RunRecord

WORKER_THREADS = 1


@dataclasses.dataclass
class Listener:
    """What an engine tells while it works. Called from several threads, one at a time."""

    advanced: Callable[[Job, float], None]  # share of its steps, 0 to 1
    done: Callable[[Job, RunRecord], None]
    failed: Callable[[Job, str], None]


def run_local(jobs: Sequence[Job], listener: Listener, workers: int | None = None) -> None:
    """Runs all jobs in worker processes and returns when the last has ended. A worker that dies is replaced, its job failed."""
    queue = _Queue(jobs)
    hands = [_Hand(queue, listener) for _ in range(min(workers or cores(), len(jobs)))]
    try:
        for hand in hands:
            hand.start()
        while any(hand.is_alive() for hand in hands) and not any(hand.error for hand in hands):
            for hand in hands:
                hand.join(timeout=0.2)
    finally:
        for hand in hands:
            hand.stop()
    for hand in hands:
        hand.join()
        if hand.error is not None:
            raise hand.error


def _shape(config: RunConfig) -> tuple:
    return config.model, config.precision, config.micro_batch, config.schedule, config.optimizer, config.remat, config.teacher


class _Queue:
    """Jobs to do. A worker is given the dearest job of a shape that it has compiled, else of a shape that nobody has."""

    def __init__(self, jobs: Sequence[Job]):
        self._jobs = sorted(jobs, key=lambda job: -job.flops)
        self._taken: set[tuple] = set()
        self.lock = threading.RLock()

    def take(self, own: set[tuple]) -> Job | None:
        with self.lock:
            if not self._jobs:
                return None
            shapes = [_shape(job.config) for job in self._jobs]
            rank = [0 if shape in own else 1 if shape not in self._taken else 2 for shape in shapes]
            job = self._jobs.pop(rank.index(min(rank)))
            own.add(_shape(job.config))
            self._taken.add(_shape(job.config))
            return job


class _Hand(threading.Thread):
    """A thread that owns one worker process and feeds it."""

    def __init__(self, queue: _Queue, listener: Listener):
        super().__init__(daemon=True)
        self._queue, self._listener = queue, listener
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False
        self.error: BaseException | None = None

    def run(self) -> None:
        shapes: set[tuple] = set()
        try:
            with tempfile.TemporaryFile("w+") as log:
                while not self._stopped and (job := self._queue.take(shapes)) is not None:
                    if self._process is None or self._process.poll() is not None:
                        _close(self._process)
                        self._process, shapes = _start(log), {_shape(job.config)}
                        if self._stopped:  # between the two lines above, perhaps
                            break
                    self._do(job, log)
        except BaseException as error:  # a listener's error (a full disk, say) ends the sweep, in the thread that asked for it
            if not self._stopped:
                self.error = error
        finally:
            self.stop()

    def _do(self, job: Job, log: IO[str]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(job.config.as_dict()) + "\n")
            self._process.stdin.flush()
            for line in self._process.stdout:
                answer = json.loads(line)
                with self._queue.lock:
                    if "progress" in answer:
                        self._listener.advanced(job, answer["progress"][0] / answer["progress"][1])
                    elif "record" in answer:
                        return self._listener.done(job, RunRecord(**answer["record"]))
                    else:
                        return self._listener.failed(job, answer["failed"])
        except BrokenPipeError:
            pass
        if not self._stopped:
            with self._queue.lock:
                self._listener.failed(job, f"the worker process ended (exit status {self._process.wait()}): {_last_line(log)}")

    def stop(self) -> None:
        self._stopped = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            _close(self._process)


def _start(log: IO[str]) -> subprocess.Popen[str]:
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    environment = os.environ | {"NPROC": str(WORKER_THREADS), "XLA_FLAGS": flags.strip(), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "scaling.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=environment,
    )


def _close(process: subprocess.Popen[str] | None) -> None:
    for pipe in (process.stdin, process.stdout) if process is not None else ():
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # a dead worker leaves no one to flush to
                pipe.close()


def _last_line(log: IO[str]) -> str:
    log.seek(0)
    lines = log.read().strip().splitlines()
    return lines[-1] if lines else "it left no message"
