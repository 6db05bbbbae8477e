"""The engine `ray`: every run is a task of a Ray cluster, which places it, tries it again where a worker or a node is lost, and returns it.

What Ray does is left to it. Here is only how many runs are claimed at once, how far they are (a small actor beside the sweep hears it),
and how a run comes to its corpus on a machine that does not have it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Generator, Sequence
from typing import Any

from scaling.devices import cores
from scaling.engines import Listener, Settings, parcels, tasks
from scaling.engines.local import GRACE_SECONDS, worker_environment
from scaling.engines.queues import host_bytes, shape_of
from scaling.errors import InputError
from scaling.plan import Job
from scaling.run import RunRecord

PASSED_ON = ("ISOLOSS_CACHE", "JAX_PLATFORMS")  # where this process has them in its environment
AHEAD = 2  # times as many runs are given to Ray as it can make at once, so that no worker waits: Ray ends those that do, with what they compiled
IDLE_MS = 600_000  # of a cluster that is started here: how long a worker may wait
REPORT_SECONDS = 1.0


def run_on_ray(jobs: Sequence[Job], ids: dict[Job, str], listener: Listener, settings: Settings) -> None:
    """Makes all jobs as Ray tasks, the dearest first."""
    with cluster(settings.address):
        _Round(jobs, ids, listener, settings).run()


@contextlib.contextmanager
def cluster(address: str | None) -> Generator[None]:
    """A connection to the cluster at `address` or RAY_ADDRESS, or to one that is started here; one that there is already is used."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", str(IDLE_MS))
    import ray

    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    try:
        ray.init(address, **quiet, **({"num_cpus": cores(), "include_dashboard": False} if address == "local" else {}))
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"ray: no cluster can be reached at {address!r}: {' '.join(str(error).split())}; `ray status` shows one"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def environment() -> dict[str, str]:
    """What a Ray worker needs so that it makes the same run as a local one."""
    return worker_environment() | {name: os.environ[name] for name in PASSED_ON if name in os.environ}


class Board:
    """An actor that hears from all runs how far they are, and tells them whether to stop."""

    def __init__(self) -> None:
        self._shares: dict[str, float] = {}
        self._notes: list[str] = []
        self._stopped = False

    def report(self, run: str, share: float, notes: list[str]) -> bool:
        self._shares[run] = share
        self._notes += notes
        return self._stopped

    def read(self) -> tuple[dict[str, float], list[str]]:
        shares, notes = self._shares, self._notes
        self._shares, self._notes = {}, []
        return shares, notes

    def stop(self) -> None:
        self._stopped = True


def perform(fields: dict[str, Any], board: Any, parcel: list[Any]) -> dict[str, Any]:
    """A task, in a worker of Ray's: what `scaling.worker` does for the engine `local`."""
    import ray
    from ray.exceptions import ActorUnavailableError

    from scaling.paths import use_compilation_cache

    use_compilation_cache()
    task = tasks.Task(**fields)
    parcels.unpack(task.config["corpus"], lambda: ray.get(parcel[0]) if parcel else None)
    stopped, last, notes = False, time.monotonic(), []

    def progress(done: int, steps: int) -> None:
        nonlocal stopped, last
        if time.monotonic() - last > REPORT_SECONDS:
            last = time.monotonic()
            with contextlib.suppress(ActorUnavailableError):  # the network hiccups: told the next time
                stopped = ray.get(board.report.remote(task.run, done / steps, list(notes)))
                notes.clear()

    answer = tasks.perform(task, progress, lambda: stopped, notes.append)
    if notes:
        with contextlib.suppress(ActorUnavailableError):
            ray.get(board.report.remote(task.run, 1.0, notes))
    return answer


class _Round:
    """The jobs of one call, their tasks, and what comes back."""

    def __init__(self, jobs: Sequence[Job], ids: dict[Job, str], listener: Listener, settings: Settings):
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._left = sorted(jobs, key=lambda job: (-job.flops, str(shape_of(job.config))))
        self._ids, self._listener, self._settings = ids, listener, settings
        self._by_run = {run: job for job, run in ids.items()}
        self._tasks: dict[Any, Job] = {}
        self._parcels: dict[str, list[Any]] = {}
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        board: Any = ray.remote(Board)
        self._board = board.options(num_cpus=0, scheduling_strategy=here).remote()
        self._remote: Any = ray.remote(
            num_cpus=settings.cpus, num_gpus=settings.gpus, max_retries=settings.retries, runtime_env={"env_vars": environment()}
        )(perform)

    def run(self) -> None:
        import ray

        self._say_if_nothing_fits()
        while (self._left or self._tasks) and not self._settings.stop.is_set():
            self._submit()
            self._collect(timeout=0.2)
        if self._settings.stop.is_set():
            self._leave()
        ray.kill(self._board)

    def _slots(self) -> int:
        """Runs that the cluster can make at once."""
        import ray

        needs = [(name, need) for name, need in (("CPU", self._settings.cpus), ("GPU", self._settings.gpus)) if need]
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        fit = sum(min((int(node.get(name, 0) // need) for name, need in needs), default=1) for node in nodes)
        return min(fit, self._settings.workers or fit)

    def _say_if_nothing_fits(self) -> None:
        if not self._slots():
            self._listener.noted(
                f"ray: no node has {self._settings.cpus:g} CPUs and {self._settings.gpus:g} GPUs for a run; waiting for one that has"
            )

    def _submit(self) -> None:
        room = max(1, self._slots() * (AHEAD if self._settings.workers is None else 1)) - len(self._tasks)
        while self._left and room > 0:
            job = self._left.pop(0)
            if not self._listener.claimed(job):
                continue
            task = dataclasses.asdict(tasks.task_of(job, self._ids[job], self._settings))
            # Ray sets so much memory of a node aside. On an accelerator it is not the host's that a run needs.
            memory = {} if self._settings.gpus else {"memory": host_bytes(job.config)}
            ref = self._remote.options(name=f"isoloss {self._ids[job]}", **memory).remote(
                task, self._board, self._parcel(job.config.corpus)
            )
            self._tasks[ref] = job
            room -= 1

    def _parcel(self, corpus: str) -> list[Any]:
        """The corpus in Ray's store, for machines that do not have it."""
        import ray

        if corpus not in self._parcels:
            packed = parcels.pack(corpus)
            self._parcels[corpus] = [ray.put(packed)] if packed is not None else []
        return self._parcels[corpus]

    def _collect(self, timeout: float) -> None:
        import ray
        from ray.exceptions import RayError

        ready, _ = ray.wait(list(self._tasks), num_returns=1, timeout=timeout) if self._tasks else ([], [])
        for ref in ready:
            job = self._tasks.pop(ref)
            answer: dict[str, Any] = {}
            try:
                answer = ray.get(ref)
            except RayError as error:
                answer = {"failed": f"ray: {type(error).__name__}: {_first_line(error)} (tried {self._settings.retries + 1} times)"}
            if "record" in answer:
                self._listener.done(job, RunRecord(**answer["record"]))
            elif "failed" in answer:
                self._listener.failed(job, answer["failed"])
            else:
                self._listener.released(job)
        self._hear()

    def _hear(self) -> None:
        import ray
        from ray.exceptions import ActorUnavailableError

        try:
            shares, notes = ray.get(self._board.read.remote())
        except ActorUnavailableError:  # a node that is lost can reset this connection too; the board is asked again in a moment
            return
        for run, share in shares.items():
            self._listener.advanced(self._by_run[run], share)
        for note in notes:
            self._listener.noted(note)

    def _leave(self) -> None:
        """Lets the runs under way leave a checkpoint each; those that have not begun are cancelled."""
        import ray
        from ray.exceptions import ActorUnavailableError

        told, deadline = False, time.monotonic() + GRACE_SECONDS
        while self._tasks and time.monotonic() < deadline:
            if not told:
                with contextlib.suppress(ActorUnavailableError):
                    told = ray.get(self._board.stop.remote()) is None
            self._collect(timeout=0.2)
        for ref in self._tasks:
            ray.cancel(ref, force=True)
        for job in self._tasks.values():
            self._listener.released(job)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
