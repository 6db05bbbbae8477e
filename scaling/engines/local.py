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
from collections.abc import Iterator, Sequence
from typing import Any

from scaling.devices import ONE_THREAD, cores
from scaling.engines import WORKER_THREADS, Listener, Settings, tasks
from scaling.engines.queues import Queue, shape_of
from scaling.plan import Job
from scaling.run import RunRecord

GRACE_SECONDS = 30.0  # for workers that were asked to stop to leave their checkpoints


def run_local(jobs: Sequence[Job], ids: dict[Job, str], listener: Listener, settings: Settings) -> None:
    """Makes all jobs in worker processes. A worker that dies is replaced, and its job begun again or noted as failed."""
    workers = min(settings.workers or cores(), len(jobs))
    queue = Queue(jobs, listener.claimed, workers)
    hands = [_Hand(queue, ids, listener, settings) for _ in range(workers)]
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
        self._worker: Worker | None = None
        self._lost: collections.Counter[Job] = collections.Counter()  # workers, by the job that they had
        self._stopped = False
        self.error: BaseException | None = None

    def run(self) -> None:
        shapes: set[tuple] = set()
        try:
            while not self._stopped and (job := self._queue.take(shapes)) is not None:
                if self._worker is None or not self._worker.alive:
                    if self._worker is not None:
                        self._worker.kill()
                    self._worker, shapes = Worker(), {shape_of(job.config)}
                    if self._stopped:  # between the two lines above, perhaps
                        break
                self._do(job, self._worker)
        except BaseException as error:  # a listener's error (a full disk, say) ends the sweep, in the thread that asked for it
            if not self._stopped:
                self.error = error
        finally:
            self.stop()

    def _do(self, job: Job, worker: Worker) -> None:
        for answer in worker.ask(dataclasses.asdict(tasks.task_of(job, self._ids[job], self._settings))):
            if "stopped" in answer:
                worker.wait()  # it ends of itself
            with self._queue.lock:
                if self._heard(job, answer):
                    return
        if not self._stopped:
            self._worker_lost(job, worker)

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
            self._listener.released(job)
        return True

    def _worker_lost(self, job: Job, worker: Worker) -> None:
        """The job is begun again, from its last checkpoint if it left one, or noted as failed."""
        status = worker.wait()
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
        memory = ", as the kernel does when memory runs out" if status == -signal.SIGKILL else ""
        reason = f"the worker process was ended {how}{memory}: {worker.last_words()}"
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
        if self._worker is not None:
            self._worker.tell({"stop": True})

    def stop(self) -> None:
        self._stopped = True
        if self._worker is not None:
            self._worker.kill()


class Worker:
    """A worker process (`scaling.worker`): questions and answers as lines of JSON."""

    def __init__(self) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "scaling.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | worker_environment() | {"PYTHONUNBUFFERED": "1"},
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def tell(self, question: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it may have ended
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()

    def ask(self, question: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What the worker answers, up to the last answer to this question, or until it dies."""
        assert self._process.stdout is not None
        self.tell(question)
        for line in self._process.stdout:
            answer = json.loads(line)
            yield answer
            if not answer.keys() & {"progress", "note"}:
                return

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        return self._process.wait()

    def last_words(self) -> str:
        """The last line that it left on stderr."""
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        return lines[-1] if lines else "it left no message"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # a dead worker leaves no one to flush to
                    pipe.close()


def worker_environment() -> dict[str, str]:
    """What makes a run single-threaded, whoever makes it: the bits of its losses depend on it."""
    flags = os.environ.get("XLA_FLAGS", "")
    return {"NPROC": str(WORKER_THREADS), "XLA_FLAGS": flags if ONE_THREAD in flags else f"{flags} {ONE_THREAD}".strip()}
