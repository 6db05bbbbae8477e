"""A sweep: a plan's runs that the store does not have yet are made and stored one by one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from scaling import engines
from scaling.data.corpora import Corpus, load_corpus
from scaling.errors import InputError
from scaling.plan import Job, Plan, read_plan
from scaling.run import RunRecord, run_id, unique_tokens
from scaling.store import Store

ENGINES = ("local",)


class Progress(Protocol):
    """Where a sweep says how far it is; `scaling.progress` shows it on a terminal."""

    def begin(self, jobs: list[Job], finished: int) -> None: ...
    def expect(self, jobs: list[Job]) -> None: ...
    def advance(self, job: Job, share: float) -> None: ...
    def end(self, job: Job, outcome: RunRecord | str) -> None: ...
    def close(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A plan bound to its corpus: which run ids it has, and its runs as a table."""

    plan: Plan
    corpus: Corpus
    jobs: dict[str, Job]  # by run id

    def frame(self, store: Store) -> pd.DataFrame:
        """The plan's runs in the store, failed ones with their reason: the columns of the store, `budget` and `holdout`."""
        frame = store.frame()
        frame = frame[frame["run_id"].isin(list(self.jobs))].reset_index(drop=True)
        jobs = [self.jobs[run] for run in frame["run_id"]]
        return frame.assign(
            arm=[job.config.arm for job in jobs], budget=[job.budget for job in jobs], holdout=[job.holdout for job in jobs]
        )


def prepare(plan: str | Path | dict[str, Any] | Plan) -> Sweep:
    """The plan with its corpus and run ids; everything that can be refused is refused here, before anything is trained."""
    plan = read_plan(plan)
    jobs = plan.jobs()
    corpus = load_corpus(plan.corpus)
    for job in jobs:
        try:
            unique_tokens(job.config, corpus)
        except InputError as error:
            raise InputError(f"arm {job.config.arm!r}, width {job.config.model.width}, {job.budget:g} FLOP: {error}") from error
    # Runs name the corpus as it was built, so that a later rebuild cannot slip into the same sweep.
    jobs = [dataclasses.replace(job, config=dataclasses.replace(job.config, corpus=corpus.id)) for job in jobs]
    by_id: dict[str, Job] = {}
    for job in jobs:
        run = run_id(job.config, corpus.id, engines.WORKER_THREADS)
        if run in by_id:
            raise InputError(
                f"arms {by_id[run].config.arm!r} and {job.config.arm!r} ask for the same run (width {job.config.model.width}, {job.budget:g} FLOP); they differ in nothing but the name"
            )
        by_id[run] = job
    return Sweep(plan, corpus, by_id)


def sweep(
    plan: str | Path | dict[str, Any] | Plan,
    store: str | Path,
    engine: str = "local",
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Makes the plan's runs that `store` lacks and returns all of the plan's runs.

    Every run is in the store as soon as it ends, so a killed sweep carries on where it was. A run that fails is noted with
    its reason and the sweep goes on.
    """
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r} is not known; it is one of {', '.join(ENGINES)}")
    prepared = prepare(plan)
    runs = Store(store)
    finished = runs.finished()
    todo = {run: job for run, job in prepared.jobs.items() if run not in finished}
    ids = {job.config: run for run, job in todo.items()}

    def done(job: Job, record: RunRecord) -> None:
        runs.save(dataclasses.replace(record, budget=job.budget, holdout=job.holdout))
        if progress:
            progress.end(job, record)

    def failed(job: Job, reason: str) -> None:
        runs.fail(ids[job.config], reason)
        if progress:
            progress.end(job, reason)

    if progress:
        progress.begin(list(prepared.jobs.values()), len(prepared.jobs) - len(todo))
        progress.expect(list(todo.values()))
    advanced = progress.advance if progress else lambda job, share: None
    try:
        if todo:
            engines.run_local(list(todo.values()), engines.Listener(advanced, done, failed), workers)
    finally:
        if progress:
            progress.close()
    return prepared.frame(runs)
