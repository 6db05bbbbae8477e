"""Where a sweep's progress goes besides the terminal: TensorBoard, Weights & Biases, MLflow. None is needed, none is on by default.

Each run of the sweep is a run there, named ARM-WIDTH-RUN_ID, with its configuration, its learning curve over tokens, and its final loss.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

from scaling.errors import InputError
from scaling.plan import Job
from scaling.run import RunRecord
from scaling.sweeps import Progress


class Sink(Protocol):
    """A place that finished runs are told to."""

    def run(self, name: str, config: dict[str, Any], curve: list[tuple[int, float]], final: dict[str, float]) -> None: ...


def open_sink(target: str) -> Sink:
    """The sink of KIND:WHERE; InputError for an unknown kind, or one whose library is not installed."""
    kind, _, where = target.partition(":")
    if kind not in KINDS or not where:
        raise InputError(f"--log {target!r}: give {', '.join(f'{name}:{of}' for name, (_, _, of) in KINDS.items())}")
    opener, module, _ = KINDS[kind]
    try:
        library = importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"--log {target!r} needs {module.partition('.')[0]}, which is not installed: pip install 'isoloss[{kind}]'"
        ) from error
    return opener(library, where)


class TensorBoard:
    """Event files in a folder, written by tensorboardX; read by `tensorboard --logdir DIR`."""

    def __init__(self, library: Any, where: str):
        self._library, self._folder = library, where

    def run(self, name: str, config: dict[str, Any], curve: list[tuple[int, float]], final: dict[str, float]) -> None:
        with self._library.SummaryWriter(f"{self._folder}/{name}") as writer:
            writer.add_text("config", "\n".join(f"    {key}: {value}" for key, value in config.items()))
            for tokens, loss in curve:
                writer.add_scalar("train_loss", loss, tokens)
            for key, value in final.items():
                writer.add_scalar(key, value, curve[-1][0] if curve else 0)


class WandB:
    """Runs of a Weights & Biases project; WANDB_MODE=offline keeps them here."""

    def __init__(self, library: Any, where: str):
        self._library, self._project = library, where

    def run(self, name: str, config: dict[str, Any], curve: list[tuple[int, float]], final: dict[str, float]) -> None:
        run = self._library.init(project=self._project, name=name, id=name, config=config)
        for tokens, loss in curve:
            run.log({"train_loss": loss}, step=tokens)
        run.summary.update(final)
        run.finish()


class MLflow:
    """Runs of the experiment `isoloss` at a tracking URI."""

    def __init__(self, library: Any, where: str):
        self._library = library
        library.set_tracking_uri(where)
        library.set_experiment("isoloss")

    def run(self, name: str, config: dict[str, Any], curve: list[tuple[int, float]], final: dict[str, float]) -> None:
        with self._library.start_run(run_name=name):
            self._library.log_params(config)
            for tokens, loss in curve:
                self._library.log_metric("train_loss", loss, step=tokens)
            self._library.log_metrics(final)


# What opens a sink, the library that it needs, and what stands behind the colon.
KINDS = {"tensorboard": (TensorBoard, "tensorboardX", "DIR"), "wandb": (WandB, "wandb", "PROJECT"), "mlflow": (MLflow, "mlflow", "URI")}


class Told:
    """A sweep's progress, told to sinks as well. A sink that fails is said once and told no more: it must not end the sweep."""

    def __init__(self, progress: Progress, sinks: Sequence[Sink]):
        self._progress, self._sinks = progress, list(sinks)

    def begin(self, jobs: list[Job], finished: int) -> None:
        self._progress.begin(jobs, finished)

    def expect(self, jobs: list[Job]) -> None:
        self._progress.expect(jobs)

    def advance(self, job: Job, share: float) -> None:
        self._progress.advance(job, share)

    def end(self, job: Job, outcome: RunRecord | str) -> None:
        self._progress.end(job, outcome)
        if isinstance(outcome, str):
            return
        config = {key: value for key, value in outcome.config.items() if key != "model"} | outcome.config["model"]
        parts = len(outcome.train_loss)
        curve = [(round((place + 1) * outcome.tokens / parts), loss) for place, loss in enumerate(outcome.train_loss)]
        final = {
            key: float(value)
            for key in ("loss", "loss_se", "flops", "params", "train_seconds")
            if (value := getattr(outcome, key)) is not None
        }
        for sink in list(self._sinks):
            try:
                sink.run(f"{outcome.arm}-{outcome.width}-{outcome.run_id}", config, curve, final)
            except Exception as error:
                self._sinks.remove(sink)
                self.note(f"{type(sink).__name__} is told no more: {' '.join(str(error).split())[:200]}")

    def note(self, text: str) -> None:
        self._progress.note(text)

    def close(self) -> None:
        self._progress.close()


def told(progress: Progress, targets: Sequence[str]) -> Progress:
    """`progress`, told to the sinks KIND:WHERE as well."""
    sinks = [open_sink(target) for target in targets]
    return Told(progress, sinks) if sinks else progress
