"""How far a sweep is: runs, FLOP, time left, the best loss of each arm. A bar on a terminal, plain lines elsewhere, on stderr.

Where there is no terminal a small plan has a line a run; a large one has about LINES lines in all, besides those of runs that failed or
diverged and of what a user should know.
"""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from scaling.plan import Job
from scaling.run import RunRecord

OVERHEAD_FLOPS = 5e10  # what starting, compiling and evaluating a run costs, in FLOP of training, for the estimate of time left
LINES = 50


def _weight(job: Job) -> float:
    return job.flops + OVERHEAD_FLOPS


class SweepProgress:
    """Shows a sweep (`scaling.sweeps.Progress`)."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._shares: dict[Job, float] = {}
        self._best: dict[str, float] = {}
        self._runs = self._finished = self._spoken = 0
        self._weight = self._done_weight = self._flops = self._done_flops = 0.0
        self._started = time.monotonic()

    def begin(self, jobs: list[Job], finished: int) -> None:
        """All jobs of the plan, of which `finished` are in the store already."""
        self._runs, self._finished = len(jobs), finished
        note = f", {finished} of them finished before" if finished else ""
        self._console.print(f"sweep: {len(jobs)} runs{note}")

    def expect(self, jobs: list[Job]) -> None:
        """The jobs that are going to be trained now."""
        self._weight, self._flops = sum(map(_weight, jobs)), sum(job.flops for job in jobs)
        self._started = time.monotonic()
        if self._console.is_terminal and jobs:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(30),
                TextColumn("{task.percentage:>3.0f}%  {task.fields[state]}"),
                console=self._console,
            )
            self._task = self._bar.add_task(self._description(), total=self._weight, state="")
            self._bar.start()

    def advance(self, job: Job, share: float) -> None:
        """`share` of a job's steps is done."""
        self._shares[job] = share
        if self._bar is not None:
            self._bar.update(self._task, completed=self._completed(), state=self._state())

    def end(self, job: Job, outcome: RunRecord | str) -> None:
        """A job ended, with its record or with the reason why there is none."""
        self._shares.pop(job, None)
        self._done_weight, self._done_flops = self._done_weight + _weight(job), self._done_flops + job.flops
        self._finished += 1
        config = job.config
        line, good = f"{config.arm} width {config.model.width:>3} {job.budget:7.1e} FLOP", False
        if isinstance(outcome, str):
            line += f"  failed: {outcome}"
        elif outcome.loss is None:
            line += f"  diverged: {outcome.reason}"
        else:
            line, good = f"{line}  loss {outcome.loss:.4f}  {outcome.train_seconds:5.1f} s", True
            self._best[config.arm] = min(outcome.loss, self._best.get(config.arm, outcome.loss))
        if self._bar is not None:
            self._bar.update(self._task, completed=self._completed(), description=self._description(), state=self._state())
            if not good:
                self._bar.console.print(line)
        elif not good or self._time_to_speak():
            self._console.print(f"[{self._finished}/{self._runs}] {line}  {self._state()}")

    def note(self, text: str) -> None:
        """Something that a user should know."""
        (self._bar.console if self._bar is not None else self._console).print(text)

    def close(self) -> None:
        """Gives the terminal back, also after an error, and says what was reached."""
        if self._bar is not None:
            self._bar.stop()
        if self._best:
            self._console.print(f"sweep: {self._finished} of {self._runs} runs, {self._done_flops:.2e} FLOP now; best loss {self._bests()}")
        sys.stderr.flush()

    def _time_to_speak(self) -> bool:
        """About LINES times in all, and at the end."""
        due = int(LINES * self._completed() / self._weight) if self._weight else 0
        if self._runs <= LINES or due > self._spoken or self._finished == self._runs:
            self._spoken = due
            return True
        return False

    def _description(self) -> str:
        return f"training: {self._finished}/{self._runs} runs"

    def _completed(self) -> float:
        return self._done_weight + sum(share * _weight(job) for job, share in self._shares.items())

    def _bests(self) -> str:
        return ", ".join(f"{arm} {loss:.3f}" for arm, loss in self._best.items())

    def _state(self) -> str:
        """FLOP done, the best losses, time left."""
        done = self._completed()
        if done <= 0:
            return ""
        flops = self._done_flops + sum(share * job.flops for job, share in self._shares.items())
        seconds = (time.monotonic() - self._started) * (self._weight / done - 1)
        minutes, rest = divmod(int(seconds), 60)
        left = f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
        best = f"  best {self._bests()}" if self._best and self._bar is not None else ""
        return f"{flops:.1e}/{self._flops:.1e} FLOP{best}  {left} left"
