"""The engine `ray` on a cluster of two nodes on this machine: the same losses as `local`, and nothing lost when a worker or a node dies."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import psutil
import pytest

import models
from scaling import RunConfig, sweep, train_on_hosts
from scaling.store import Store
from scaling.sweeps import prepare

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'isoloss[ray]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # what Ray warns of is not ours

RUN = {"width": 16, "context": 32, "batch": 1, "validation_tokens": 4096}
SHORT, LONG = 320 * 32, 320 * 32 * 20


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of one CPU each, beside one of none that this process is on."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [found.add_node(num_cpus=1) for _ in range(2)]
    try:
        yield found, nodes
    finally:
        ray.shutdown()
        found.shutdown()


@pytest.fixture
def plan(text_folder):
    runs = [RUN | {"seed": seed, "tokens": LONG if seed < 3 else SHORT, "epochs": 9} for seed in range(6)]
    return {"corpus": str(text_folder), "runs": runs}


def losses(frame):
    return dict(zip(frame["run_id"], frame["loss"], strict=True))


class Watch:
    """A sweep's progress: remembers, and calls `act` with each share."""

    def __init__(self, act=lambda job, share: None):
        self.notes, self.ended, self._act = [], [], act

    def begin(self, jobs, finished): ...
    def expect(self, jobs): ...
    def close(self): ...

    def note(self, text):
        self.notes.append(text)

    def end(self, job, outcome):
        self.ended.append(job)

    def advance(self, job, share):
        self._act(job, share)


def test_the_plan_has_the_losses_of_local_and_a_lost_node_loses_nothing(cluster, plan, tmp_path):
    found, nodes = cluster
    expected = losses(sweep(plan, tmp_path / "local.sqlite"))
    killed, under_way = threading.Event(), set()

    def act(job, share):
        under_way.add(job)
        if len(under_way) == 2 and not killed.is_set():  # one on each node
            killed.set()
            found.remove_node(nodes[1], allow_graceful=False)

    watch = Watch(act)
    frame = sweep(plan, tmp_path / "ray.sqlite", engine="ray", address=found.address, retries=3, progress=watch)
    assert killed.is_set()
    assert losses(frame) == expected
    assert (frame["status"] == "done").all()
    assert len(watch.ended) == 6


def test_a_killed_worker_is_replaced_and_its_run_carried_on(cluster, plan, tmp_path):
    found, _ = cluster
    expected = losses(sweep(plan, tmp_path / "local.sqlite"))
    killed, ids = [], {job: run for run, job in prepare(plan).jobs.items()}

    def act(job, share):
        if not killed and share > 0.2:
            killed.append(_pid_of(ids[job]))
            os.kill(killed[0], signal.SIGKILL)

    frame = sweep(
        plan, tmp_path / "ray.sqlite", engine="ray", address=found.address, retries=3, checkpoint_seconds=0.2, progress=Watch(act)
    )
    assert killed
    assert losses(frame) == expected


def _pid_of(run: str) -> int:
    """Of the Ray worker that makes a run: Ray names the process after its task."""
    return next(each.pid for each in psutil.process_iter(["cmdline"]) if f"isoloss {run}" in " ".join(each.info["cmdline"] or []))


def test_a_stopped_sweep_leaves_checkpoints_and_is_carried_on_by_another_engine(cluster, plan, tmp_path):
    found, _ = cluster
    stop = threading.Event()
    store = tmp_path / "runs.sqlite"
    from scaling.stopping import Stopped

    with pytest.raises(Stopped):
        sweep(plan, store, engine="ray", address=found.address, progress=Watch(lambda job, share: stop.set()), stop=stop)
    assert "running" not in Store(store).states().values()
    assert sweep(plan, store)["status"].tolist() == ["done"] * 6
    fresh = sweep(plan, tmp_path / "fresh.sqlite")
    assert losses(sweep(plan, store)) == losses(fresh)


def test_one_run_over_two_hosts_is_the_run_of_one(cluster, text_folder, tmp_path):
    """Two processes of one device each against one process of one: the order of sums differs."""
    found, _ = cluster
    config = RunConfig(models.ladder(16, context=32), 320 * 32 * 4, str(text_folder), batch=4, micro_batch=2, validation_tokens=4096)
    record = train_on_hosts(config, 2, address=found.address, checkpoint=str(tmp_path / "state"), checkpoint_every=100)
    assert record.devices == 2
    alone = sweep([config], tmp_path / "alone.sqlite")
    assert record.loss == pytest.approx(alone["loss"].iloc[0], rel=1e-5)
    assert (tmp_path / "state" / "300" / "files.sha256.json").exists()


def test_a_board_out_of_reach_is_asked_again(monkeypatch):
    """A node that is lost can reset the connection to the board for a moment, which must not end the sweep."""
    from types import SimpleNamespace

    from scaling.engines.on_ray import _Round

    heard: list[tuple[str, float]] = []
    round_: Any = _Round.__new__(_Round)
    round_._board = SimpleNamespace(read=SimpleNamespace(remote=lambda: None))
    round_._by_run = {"run": "job"}
    round_._listener = SimpleNamespace(advanced=lambda job, share: heard.append((job, share)), noted=None)

    def unavailable(_):
        raise ray.exceptions.ActorUnavailableError("connection reset", b"0" * 16)

    monkeypatch.setattr(ray, "get", unavailable)
    round_._hear()
    assert not heard
    monkeypatch.setattr(ray, "get", lambda _: ({"run": 0.5}, []))
    round_._hear()
    assert heard == [("job", 0.5)]
