"""Sinks: what TensorBoard, Weights & Biases and MLflow are told, tried on libraries that write it down."""

from __future__ import annotations

import sys
import types

import pytest

from scaling import InputError, sinks, sweep
from scaling.progress import SweepProgress


class Recorder(types.ModuleType):
    """A library that notes every call as (name, arguments)."""

    def __init__(self, name):
        super().__init__(name)
        self.calls = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments, **named):
            self.calls.append((name, arguments, named))
            return Context(self)

        return call


class Context:
    """What a call returned: a context, and calls of its own."""

    def __init__(self, recorder):
        self._recorder = recorder
        self.summary = self

    def __enter__(self):
        return self

    def __exit__(self, *_): ...

    def __getattr__(self, name):
        return getattr(self._recorder, name)


@pytest.fixture
def plan(text_folder):
    run = {"width": 16, "context": 32, "tokens": 320 * 32, "batch": 1, "validation_tokens": 4096}
    return {"corpus": str(text_folder), "runs": [run | {"seed": seed} for seed in (0, 1)]}


@pytest.mark.parametrize(
    ("target", "module", "scalars", "opens"),
    [
        ("tensorboard:logs", "tensorboardX", "add_scalar", "SummaryWriter"),
        ("wandb:project", "wandb", "log", "init"),
        ("mlflow:file:runs", "mlflow", "log_metric", "start_run"),
    ],
)
def test_each_run_is_told_with_its_curve(plan, tmp_path, monkeypatch, target, module, scalars, opens):
    library = Recorder(module)
    monkeypatch.setitem(sys.modules, module, library)
    frame = sweep(plan, tmp_path / "runs.sqlite", engine="process", progress=sinks.told(SweepProgress(), [target]))
    names = [name for name, _, _ in library.calls]
    assert names.count(opens) == 2
    assert names.count(scalars) >= 2 * 32  # points of two curves
    told = repr(library.calls)
    for run, loss in zip(frame["run_id"], frame["loss"], strict=True):
        assert f"dense-16-{run}" in told
        assert repr(loss) in told


def test_a_sink_that_fails_is_said_once_and_harms_nothing(plan, tmp_path, monkeypatch, capsys):
    class Failing(Recorder):
        def __getattr__(self, name):
            if name == "init":
                raise RuntimeError("no network\nat all")
            return super().__getattr__(name)

    monkeypatch.setitem(sys.modules, "wandb", Failing("wandb"))
    frame = sweep(plan, tmp_path / "runs.sqlite", engine="process", progress=sinks.told(SweepProgress(), ["wandb:p"]))
    assert (frame["status"] == "done").all()
    assert capsys.readouterr().err.count("WandB is told no more: no network at all") == 1


@pytest.mark.parametrize(("target", "package"), [("tensorboard:x", "tensorboard"), ("wandb:x", "wandb"), ("mlflow:x", "mlflow")])
def test_a_library_that_is_missing_is_named(monkeypatch, target, package):
    monkeypatch.setitem(sys.modules, sinks.KINDS[package][1], None)
    with pytest.raises(InputError, match=rf"pip install 'isoloss\[{package}\]'"):
        sinks.told(SweepProgress(), [target])


@pytest.mark.parametrize("target", ["tensorboard", "tensorboard:", "comet:x", ""])
def test_a_target_that_cannot_be_is_refused(target):
    with pytest.raises(InputError, match="tensorboard:DIR, wandb:PROJECT, mlflow:URI"):
        sinks.told(SweepProgress(), [target])
