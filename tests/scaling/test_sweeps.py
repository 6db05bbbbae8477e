"""Plans, the store, and a sweep that is killed and carries on."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from scaling import InputError
from scaling.engines.local import Worker
from scaling.engines.tasks import Task
from scaling.plan import read_plan
from scaling.run import run_id
from scaling.store import Store, open_existing
from scaling.sweeps import prepare, sweep
from tests.scaling.stored import made

PLAN = """
corpus = "{corpus}"
[ladder]
widths = [16, 32]
context = 32
[budgets]
flops = [2e9, 4e9]
holdout = [8e9]
holdout_sizes = 1
tokens_per_param = 5
[[arms]]
name = "dense"
[[arms]]
name = "moe4"
experts = 4
experts_per_token = 2
budgets = [4e9]
widths = [16]
[train]
seeds = [0]
validation_tokens = 4096
"""


@pytest.fixture
def plan(text_folder, tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.format(corpus=text_folder))
    return path


def test_plan_of_the_design_document_is_read():
    plan = read_plan(
        {
            "corpus": "python-source",
            "ladder": {"widths": [32, 48, 64, 96, 128]},
            "budgets": {"flops": [1e10, 3e10, 1e11, 2.5e11], "holdout": [1e12]},
            "arms": [{"name": "dense"}, {"name": "moe8", "experts": 8, "experts_per_token": 2}],
            "train": {"precision": "fp32", "schedule": "wsd", "seeds": [0, 1]},
        }
    )
    jobs = plan.jobs()
    assert {job.config.arm for job in jobs} == {"dense", "moe8"}
    assert {job.config.seed for job in jobs} == {0, 1}
    assert all(0.98 < job.flops / job.budget <= 1 for job in jobs)
    assert all(job.config.steps >= 300 for job in jobs)
    assert {job.budget for job in jobs if job.holdout} == {1e12}


def test_an_arm_is_given_of_the_shared_keys_those_that_it_heeds():
    arms: list[dict[str, Any]] = [
        {"name": "dense"},
        {"name": "cosine", "schedule": "cosine"},
        {"name": "moe", "experts": 4, "experts_per_token": 2},
        {"name": "bias", "experts": 4, "experts_per_token": 2, "balance": "bias"},
    ]
    shared = {"z_loss": 0.5, "balance_loss": 0.25, "bias_rate": 0.125, "decay": 0.5}
    fields: dict[str, Any] = {"ladder": {"widths": [16]}, "budgets": {"flops": [1e10]}}
    jobs = read_plan(fields | {"arms": arms, "train": shared}).jobs()
    found = {job.config.arm: tuple(getattr(job.config, key) for key in shared) for job in jobs}
    assert found["dense"] == (0.0, 0.01, 1e-3, 0.5)
    assert found["cosine"] == (0.0, 0.01, 1e-3, 0.3)
    assert found["moe"] == (0.5, 0.25, 1e-3, 0.5)
    assert found["bias"] == (0.5, 0.01, 0.125, 0.5)
    alone = read_plan(fields | {"arms": arms[:1]}).jobs()[0].config
    assert run_id(dataclasses.replace(jobs[0].config, decay=0.3), "c", 1) == run_id(alone, "c", 1)
    with pytest.raises(InputError, match=r"train.balance_loss = 0.25: changes nothing in any arm without experts"):
        read_plan(fields | {"arms": arms[:2], "train": shared}).jobs()
    with pytest.raises(InputError, match=r"arm 'dense' .*router = 'sigmoid' needs experts"):
        read_plan(fields | {"arms": [{"name": "dense", "router": "sigmoid"}]}).jobs()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("widths = [16, 32]\ncontext", "width = 16\nwidths = [16, 32]\ncontext", "unknown key 'ladder.width'"),
        ("[budgets]", "[budget]", "budget"),
        ("flops = [2e9, 4e9]", "flops = [2e9, -4e9]", "budgets.flops.1"),
        ("flops = [2e9, 4e9]", "flops = [2e9, inf]", "budgets.flops.1"),
        ("flops = [2e9, 4e9]", "flops = [2e9, nan]", "budgets.flops.1"),
        ("flops = [2e9, 4e9]", "flops = [20, 4e9]", "no width leaves"),
        ("widths = [16, 32]\ncontext", "widths = [17]\ncontext", "multiples of 16"),
        ("experts_per_token = 2", "experts_per_token = 9", r"experts_per_token must lie in 1\.\.4"),
        ("budgets = [4e9]", "budgets = [5e9]", "is not among the plan's budgets"),
        ("seeds = [0]", 'seeds = [0]\nprecision = "fp7"', "fp7"),
        ("seeds = [0]", 'seeds = [0]\nschedule = "linear"', "wsd, cosine"),
        ("holdout = [8e9]", "holdout = [8e12]", "set epochs ="),
        ('name = "moe4"', 'name = "dense"', "every name must be there once"),
        ("[train]", "[train", "cannot be read as TOML"),
        ("holdout = [8e9]", "holdout = [4e9]", "is there twice"),
        ("seeds = [0]", "seeds = [1, 1]", "train.seeds: 1 is there twice"),
        ("seeds = [0]", "seeds = [3000000000]", "train.seeds.0"),
        ("experts = 4\nexperts_per_token = 2\n", "", "ask for the same run"),
        ("context = 32", "context = 60000", "no width leaves"),
    ],
)
def test_bad_plans_are_refused_before_anything_is_written(plan, tmp_path, old, new, says):
    text = plan.read_text()
    assert old in text
    plan.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=says) as caught:
        sweep(plan, tmp_path / "runs.sqlite")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs.sqlite").exists()


def test_a_killed_sweep_loses_no_finished_run_and_ends_as_if_it_had_not_been(text_folder, tmp_path):
    plan = tmp_path / "small.toml"  # of one shape: compiling would be most of the time
    plan.write_text(PLAN.format(corpus=text_folder).replace("[16, 32]", "[16]").replace("[2e9, 4e9]", "[2e9, 3e9]").split("[[arms]]")[0])
    store = tmp_path / "runs.sqlite"
    code = f"from scaling import sweep; sweep({str(plan)!r}, {str(store)!r}, workers=1)"
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and not (store.exists() and Store(store).finished()):
        time.sleep(0.05)
        assert process.poll() is None, "the sweep ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {record["run_id"]: record for record in Store(store).records()}
    planned = set(prepare(plan).jobs)
    assert 0 < len(kept) < len(planned)

    frame = sweep(plan, store, workers=2)
    assert set(frame["run_id"]) == planned
    assert (frame["status"] == "done").all()
    records = {record["run_id"]: record for record in Store(store).records()}
    assert all(records[run] == kept[run] for run in kept)  # not trained again

    fresh = sweep(plan, tmp_path / "fresh.sqlite", workers=2)
    assert dict(zip(fresh["run_id"], fresh["loss"], strict=True)) == dict(zip(frame["run_id"], frame["loss"], strict=True))
    assert frame["holdout"].sum() == 1
    again = sweep(plan, store)
    assert again["train_seconds"].tolist() == frame["train_seconds"].tolist()


def test_workers_leave_when_the_sweep_is_killed(plan):
    worker = Worker()
    run, job = next(iter(prepare(plan).jobs.items()))
    config = dataclasses.replace(job.config, tokens=10**7, epochs=100)
    answers = worker.ask(dataclasses.asdict(Task(run, config.as_dict())))
    assert "progress" in next(answers)  # it is in mid-run
    assert worker._process.stdin is not None
    worker._process.stdin.close()  # as when its parent dies
    assert all("progress" in answer for answer in answers)
    assert worker.wait() == 0
    worker.kill()


def test_store_refuses_what_is_not_a_store(tmp_path):
    (tmp_path / "text.sqlite").write_text("not a database, " * 100)
    with pytest.raises(InputError, match="not a run store"):
        Store(tmp_path / "text.sqlite")
    with pytest.raises(InputError, match="no such store"):
        open_existing(tmp_path / "none.sqlite")
    assert not (tmp_path / "none.sqlite").exists()
    with contextlib.closing(sqlite3.connect(tmp_path / "other.sqlite")) as other:
        other.execute("CREATE TABLE runs (name TEXT)")
    before = (tmp_path / "other.sqlite").read_bytes()
    with pytest.raises(InputError, match="not a run store of isoloss"):
        open_existing(tmp_path / "other.sqlite")
    assert (tmp_path / "other.sqlite").read_bytes() == before


def test_a_sweep_that_cannot_make_its_runs_says_so(plan, tmp_path):
    command = [str(Path(sys.executable).with_name("isoloss")), "sweep", str(plan), "--store", str(tmp_path / "runs.sqlite"), "--json"]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "nonesuch"}, timeout=120)
    assert run.returncode == 1
    assert "runs failed, the first: " in run.stderr
    assert {row["status"] for row in json.loads(run.stdout)["runs"]} == {"failed"}


def test_an_error_while_storing_ends_the_sweep_at_once(plan, tmp_path, monkeypatch):
    stored = []

    def full(self, record):
        stored.append(record)
        raise OSError("no space left on device")

    monkeypatch.setattr(Store, "save", full)
    with pytest.raises(OSError, match="no space"):
        sweep(plan, tmp_path / "runs.sqlite", workers=2)
    assert len(stored) <= 2


@pytest.mark.slow
def test_a_failed_run_is_noted_and_made_again(plan, tmp_path):
    store = Store(tmp_path / "runs.sqlite")
    run = next(iter(prepare(plan).jobs))
    store.fail(run, "out of memory")
    assert store.finished() == set()
    assert store.frame()["reason"].tolist() == ["out of memory"]
    frame = sweep(plan, tmp_path / "runs.sqlite", workers=1)
    assert run in set(frame["run_id"])


def test_a_text_that_has_changed_is_not_swept_into_the_store_of_the_old_one(tmp_path, text_folder):
    text = tmp_path / "text"
    shutil.copytree(text_folder / "json", text)
    shutil.copytree(text_folder / "email", text / "email")
    plan = read_plan({"corpus": str(text), "ladder": {"widths": [16], "context": 32}, "budgets": {"flops": [1.5e9]}})
    before = prepare(plan)
    store = Store(tmp_path / "runs.sqlite")
    store.save(made(0, corpus=before.corpus.id))
    store.save(made(1, corpus="python-source@00000000"))  # another corpus by name is nobody's mistake
    (text / "email" / "base64mime.py").unlink()
    with pytest.raises(InputError, match=f'corpus {before.corpus.id}, not on text@.*set corpus = "{before.corpus.id}"'):
        sweep(plan, store.path)
