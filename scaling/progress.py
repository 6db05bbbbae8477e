"""How far a sweep is, with the time left: a bar on a terminal, a plain line a run elsewhere. On stderr."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from scaling.plan import Job
from scaling.run import RunRecord

OVERHEAD_FLOPS = 5e10  # what starting, compiling and evaluating a run costs, in FLOP of training, for the estimate of time left


def _weight(job: Job) -> float:
    return job.flops + OVERHEAD_FLOPS


class SweepProgress:
    """Shows a sweep (`scaling.sweeps.Progress`)."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._shares: dict[Job, float] = {}
        self._runs = self._finished = 0
        self._weight = self._done_weight = 0.0
        self._started = time.monotonic()

    def begin(self, jobs: list[Job], finished: int) -> None:
        """All jobs of the plan, of which `finished` are in the store already."""
        self._runs, self._finished = len(jobs), finished
        note = f", {finished} of them finished before" if finished else ""
        self._console.print(f"sweep: {len(jobs)} runs{note}")

    def expect(self, jobs: list[Job]) -> None:
        """The jobs that are going to be trained now."""
        self._weight = sum(map(_weight, jobs))
        self._started = time.monotonic()
        if self._console.is_terminal and jobs:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(40),
                TextColumn("{task.percentage:>3.0f}%  {task.fields[left]}"),
                console=self._console,
            )
            self._task = self._bar.add_task(self._description(), total=self._weight, left="")
            self._bar.start()

    def advance(self, job: Job, share: float) -> None:
        """`share` of a job's steps is done."""
        self._shares[job] = share
        if self._bar is not None:
            self._bar.update(self._task, completed=self._completed(), left=self._left())

    def end(self, job: Job, outcome: RunRecord | str) -> None:
        """A job ended, with its record or with the reason why there is none."""
        self._shares.pop(job, None)
        self._done_weight += _weight(job)
        self._finished += 1
        config = job.config
        name = f"{config.arm} width {config.model.width:>3} {job.budget:7.1e} FLOP"
        if isinstance(outcome, str):
            line = f"{name}  failed: {outcome}"
        elif outcome.loss is None:
            line = f"{name}  diverged: {outcome.reason}"
        else:
            line = f"{name}  loss {outcome.loss:.4f}  {outcome.train_seconds:5.1f} s"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._completed(), description=self._description(), left=self._left())
            if isinstance(outcome, str):
                self._bar.console.print(line)
            if self._finished == self._runs:
                self._bar.stop()
        else:
            self._console.print(f"[{self._finished}/{self._runs}] {line}  {self._left()}")

    def note(self, text: str) -> None:
        """Something that a user should know."""
        (self._bar.console if self._bar is not None else self._console).print(text)

    def close(self) -> None:
        """Gives the terminal back, also after an error."""
        if self._bar is not None:
            self._bar.stop()
        sys.stderr.flush()

    def _description(self) -> str:
        return f"training: {self._finished}/{self._runs} runs"

    def _completed(self) -> float:
        return self._done_weight + sum(share * _weight(job) for job, share in self._shares.items())

    def _left(self) -> str:
        done = self._completed()
        if done <= 0:
            return ""
        seconds = (time.monotonic() - self._started) * (self._weight / done - 1)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d} left"
