"""Faults, injected: disks that are full, checkpoints cut short, runs that diverge or do not fit, workers that die, sweeps that are stopped.

The quick ones run in this process, one shape, so that they share a compilation; those with processes and signals are slow.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from scaling import InputError, checkpoints, sweep, training
from scaling.engines import local, tasks
from scaling.engines.tasks import Task, perform
from scaling.stopping import Stopped, signals
from scaling.store import Store
from scaling.sweeps import prepare

RUN = {"width": 16, "context": 32, "tokens": 320 * 32, "batch": 1, "validation_tokens": 4096}  # 320 steps, five calls of 64


@pytest.fixture
def plan(text_folder):
    return {"corpus": str(text_folder), "runs": [RUN | {"seed": seed} for seed in range(4)]}


@pytest.fixture(scope="module")
def uninterrupted(text_folder, tmp_path_factory):
    """The losses of the plan's runs, by run id, when nothing happens."""
    plan = {"corpus": str(text_folder), "runs": [RUN | {"seed": seed} for seed in range(4)]}
    with jax.numpy_rank_promotion("raise"):  # as in every test: the compilation is the same then
        frame = sweep(plan, tmp_path_factory.mktemp("plain") / "runs.sqlite", engine="process")
    return dict(zip(frame["run_id"], frame["loss"], strict=True))


@pytest.fixture
def task(plan):
    run, job = next(iter(prepare(plan, "process").jobs.items()))
    return lambda folder, seconds=0.0: Task(run, job.config.as_dict(), str(folder), seconds)


def losses(frame):
    return dict(zip(frame["run_id"], frame["loss"], strict=True))


def after(steps):
    """A question whether to stop that says yes once it has been asked after `steps` steps, and a progress that counts them."""
    asked = []

    def stop():
        asked.append(None)
        return 64 * len(asked) >= steps

    return stop


def test_a_disk_that_fills_up_ends_the_sweep_with_what_was_stored_and_the_next_one_makes_the_rest(
    plan, uninterrupted, tmp_path, monkeypatch
):
    """SQLite itself says that there is no room, as it does on a full disk."""
    save = Store.save

    def full(store, record):
        if len(store.finished()) == 1:
            with store.database.reading() as connection:
                connection.execute(f"PRAGMA max_page_count={connection.execute('PRAGMA page_count').fetchone()[0]}")
        save(store, record)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "save", full)
        with pytest.raises(InputError, match="disk is full"):
            sweep(plan, tmp_path / "runs.sqlite", engine="process")
    kept = Store(tmp_path / "runs.sqlite").records()
    assert 1 <= len(kept) < 4
    frame = sweep(plan, tmp_path / "runs.sqlite", engine="process")
    assert losses(frame) == uninterrupted
    records = Store(tmp_path / "runs.sqlite").records()
    assert [record for record in records if record["run_id"] in {each["run_id"] for each in kept}] == kept


def test_a_checkpoint_that_cannot_be_written_is_said_and_the_run_goes_on(task, uninterrupted, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save", full)
    said = []
    answer = perform(task(tmp_path / "c" / "run"), lambda done, steps: None, lambda: False, said.append)
    assert answer["record"]["loss"] == uninterrupted[answer["record"]["run_id"]]
    assert len(said) == 5
    assert all("cannot be written" in text and "No space left" in text for text in said)


def _damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    file.unlink() if how == "gone" else file.write_bytes(content[: len(content) // 2] if how == "half" else b"")


@pytest.mark.parametrize(
    ("how", "which"), [("half", "state/ocdbt.process_0/d/*"), ("empty", "_CHECKPOINT_METADATA"), ("gone", "state/d/*")]
)
def test_a_checkpoint_cut_short_is_said_and_the_one_before_is_taken(task, uninterrupted, tmp_path, how, which):
    folder = tmp_path / "c" / "run"
    folder.parent.mkdir()
    assert "stopped after 192" in perform(task(folder), lambda done, steps: None, after(192), print)["stopped"]
    assert {path.name for path in folder.iterdir()} == {"128", "192"}
    _damage(next((folder / "192").glob(which)), how)
    said, seen = [], []
    answer = perform(task(folder, 1e9), lambda done, steps: seen.append(done), lambda: False, said.append)
    assert len(said) == 1
    assert "that of step 192 was cut short; going back to that of step 128" in said[0]
    assert seen[0] == 192  # after the first call that followed step 128
    assert answer["record"]["loss"] == uninterrupted[answer["record"]["run_id"]]
    assert answer["record"]["steps"] == 320


def test_without_a_whole_checkpoint_the_run_starts_again_and_says_so(task, uninterrupted, tmp_path):
    folder = tmp_path / "c" / "run"
    folder.parent.mkdir()
    perform(task(folder), lambda done, steps: None, after(128), print)
    for step in ("64", "128"):
        _damage(folder / step / "_CHECKPOINT_METADATA", "half")
    said, seen = [], []
    answer = perform(task(folder, 1e9), lambda done, steps: seen.append(done), lambda: False, said.append)
    assert ["going back" in said[0], "the run starts again" in said[1]] == [True, True]
    assert seen[0] == 64
    assert answer["record"]["loss"] == uninterrupted[answer["record"]["run_id"]]


def test_a_stopped_sweep_leaves_checkpoints_and_is_carried_on_to_the_same_bits(plan, uninterrupted, tmp_path, monkeypatch):
    stop, begun = threading.Event(), []

    class Progress:
        def begin(self, jobs, finished): ...
        def expect(self, jobs): ...
        def end(self, job, outcome): ...
        def note(self, text): ...
        def close(self): ...

        def advance(self, job, share):
            begun.append((job.config.seed, share))
            if len({seed for seed, _ in begun}) == 2 and share >= 0.4:
                stop.set()

    store = tmp_path / "runs.sqlite"
    with pytest.raises(Stopped, match="1 of 4 runs have ended"):
        sweep(plan, store, engine="process", progress=Progress(), stop=stop)
    assert sorted(Store(store).states().values()) == ["done", "planned", "planned", "planned"]
    (folder,) = Path(f"{store}.checkpoints").iterdir()
    begun.clear()
    frame = sweep(plan, store, engine="process", progress=Progress())
    assert begun[0][1] > 0.5  # carried on, not begun again
    assert losses(frame) == uninterrupted
    record = next(each for each in Store(store).records() if each["run_id"] == folder.name)
    assert record["train_seconds"] > 0
    assert not folder.parent.exists()  # nothing is left of it


def _signalled(number):
    os.kill(os.getpid(), number)
    time.sleep(5)  # until the handler's exception comes


def test_sigterm_and_ctrl_c_set_the_event_and_a_second_one_ends_at_once():
    for number in (signal.SIGTERM, signal.SIGINT):
        with signals() as told:
            os.kill(os.getpid(), number)
            assert told.wait(5)
            assert told.number == number
            with pytest.raises(KeyboardInterrupt):
                _signalled(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_run_whose_loss_is_not_finite_at_step_k_is_recorded_and_not_made_again(plan, uninterrupted, tmp_path, monkeypatch):
    remember = training.Run._remember

    def poisoned(run, metrics, count):
        remember(run, metrics, count)
        if run.job.config.seed == 1 and run.done == 128:
            run.state = run.state._replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, run.state.params))

    with monkeypatch.context() as patched:
        patched.setattr(training.Run, "_remember", poisoned)
        frame = sweep(plan, tmp_path / "runs.sqlite", engine="process").set_index("seed")
    assert frame["status"].to_dict() == {0: "done", 1: "diverged", 2: "done", 3: "done"}
    assert "not finite at step 128" in str(frame.loc[1, "reason"])
    record = next(each for each in Store(tmp_path / "runs.sqlite").records() if each["seed"] == 1)
    assert (record["loss"], record["diverged_at"]) == (None, 128)
    assert all(frame.loc[seed, "loss"] == uninterrupted[frame.loc[seed, "run_id"]] for seed in (0, 2, 3))
    again = sweep(plan, tmp_path / "runs.sqlite", engine="process").set_index("seed")
    assert again.loc[1, "status"] == "diverged"


def test_a_run_that_does_not_fit_into_memory_is_recorded_and_the_sweep_goes_on(plan, uninterrupted, tmp_path, monkeypatch):
    runs = [*plan["runs"][:2], RUN | {"seed": 5, "micro_batch": 4096, "batch": 4096, "tokens": 4096 * 320 * 32, "epochs": 99}]
    monkeypatch.setattr(training, "available_memory", lambda: 800_000_000)
    frame = sweep(plan | {"runs": runs}, tmp_path / "runs.sqlite", engine="process").set_index("seed")
    assert frame["status"].to_dict() == {0: "done", 1: "done", 5: "failed"}
    assert "needs about" in str(frame.loc[5, "reason"])
    assert "800 MB" in str(frame.loc[5, "reason"])


def test_two_sweeps_on_one_store_make_each_run_once_and_both_get_all(plan, uninterrupted, tmp_path, monkeypatch):
    made, frames, lock = [], [], threading.Lock()

    def counted(task, *rest):
        with lock:
            made.append(task.run)
        return perform(task, *rest)

    monkeypatch.setattr(tasks, "perform", counted)
    monkeypatch.setattr("scaling.sweeps.WAIT_SECONDS", 0.05)
    threads = [threading.Thread(target=lambda: frames.append(sweep(plan, tmp_path / "runs.sqlite", engine="process"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == sorted(uninterrupted)
    assert [losses(frame) for frame in frames] == [uninterrupted] * 2


@pytest.mark.parametrize("retries", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_worker_that_is_killed_costs_its_run_an_attempt_and_no_other_run_anything(plan, tmp_path, monkeypatch, retries):
    """The kernel kills what takes too much memory in this way too."""
    workers, killed, notes = [], [], []

    class Watched(local.Worker):
        def __init__(self):
            super().__init__()
            workers.append(self)

    class Progress:
        def begin(self, jobs, finished): ...
        def expect(self, jobs): ...
        def end(self, job, outcome): ...
        def close(self): ...

        def note(self, text):
            notes.append(text)

        def advance(self, job, share):
            if job.config.seed == 9:
                killed.append(workers[-1]._process.pid)
                os.kill(killed[-1], signal.SIGKILL)

    monkeypatch.setattr(local, "Worker", Watched)
    runs = [RUN | {"seed": 9, "tokens": 320 * 32 * 60, "epochs": 9}, RUN | {"seed": 0}]
    frame = sweep(plan | {"runs": runs}, tmp_path / "runs.sqlite", workers=1, retries=retries, progress=Progress()).set_index("seed")
    assert frame["status"].to_dict() == {0: "done", 9: "failed"}
    assert "SIGKILL, as the kernel does when memory runs out" in str(frame.loc[9, "reason"])
    assert f"tried {retries + 1} times" in str(frame.loc[9, "reason"])
    assert len(set(killed)) == retries + 1
    assert len([text for text in notes if "is begun again" in text]) == retries


@pytest.mark.slow
def test_a_sweep_that_gets_sigterm_leaves_checkpoints_and_the_next_command_carries_on(text_folder, tmp_path):
    plan, store = tmp_path / "plan.toml", tmp_path / "runs.sqlite"
    plan.write_text(
        f'corpus = "{text_folder}"\n'
        + "".join(f"[[runs]]\nwidth = 16\ncontext = 32\ntokens = 640000\nbatch = 1\nepochs = 9\nseed = {seed}\n" for seed in (0, 1))
    )
    command = [str(Path(sys.executable).with_name("isoloss")), "sweep", str(plan), "--workers", "2", "--store", str(store)]
    told = f"import sys; from scaling import cli, progress; sys.argv = {command}\n"
    told += "progress.SweepProgress.advance = lambda self, job, share: print(job.config.seed, flush=True)\ncli.main()"
    process = subprocess.Popen([sys.executable, "-c", told], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    under_way: set[str] = set()
    while len(under_way) < 2:
        line = process.stdout.readline()
        assert line, "the sweep ended before it could be stopped"
        under_way.add(line)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "SIGTERM: stopping" in said
    assert "another sweep" not in said
    assert "0 of 2 runs have ended" in said
    assert set(Store(store).states().values()) == {"planned"}
    assert len(list(Path(f"{store}.checkpoints").glob("*/*/files.sha256.json"))) == 2
    carried = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=400)
    assert carried.returncode == 0, carried.stderr
    alone = subprocess.run([*command[:-1], str(tmp_path / "alone.sqlite"), "--json"], capture_output=True, text=True, timeout=400)
    first, second = ({row["run_id"]: row["loss"] for row in json.loads(run.stdout)["runs"]} for run in (carried, alone))
    assert first == second
    assert not Path(f"{store}.checkpoints").exists()


def test_a_record_of_another_run_is_not_taken(task, tmp_path):
    """A worker with other threads than were planned for makes another run."""
    wrong = Task("0" * 16, task(tmp_path / "c").config)
    answer = perform(wrong, lambda done, steps: None, lambda: False, print)
    assert "in place of 0000000000000000" in answer["failed"]
    assert "record" not in answer
