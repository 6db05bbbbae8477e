"""A run's record does not depend on how its steps fell into calls: interrupted, branched off, or beside others, it says the same."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from models.memory import CLEAR_REFS, peak_memory
from scaling import step
from scaling.branches import branch_config, train_horizons
from scaling.ensembles import train_many
from scaling.run import RunConfig, RunRecord
from scaling.training import Run, prepare, train

MOE = models.ModelConfig(layers=1, width=16, heads=2, context=16, experts=4, experts_per_token=2)
STEP = 2 * 16  # tokens
TIMES = {"train_seconds", "compile_seconds", "evaluation_seconds", "tokens_per_second", "flops_per_second", "memory_peak"}


def config(text_folder, **more) -> RunConfig:
    fields: dict[str, Any] = {"model": MOE, "tokens": 320 * STEP, "corpus": str(text_folder), "batch": 2, "validation_tokens": 1024}
    return RunConfig(**(fields | more))


def assert_same(ours: RunRecord, theirs: RunRecord, but: set[str] = TIMES) -> None:
    for field in dataclasses.fields(RunRecord):
        if field.name not in but:
            assert getattr(ours, field.name) == getattr(theirs, field.name), field.name


class KilledError(Exception):
    pass


def killed_at(last: int):
    def kill(done: int, steps: int) -> None:
        if done >= last:
            raise KilledError

    return kill


@pytest.fixture(scope="module")
def whole(text_folder) -> RunRecord:
    with jax.numpy_rank_promotion("raise"):  # as in the tests, which then share what is compiled here
        return train(config(text_folder))


def test_a_record_after_interruptions_is_that_of_the_whole_run(whole, text_folder, tmp_path):
    """Cut within the last tenth and before it; the seconds are those of all processes."""
    own, folder = config(text_folder), tmp_path / "run"
    for last in (100, 310):
        with pytest.raises(KilledError):
            train(own, checkpoint=folder, checkpoint_every=50, progress=killed_at(last))
    resumed = train(own, checkpoint=folder, checkpoint_every=50)
    assert_same(resumed, whole)
    again = train(own, checkpoint=folder, checkpoint_every=64)
    assert again.train_seconds > 0
    assert again.tokens_per_second == pytest.approx(again.tokens / again.train_seconds, rel=1e-6)


def test_a_record_from_the_last_checkpoint_is_the_same(whole, text_folder, tmp_path):
    """At the last step: nothing is left to train, and yet all was measured."""
    first, second = (train(config(text_folder), checkpoint=tmp_path / "run", checkpoint_every=320) for _ in range(2))
    assert_same(first, whole)
    assert_same(second, whole)
    assert second.train_seconds == first.train_seconds
    assert second.tokens_per_second == first.tokens_per_second > 0


def test_routers_are_means_over_the_last_tenth_of_the_steps(whole, text_folder):
    job, seen = prepare(config(text_folder)), []

    def compiled(state: Any, data: Any, hyper: Any, count: jax.Array) -> Any:
        state, metrics = step.train_steps(job.static, state, data, hyper, count)
        seen.append(jax.tree.map(lambda rows: np.asarray(rows, np.float64)[: int(count)], metrics))
        return state, metrics

    run = Run(job, compiled, step.initialise(job.static, jnp.int32(0)))
    for stop in (7, 300, 320):
        run.advance(stop)
    assert_same(run.record(compile_seconds=0.0), whole)
    assert whole.routers is not None
    loads = np.concatenate([metrics.load_LE for metrics in seen])[-32:]
    entropies = np.concatenate([metrics.entropy_L for metrics in seen])[-32:]
    assert len(np.unique(loads[:, 0, 0])) > 5
    np.testing.assert_allclose(whole.routers[0]["load"], loads.mean(axis=0)[0], rtol=1e-12)
    np.testing.assert_allclose(whole.routers[0]["entropy"], entropies.mean(), rtol=1e-12)
    assert whole.expert_load_max == pytest.approx(4 * loads.mean(axis=0).max(), rel=1e-12)


def test_the_record_of_a_branch_is_that_of_the_run_alone(text_folder):
    trunk = config(text_folder, tokens=400 * STEP)
    horizons = [320 * STEP, 400 * STEP, 351 * STEP]
    for branch, tokens in zip(train_horizons(trunk, horizons), horizons, strict=True):
        assert branch.routers is not None
        assert_same(branch, train(branch_config(trunk, tokens)), TIMES | {"flops_shared", "memory_predicted"})


@pytest.mark.slow
def test_the_record_of_a_member_is_that_of_the_run_alone_to_rounding(text_folder):
    configs = [config(text_folder), config(text_folder, seed=1)]
    labels = {"run_id", "versions", "memory_predicted"}
    close = {"loss", "loss_se", "bits_per_byte", "bits_per_byte_se", "train_loss", "expert_load_max", "flops_realised", "routers"}
    for record, own in zip(train_many(configs), configs, strict=True):
        alone = train(own)
        assert_same(record, alone, TIMES | labels | close)
        assert record.loss == pytest.approx(alone.loss, abs=2e-3)
        assert record.bits_per_byte == pytest.approx(record.loss / np.log(2), rel=1e-6)  # bytes are tokens here
        assert record.routers is not None
        assert alone.routers is not None
        np.testing.assert_allclose(record.routers[0]["load"], alone.routers[0]["load"], atol=2e-3)
        assert record.routers[0]["entropy"] == pytest.approx(alone.routers[0]["entropy"], abs=2e-3)
        assert record.flops_realised == pytest.approx(alone.flops_realised, rel=1e-2)


def test_a_run_that_was_lost_records_what_was_done(whole, text_folder):
    """By itself, at a horizon of its own, and beyond the step from which a branch would set out."""
    wild = config(text_folder, learning_rate=1e30)
    lost = train(wild)
    assert lost.diverged_at is not None
    done = lost.diverged_at + 1
    assert 1 < done < 32  # in the first call
    assert 0 < len(lost.train_loss) <= done
    assert all(np.isfinite(lost.train_loss))
    assert (lost.tokens, lost.flops) == (whole.tokens, whole.flops)  # those of the configuration
    assert lost.flops_realised == pytest.approx(models.training_flops(MOE).training * done * STEP, rel=0.5)
    assert lost.tokens_per_second * lost.train_seconds == pytest.approx(done * STEP)
    assert lost.flops_per_second * lost.train_seconds == pytest.approx(models.training_flops(MOE).training * done * STEP)
    trunk, branch = train_horizons(dataclasses.replace(wild, tokens=400 * STEP), [400 * STEP, 320 * STEP])
    assert trunk.flops_shared == pytest.approx(models.training_flops(MOE).training * done * STEP)
    assert branch.flops_shared == 0
    assert branch.train_loss == trunk.train_loss == lost.train_loss


@pytest.mark.skipif(not os.access(CLEAR_REFS, os.W_OK), reason="the kernel's high-water mark cannot be set back here")
def test_the_peak_of_a_run_is_not_that_of_the_process_before_it(whole, text_folder):
    block = np.ones(400 * 2**20, np.uint8)
    held = peak_memory()
    del block
    found = train(config(text_folder)).memory_peak  # as `whole`, so that nothing has to be compiled
    assert held is not None
    assert found is not None
    assert found < held - 200 * 2**20
