"""Engines: which job a worker gets, what a run is whoever makes it, and how a corpus gets to a machine that lacks it."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading

import pytest

import models
from scaling import InputError, RunConfig, sweep
from scaling.data.corpora import load_corpus
from scaling.engines import parcels
from scaling.engines.local import worker_environment
from scaling.engines.queues import Queue, host_bytes, shape_of
from scaling.plan import Job


@pytest.fixture
def jobs(text_folder):
    """Three shapes of eight runs each, of which the widest costs most."""
    corpus = load_corpus(str(text_folder)).id
    configs = [
        RunConfig(models.ladder(width, context=32), tokens, corpus, seed=seed)
        for width in (16, 32, 64)
        for seed, tokens in enumerate(range(10**5, 108 * 10**3, 10**3))
    ]
    return [Job(config, 1e9, False) for config in configs]


def played(queue, workers):
    """Jobs of each worker and when it is done, if a job takes as long as it has FLOP: whoever is free first takes the next."""
    own, given, free = [set() for _ in range(workers)], [[] for _ in range(workers)], [0.0] * workers
    while (job := queue.take(own[who := free.index(min(free))])) is not None:
        given[who].append(job)
        free[who] += job.flops
        queue.end(job)
    return given, free


def test_workers_stay_with_their_shapes_and_end_together(jobs):
    given, free = played(Queue(jobs, lambda job: True, 2, 10**12), 2)
    assert sorted(map(id, given[0] + given[1])) == sorted(map(id, jobs))
    assert given[0][0].flops == max(job.flops for job in jobs)  # the dearest first
    assert [job.config.model.width for job in given[0][:4]] == [64] * 4
    assert [job.config.model.width for job in given[1][:4]] == [32] * 4
    compiled = sum(len({shape_of(job.config) for job in own}) for own in given)
    assert compiled <= 5  # of 6 that two workers and three shapes could come to
    assert max(free) < 1.1 * sum(free) / 2


def test_no_worker_is_left_with_a_long_run_at_the_end(jobs):
    """A run of another shape goes before those of a worker's own once it is more than half its share of the rest."""
    long = Job(dataclasses.replace(jobs[0].config, tokens=10**6, seed=99), 1e9, False)
    few = [job for job in jobs if job.config.model.width == 32][:2]
    assert Queue([*few, long], lambda job: True, 2, 10**12).take({shape_of(few[0].config)}) is long
    wide = Queue([*jobs[8:16], long], lambda job: True, 1, 10**12)
    assert wide.take({shape_of(jobs[8].config)}) is not long


def test_predicted_memory_decides_how_many_run_at_once(jobs):
    need = max(host_bytes(job.config) for job in jobs)
    queue = Queue(jobs, lambda job: True, 4, int(2.5 * need))
    first, second = queue.take(set()), queue.take(set())
    assert first is not None
    assert second is not None
    third = []
    waiting = threading.Thread(target=lambda: third.append(queue.take(set())))
    waiting.start()
    waiting.join(timeout=0.2)
    assert waiting.is_alive()  # there is no room for a third
    queue.end(first)
    waiting.join(timeout=10)
    assert third[0] is not None
    queue.close()
    assert queue.take(set()) is None
    # A run that fits nowhere is given out when it is alone, so that its worker refuses it with the prediction.
    assert Queue(jobs[:1], lambda job: True, 1, 1).take(set()) is jobs[0]


def test_a_run_that_another_sweep_holds_is_passed_over_and_a_lost_one_comes_again(jobs):
    queue = Queue(jobs, lambda job: job.config.model.width != 64, 4, 10**12)
    job = queue.take(set())
    assert job is not None
    assert job.config.model.width == 32
    queue.end(job, again=True)
    assert queue.take({shape_of(job.config)}) is job
    rest = [queue.take(set()) for _ in range(16)]
    assert [each is None for each in rest] == [False] * 15 + [True]


def test_a_corpus_travels_to_a_machine_that_lacks_it(text_folder, tmp_path, monkeypatch):
    corpus = load_corpus(str(text_folder))
    parcel = parcels.pack(corpus.id)
    assert parcel is not None
    parcels.unpack(corpus.id, lambda: pytest.fail("it is here, nobody needs the parcel"))
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path / "elsewhere"))
    with pytest.raises(InputError, match="is not in"):
        load_corpus(corpus.id)
    parcels.unpack(corpus.id, lambda: parcel)
    there = load_corpus(corpus.id)
    assert there.manifest == corpus.manifest
    assert bytes(there.train()) == bytes(corpus.train())
    with pytest.raises(InputError, match="outside of its folder"):
        parcels.unpack("evil@00000000", lambda: {"../evil": b""})
    assert not (tmp_path / "elsewhere" / "corpora" / "evil").exists()


def test_engines_that_there_are_not_and_a_library_that_is_missing_are_said(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="one of local, process, ray"):
        sweep({"runs": []}, tmp_path / "runs.sqlite", engine="slurm")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'isoloss\[ray\]'"):
        sweep({"runs": []}, tmp_path / "runs.sqlite", engine="ray")
    assert not (tmp_path / "runs.sqlite").exists()


@pytest.mark.slow
def test_a_run_in_this_process_has_the_bits_of_one_in_a_worker(text_folder, tmp_path):
    """At equal threads. The process is one of its own, because this one's threads were decided long ago."""
    runs = [{"width": 16, "context": 32, "tokens": 320 * 32, "batch": 1, "seed": seed} for seed in (0, 1)]
    plan = {"corpus": str(text_folder), "runs": runs}
    inside = tmp_path / "inside.sqlite"
    code = f"from scaling import sweep; sweep({plan!r}, {str(inside)!r}, engine='process')"
    subprocess.run([sys.executable, "-c", code], env=os.environ | worker_environment(), check=True)
    by_workers, by_process = sweep(plan, tmp_path / "local.sqlite"), sweep(plan, inside)
    assert by_process["loss"].notna().all()
    assert dict(zip(by_process["run_id"], by_process["loss"], strict=True)) == dict(
        zip(by_workers["run_id"], by_workers["loss"], strict=True)
    )
