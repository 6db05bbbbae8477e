"""Branches of a warm-up-stable-decay trunk are the runs that would have been trained alone, at less compute."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from scaling import step
from scaling.branches import branch_config, branch_point, train_horizons
from scaling.errors import InputError
from scaling.finished import load_model
from scaling.run import RunConfig
from scaling.schedules import learning_rate
from scaling.training import hyper, prepare, train

SHAPE = models.ladder(16, context=32)
STEP = 2 * 32  # tokens
HORIZONS = [320 * STEP, 400 * STEP, 350 * STEP]


def config(text_folder="python-source", **more) -> RunConfig:
    fields: dict[str, Any] = {"model": SHAPE, "tokens": 400 * STEP, "corpus": str(text_folder), "batch": 2, "validation_tokens": 8192}
    return RunConfig(**(fields | more))


@pytest.fixture(scope="module")
def branches(text_folder, tmp_path_factory):
    """Records, the folder of their models, and what was told of the progress."""
    folder, told = tmp_path_factory.mktemp("branches"), []
    with jax.numpy_rank_promotion("raise"):  # as in the tests, which then share what is compiled here
        records = train_horizons(config(text_folder), HORIZONS, save=folder, progress=lambda done, steps: told.append((done, steps)))
    return records, folder, told


@pytest.mark.parametrize("place", range(3))
def test_a_branch_is_the_run_trained_alone_bit_for_bit(branches, text_folder, tmp_path, place):
    records, folder, _ = branches
    branch, own = records[place], branch_config(config(text_folder), HORIZONS[place])
    alone = train(own, save=tmp_path / "alone")
    assert branch.tokens == HORIZONS[place]
    for name in ("run_id", "loss", "loss_se", "train_loss", "flops", "tokens", "steps", "config"):
        assert getattr(branch, name) == getattr(alone, name), name
    weights = [jax.tree.leaves(load_model(path).params) for path in (folder / branch.run_id, tmp_path / "alone")]
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_the_trunk_spares_is_counted(branches):
    records, _, told = branches
    per_step = models.training_flops(SHAPE).training * STEP
    # Decay is 0.3 of each; the longest, second in the list, pays the trunk.
    steps = [96, 400, 105]
    assert [record.flops_shared for record in records] == [per_step * count for count in steps]
    assert [record.flops for record in records] == [per_step * count for count in (320, 400, 350)]
    assert told[-1] == (sum(steps), sum(steps))
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert len({record.loss for record in records}) == 3


@jax.jit
def rates_at_all_steps(run: step.Hyper) -> jax.Array:
    return learning_rate("wsd", run, jnp.arange(1000))


def rates(own: RunConfig) -> np.ndarray:
    return np.asarray(rates_at_all_steps(hyper(own)))


@pytest.mark.parametrize(("decay", "warmup"), [(0.3, 0.1), (0.0, 0.05), (0.01, 0.0), (0.7, 0.05), (1.0, 0.0)])
def test_until_its_branch_point_a_branch_has_the_rates_of_the_trunk(decay, warmup):
    trunk = config(tokens=1000 * STEP, decay=decay, warmup=warmup)
    for steps in (300, 641, 999):
        own = branch_config(trunk, steps * STEP)
        assert (own.steps, own.warmup_steps, own.batch, own.peak) == (steps, trunk.warmup_steps, trunk.batch, trunk.peak)
        ours, theirs = rates(own)[:steps], rates(trunk)[:steps]
        point = branch_point(own)
        np.testing.assert_array_equal(ours[:point], theirs[:point])
        assert ours[point] < own.peak
        assert own.steps - point == max(1, own.decay_steps)


def test_the_longest_is_the_config_itself():
    trunk = config(warmup=0.1003)
    assert branch_config(trunk, trunk.tokens) == trunk


def test_a_diverged_trunk_is_recorded_at_every_horizon(text_folder):
    wild = config(text_folder, learning_rate=1e30)
    records, alone = train_horizons(wild, HORIZONS[:2]), train(wild)
    assert [record.status for record in records] == ["diverged", "diverged"]
    assert [record.diverged_at for record in records] == [alone.diverged_at] * 2
    assert [record.loss for record in records] == [None, None]


@pytest.mark.parametrize(
    ("fields", "horizons", "says"),
    [
        ({"schedule": "cosine"}, [400 * STEP], "schedule = 'cosine' shares no trunk"),
        ({}, [320 * STEP, 401 * STEP], "exceed the trunk's"),
        ({}, [320 * STEP, 320 * STEP + 1], "the same 320 steps"),
        ({"tokens": 4000 * STEP}, [500 * STEP], "at least 572 are needed"),
        ({}, [299 * STEP], "at least 300 are needed"),
        ({}, [0], "too few"),
        ({}, [320.5 * STEP], "whole numbers, got 20512.0"),
    ],
)
def test_horizons_that_share_no_trunk_are_refused(text_folder, fields, horizons, says):
    with pytest.raises(InputError, match=says) as caught:
        train_horizons(config(text_folder, **fields), horizons)
    assert "\n" not in str(caught.value)


def test_horizons_leave_other_folders_alone(text_folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    for save in (tmp_path / "file", tmp_path / "models"):
        if save.name == "models":  # what a branch would be called is known before it is trained
            job = prepare(branch_config(config(text_folder), HORIZONS[0]))
            (save / job.id).mkdir(parents=True)
            (save / job.id / "notes.txt").write_text("mine")
        with pytest.raises(InputError, match="save"):
            train_horizons(config(text_folder), HORIZONS, save=save, progress=lambda done, steps: pytest.fail("training has begun"))


def test_the_least_horizon_that_is_named_is_enough(text_folder):
    trunk = config(text_folder, tokens=4000 * STEP)
    assert branch_config(trunk, 572 * STEP).warmup_steps == trunk.warmup_steps == 400
    assert train_horizons(trunk, []) == []


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.3, 0.02])
def test_moe_branches_too(text_folder, decay):
    shape = models.ladder(16, context=32, experts=4, experts_per_token=2, balance="bias")
    trunk = config(text_folder, model=shape, decay=decay)
    for branch in train_horizons(trunk, HORIZONS[:2]):
        alone = train(RunConfig.from_dict(branch.config))
        for name in ("run_id", "loss", "train_loss"):
            assert getattr(branch, name) == getattr(alone, name), name


@pytest.mark.slow
def test_branches_on_two_devices_too(text_folder):
    script = f"""
        from scaling.devices import one_device_per_core
        assert one_device_per_core(2) == 2
        import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_branches import config
        from scaling.branches import train_horizons
        from scaling.run import RunConfig
        from scaling.training import train
        step = 4 * 32
        for branch in train_horizons(config({str(text_folder)!r}, batch=4, tokens=400 * step), [400 * step, 320 * step]):
            alone = train(RunConfig.from_dict(branch.config))
            assert branch.devices == alone.devices == 2
            assert (branch.run_id, branch.loss, branch.train_loss) == (alone.run_id, alone.loss, alone.train_loss)
    """
    answer = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
