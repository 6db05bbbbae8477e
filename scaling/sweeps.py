"""A sweep: a plan's runs that the store does not have yet are made and stored one by one."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import signal
import threading
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from scaling import engines
from scaling.data.corpora import Corpus, load_corpus, same_corpus
from scaling.errors import InputError
from scaling.plan import BYTES, Job, Plan, Source, read_plan
from scaling.run import RunConfig, RunRecord, run_id, unique_tokens
from scaling.stopping import Stopped
from scaling.store import FINISHED, Store
from scaling.store.owners import this_process

if TYPE_CHECKING:
    import pandas as pd

BEAT_SECONDS = 15.0
WAIT_SECONDS = 2.0  # between looks at runs that another sweep is making


class Progress(Protocol):
    """Where a sweep says how far it is; `scaling.progress` shows it on a terminal."""

    def begin(self, jobs: list[Job], finished: int) -> None: ...
    def expect(self, jobs: list[Job]) -> None: ...
    def advance(self, job: Job, share: float) -> None: ...
    def end(self, job: Job, outcome: RunRecord | str) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A plan bound to its corpus: which run ids it has, and its runs as a table."""

    plan: Plan
    corpus: Corpus
    jobs: dict[str, Job]  # by run id

    def frame(self, store: Store) -> pd.DataFrame:
        """The plan's runs in the store, failed ones with their reason: the columns of the store, labelled as this plan does."""
        frame = store.frame(self.jobs)
        jobs = [self.jobs[run] for run in frame["run_id"]]
        return frame.assign(
            arm=[job.config.arm for job in jobs], budget=[job.budget for job in jobs], holdout=[job.holdout for job in jobs]
        )


def prepare(plan: Source, engine: str = "local") -> Sweep:
    """The plan with its corpus and run ids; everything that can be refused is refused here, before anything is trained."""
    engines.check(engine)
    plan = read_plan(plan)
    jobs = plan.jobs()  # before the corpus, which may take a minute to build
    corpus = load_corpus(plan.corpus)
    if corpus.manifest["vocab_size"] != BYTES:
        jobs = plan.jobs(corpus.manifest["vocab_size"])
    for job in jobs:
        try:
            unique_tokens(job.config, corpus)
        except InputError as error:
            raise InputError(f"arm {job.config.arm!r}, width {job.config.model.width}, {job.budget:g} FLOP: {error}") from error
    # Runs name the corpus as it was built, so that a later rebuild cannot slip into the same sweep.
    jobs = [dataclasses.replace(job, config=dataclasses.replace(job.config, corpus=corpus.id)) for job in jobs]
    by_id: dict[str, Job] = {}
    for job in jobs:
        run = run_id(job.config, corpus.id, engines.threads_of(engine), teacher_id=_teacher_id(job.config))
        if run in by_id:
            raise InputError(
                f"arms {by_id[run].config.arm!r} and {job.config.arm!r} ask for the same run (width {job.config.model.width}, {job.budget:g} FLOP); they differ in nothing but the name"
            )
        by_id[run] = job
    return Sweep(plan, corpus, by_id)


def _teacher_id(config: RunConfig) -> str | None:
    if config.teacher is None:
        return None
    from scaling.finished import record_of

    return record_of(config.teacher)["run_id"]


def sweep(
    plan: Source | Sweep,
    store: str | Path,
    engine: str = "local",
    *,
    workers: int | None = None,
    address: str | None = None,
    cpus: float = 1,
    gpus: float = 0,
    retries: int = 2,
    checkpoint_seconds: float = 60.0,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> pd.DataFrame:
    """Makes the plan's runs that `store` lacks and returns all of the plan's runs. For the rest see `scaling.engines.Settings`.

    Every run is in the store as soon as it ends, so a killed sweep carries on where it was. A run that fails is noted with
    its reason and the sweep goes on. Runs that another sweep on the same store is making are waited for. Once `stop` is set the runs
    under way leave checkpoints, in STORE.checkpoints, and Stopped is raised; the next sweep carries them on.
    """
    prepared = plan if isinstance(plan, Sweep) else prepare(plan, engine)
    folder = Path(f"{store}.checkpoints")
    settings = engines.Settings(workers, address, cpus, gpus, retries, folder, checkpoint_seconds, stop or threading.Event())
    kept = Store(store)
    namesakes = {corpus for corpus in kept.corpora() if corpus.partition("@")[0] == prepared.corpus.name}
    if prepared.corpus.id not in namesakes:  # the text behind a name has changed since
        same_corpus(prepared.corpus, namesakes, str(store))
    work = _Work(prepared, kept, folder, progress)
    try:
        with work.beating():
            work.finish(engine, settings)
    finally:
        if progress:
            progress.close()
        with contextlib.suppress(OSError):  # it holds what is left of unfinished runs
            folder.rmdir()
    return prepared.frame(work.store)


class _Work:
    """One sweep's dealings with the store."""

    def __init__(self, prepared: Sweep, store: Store, folder: Path, progress: Progress | None):
        self.jobs, self.store, self._folder, self._progress = prepared.jobs, store, folder, progress
        self._ids = {job: run for run, job in self.jobs.items()}
        self._owner = this_process()
        self._held: set[str] = set()
        self._failed: set[str] = set()

    def finish(self, engine: str, settings: engines.Settings) -> None:
        """Goes on until every run of the plan has ended: made here, failed here, or made by another sweep."""
        missing = self._missing()
        if self._progress:
            self._progress.begin(list(self.jobs.values()), len(self.jobs) - len(missing))
            self._progress.expect(list(missing.values()))
        self.store.plan(self._row(run, job) for run, job in missing.items())
        waiting = False
        while missing and not settings.stop.is_set():
            before = set(missing)
            engines.run(engine, list(missing.values()), self._ids, self._listener(), settings)
            missing = self._missing()
            if set(missing) == before and not settings.stop.is_set():  # all of them are another sweep's
                if not waiting:
                    self._note(f"waiting for {len(missing)} runs that another sweep is making")
                waiting = True
                settings.stop.wait(WAIT_SECONDS)
                missing = self._missing()
        if settings.stop.is_set() and missing:
            told = getattr(settings.stop, "number", signal.SIGTERM)
            raise Stopped(f"{len(self.jobs) - len(missing)} of {len(self.jobs)} runs have ended; the same command carries on", told)

    def _missing(self) -> dict[str, Job]:
        """Runs that have not ended, and have not failed in this sweep."""
        states = self.store.states(self.jobs)
        return {run: job for run, job in self.jobs.items() if states.get(run) not in FINISHED and run not in self._failed}

    def _row(self, run: str, job: Job) -> dict[str, Any]:
        labels = {"run_id": run, "arm": job.config.arm, "budget": job.budget, "holdout": job.holdout}
        return labels | {"config": job.config.as_dict(), "tokens": job.config.tokens_trained, "flops": job.flops, "steps": job.config.steps}

    @contextlib.contextmanager
    def beating(self) -> Generator[None]:
        """Renews the heartbeats of the runs that are held; gives back what is still held at the end."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(BEAT_SECONDS):
                with contextlib.suppress(InputError):  # the disk is full, say: the thread that stores a run will tell
                    self.store.beat(set(self._held), self._owner)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            with contextlib.suppress(InputError):
                for run in set(self._held):
                    self.store.release(run, self._owner)

    def _listener(self) -> engines.Listener:
        advanced = self._progress.advance if self._progress else lambda job, share: None
        return engines.Listener(advanced, self._done, self._fail, self._claimed, self._release, self._note)

    def _claimed(self, job: Job) -> bool:
        run = self._ids[job]
        if self.store.claim(run, self._owner):
            self._held.add(run)
            return True
        return False

    def _release(self, job: Job) -> None:
        self._held.discard(self._ids[job])
        self.store.release(self._ids[job], self._owner)

    def _done(self, job: Job, record: RunRecord) -> None:
        self.store.save(dataclasses.replace(record, budget=job.budget, holdout=job.holdout))
        self._held.discard(record.run_id)
        shutil.rmtree(self._folder / record.run_id, ignore_errors=True)
        if self._progress:
            self._progress.end(job, record)

    def _fail(self, job: Job, reason: str) -> None:
        run = self._ids[job]
        self.store.fail(run, reason)
        self._held.discard(run)
        self._failed.add(run)
        if self._progress:
            self._progress.end(job, reason)

    def _note(self, text: str) -> None:
        if self._progress:
            self._progress.note(text)
