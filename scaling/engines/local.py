"""The engine `local`: worker processes of one thread each on this machine, each fed by a thread of this process."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import IO

from scaling.devices import ONE_THREAD, cores
from scaling.engines import WORKER_THREADS, Listener, Settings, tasks
from scaling.engines.queues import Queue, shape_of
from scaling.plan import Job
from scaling.run import RunRecord

GRACE_SECONDS = 30.0  # for workers that were asked to stop to leave their checkpoints


def run_local(jobs: Sequence[Job], ids: dict[Job, str], listener: Listener, settings: Settings) -> None:
    """Makes all jobs in worker processes. A worker that dies is replaced, and its job begun again or noted as failed."""
    queue = Queue(jobs, listener.claimed)
    hands = [_Hand(queue, ids, listener, settings) for _ in range(min(settings.workers or cores(), len(jobs)))]
    try:
        for hand in hands:
            hand.start()
        while any(hand.is_alive() for hand in hands) and not any(hand.error for hand in hands) and not settings.stop.is_set():
            for hand in hands:
                hand.join(timeout=0.05)
        if settings.stop.is_set():
            _leave(queue, hands)
    finally:
        queue.close()
        for hand in hands:
            hand.stop()
    for hand in hands:
        hand.join()
        if hand.error is not None:
            raise hand.error


def _leave(queue: Queue, hands: Sequence[_Hand]) -> None:
    """Lets the runs under way leave a checkpoint each."""
    queue.close()
    for hand in hands:
        hand.ask_to_stop()
    deadline = time.monotonic() + GRACE_SECONDS
    for hand in hands:
        hand.join(timeout=max(0.0, deadline - time.monotonic()))


class _Hand(threading.Thread):
    """A thread that owns one worker process and feeds it."""

    def __init__(self, queue: Queue, ids: dict[Job, str], listener: Listener, settings: Settings):
        super().__init__(daemon=True)
        self._queue, self._ids, self._listener, self._settings = queue, ids, listener, settings
        self._process: subprocess.Popen[str] | None = None
        self._lost: collections.Counter[Job] = collections.Counter()  # workers, by the job that they had
        self._stopped = False
        self.error: BaseException | None = None

    def run(self) -> None:
        shapes: set[tuple] = set()
        try:
            with tempfile.TemporaryFile("w+") as log:
                while not self._stopped and (job := self._queue.take(shapes)) is not None:
                    if self._process is None or self._process.poll() is not None:
                        _close(self._process)
                        self._process, shapes = _start(log), {shape_of(job.config)}
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
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(dataclasses.asdict(tasks.task_of(job, self._ids[job], self._settings))) + "\n")
            self._process.stdin.flush()
            for line in self._process.stdout:
                with self._queue.lock:
                    if self._heard(job, json.loads(line)):
                        return
        if not self._stopped:
            self._worker_lost(job, self._process.wait(), _last_line(log))

    def _heard(self, job: Job, answer: dict) -> bool:
        """Passes on what the worker said; True if it was the last of this job."""
        if "progress" in answer:
            self._listener.advanced(job, answer["progress"][0] / answer["progress"][1])
            return False
        if "note" in answer:
            self._listener.noted(answer["note"])
            return False
        self._queue.end(job, again="stopped" in answer)  # a worker may have been told to stop by somebody else
        if "record" in answer:
            self._listener.done(job, RunRecord(**answer["record"]))
        elif "failed" in answer:
            self._listener.failed(job, answer["failed"])
        else:
            assert self._process is not None
            self._process.wait()  # it ends of itself
            self._listener.released(job)
        return True

    def _worker_lost(self, job: Job, status: int, last: str) -> None:
        """The job is begun again, from its last checkpoint if it left one, or noted as failed."""
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
        memory = ", as the kernel does when memory runs out" if status == -signal.SIGKILL else ""
        reason = f"the worker process was ended {how}{memory}: {last}"
        self._lost[job] += 1
        again = self._lost[job] <= self._settings.retries
        with self._queue.lock:
            self._queue.end(job, again=again)
            if again:
                self._listener.released(job)
                self._listener.noted(f"run {self._ids[job]} is begun again: {reason}")
            else:
                self._listener.failed(job, f"{reason} (tried {self._lost[job]} times)")

    def ask_to_stop(self) -> None:
        process = self._process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):  # it may have ended by itself
                process.stdin.write(json.dumps({"stop": True}) + "\n")
                process.stdin.flush()

    def stop(self) -> None:
        self._stopped = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            _close(self._process)


def worker_environment() -> dict[str, str]:
    """What makes a run single-threaded, whoever makes it: the bits of its losses depend on it."""
    flags = os.environ.get("XLA_FLAGS", "")
    return {"NPROC": str(WORKER_THREADS), "XLA_FLAGS": flags if ONE_THREAD in flags else f"{flags} {ONE_THREAD}".strip()}


def _start(log: IO[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "scaling.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=os.environ | worker_environment() | {"PYTHONUNBUFFERED": "1"},
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
