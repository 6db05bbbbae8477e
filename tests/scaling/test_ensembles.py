"""Runs trained side by side are the runs alone, to rounding; they neither mix nor hurt each other."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import textwrap
from typing import Any

import jax
import numpy as np
import pytest

import models
from scaling.ensembles import OWN, Ensemble, faster_beside, member_jobs, train_many
from scaling.errors import InputError
from scaling.run import RunConfig
from scaling.training import train

SHAPE = models.ladder(16, context=32)
# Float32 sums in another order, 300 steps on. The members' own losses lie a thousand times further apart.
ROUNDING = 2e-5


def config(text_folder="python-source", **more) -> RunConfig:
    fields: dict[str, Any] = {"model": SHAPE, "tokens": 32 * 2 * 300, "corpus": str(text_folder), "batch": 2, "validation_tokens": 8192}
    return RunConfig(**(fields | more))


def members(text_folder, **more) -> list[RunConfig]:
    """Four, of which the third diverges."""
    own: list[dict[str, Any]] = [
        {},
        {"seed": 1, "learning_rate": 2e-3, "weight_decay": 0.5},
        {"learning_rate": 1e30},
        {"seed": 3, "warmup": 0.2, "decay": 0.5},
    ]
    return [config(text_folder, **(more | fields)) for fields in own]


@pytest.fixture(scope="module")
def together(text_folder):
    with jax.numpy_rank_promotion("raise"):  # as in the tests, which then share what is compiled here
        return train_many(members(text_folder))


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_member_is_the_run_alone_to_rounding(together, text_folder, place):
    record, alone = together[place], train(members(text_folder)[place])
    assert record.loss == pytest.approx(alone.loss, abs=ROUNDING)
    np.testing.assert_allclose(record.train_loss, alone.train_loss, atol=ROUNDING)
    others = [other.loss for other in together if other is not record and other.loss is not None]
    assert min(abs(other - alone.loss) for other in others) > 50 * ROUNDING
    for name in ("config", "flops", "tokens", "unique_tokens", "params", "corpus", "status", "diverged_at"):
        assert getattr(record, name) == getattr(alone, name), name
    assert record.run_id != alone.run_id
    assert record.versions["members"] == "4"


def test_a_diverged_member_is_recorded_and_does_no_harm(together, text_folder):
    record, alone = together[2], train(members(text_folder)[2])
    assert (record.status, record.loss, record.reason) == ("diverged", None, alone.reason)
    assert record.diverged_at == alone.diverged_at is not None
    assert all(np.isfinite(record.train_loss))

    first, second, _, fourth = members(text_folder)
    healthy = train_many([fourth, config(text_folder, seed=7), first, second])
    for ours, theirs in ((together[0], healthy[2]), (together[1], healthy[3]), (together[3], healthy[0])):
        assert (ours.loss, ours.train_loss, ours.run_id) == (theirs.loss, theirs.train_loss, theirs.run_id)


def test_a_diverged_member_is_frozen(text_folder):
    configs = members(text_folder)
    ensemble = Ensemble(member_jobs(configs, 1)[0])
    ensemble.advance(64)
    before = jax.device_get(ensemble.states)
    ensemble.advance(128)
    after = jax.device_get(ensemble.states)
    assert before.step.tolist() == [64, 64, before.diverged_at[2], 64]
    assert after.step.tolist() == [128, 128, before.diverged_at[2], 128]
    for old, new in zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True):
        assert np.isfinite(new).all()
        np.testing.assert_array_equal(old[2], new[2])
    assert any((old[1] != new[1]).any() for old, new in zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True))


def test_seconds_are_shared_out(together):
    assert len({record.train_seconds for record in together}) == 1
    rate = 4 * together[0].tokens / (4 * together[0].train_seconds)
    assert together[0].tokens_per_second == pytest.approx(rate)


def test_when_all_have_diverged_nothing_more_is_computed(text_folder):
    told: list[int] = []
    wild = [config(text_folder, learning_rate=1e30, seed=seed) for seed in range(4)]
    records = train_many(wild, progress=lambda done, steps: told.append(done))
    assert [record.status for record in records] == ["diverged"] * 4
    assert told == []


def test_one_run_is_trained_alone(text_folder):
    lone = config(text_folder)
    (record,) = train_many([lone])
    alone = train(lone)
    assert (record.run_id, record.loss) == (alone.run_id, alone.loss)
    assert train_many([]) == []


def test_models_too_large_for_it_are_trained_in_turn_with_the_same_results(together, text_folder, monkeypatch):
    """Records to the bit those of lone runs, and to rounding those of members; a lost run harms none here either."""
    assert faster_beside(config(model=models.ladder(32, context=32)), 1)
    assert not faster_beside(config(model=models.ladder(64, context=32)), 1)
    assert faster_beside(config(model=models.ladder(64, context=32)), 2)
    monkeypatch.setattr("scaling.ensembles.LARGEST_BESIDE", 0)
    told: list[tuple[int, int]] = []
    in_turn = train_many(members(text_folder), progress=lambda done, steps: told.append((done, steps)))
    for record, member, own in zip(in_turn, together, members(text_folder), strict=True):
        alone = train(own)
        for name in ("run_id", "loss", "train_loss", "status", "diverged_at", "tokens", "memory_predicted"):
            assert getattr(record, name) == getattr(alone, name), name
        assert record.loss == (None if member.loss is None else pytest.approx(member.loss, abs=ROUNDING))
        assert record.run_id != member.run_id
        assert "members" not in record.versions
    assert told[-1] == (1200, 1200)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"tokens": 32 * 2 * 301}, "tokens = 19264 of member 1 differs from 19200 of member 0"),
        ({"batch": 1}, "batch = 1 of member 1 differs from 2"),
        ({"model": models.ladder(32, context=32)}, "model.width = 32 of member 1 differs from 16"),
        ({"model": models.ladder(16, context=32, tied=True)}, "model.tied = True of member 1 differs from False"),
        ({"precision": "bf16"}, "precision = 'bf16' of member 1 differs from 'fp32'"),
        ({"schedule": "cosine"}, "schedule = 'cosine'"),
        ({"arm": "other"}, "members 0 and 1 are the same run"),
    ],
)
def test_members_of_other_shapes_are_refused(text_folder, fields, says):
    base = config(text_folder, learning_rate=0.01)
    with pytest.raises(InputError, match=says) as caught:
        train_many([base, dataclasses.replace(base, **fields)])
    assert "\n" not in str(caught.value)


def test_what_members_may_differ_in_are_fields_of_a_run():
    assert set(OWN) <= {field.name for field in dataclasses.fields(RunConfig)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "rounding"),
    [
        ({"model": models.ladder(16, context=32, experts=4, experts_per_token=2)}, 2e-3),
        ({"model": models.ladder(16, context=32, experts=4, experts_per_token=2, dispatch="capacity", balance="bias")}, 2e-3),
        ({"precision": "bf16", "optimizer": "muon"}, 1e-2),
        ({"precision": "fp16"}, 1e-2),
        ({"precision": "int8"}, 3e-2),
    ],
)
def test_members_agree_with_lone_runs_in_every_kind(text_folder, fields, rounding):
    """Rounding is that of the format, and of the routers, whose choices it may turn."""
    configs = members(text_folder, **fields)[:2]
    for record, own in zip(train_many(configs), configs, strict=True):
        alone = train(own)
        assert record.loss == pytest.approx(alone.loss, abs=rounding)
        np.testing.assert_allclose(record.train_loss[:4], alone.train_loss[:4], atol=rounding)
        assert record.status == alone.status == "done"
        if own.model.is_moe:
            assert record.expert_load_max == pytest.approx(alone.expert_load_max, rel=0.1)


@pytest.mark.slow
def test_members_shared_out_over_devices_are_the_same_to_rounding(together, text_folder):
    script = f"""
        from scaling.devices import one_device_per_core
        assert one_device_per_core(2) == 2
        import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_ensembles import members
        from scaling.ensembles import train_many
        for record in train_many(members({str(text_folder)!r})):
            print(record.devices, record.run_id, record.loss)
    """
    answer = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    for line, record in zip(answer.stdout.splitlines(), together, strict=True):
        devices, identity, loss = line.split()
        assert devices == "2"
        assert identity != record.run_id
        assert loss == "None" if record.loss is None else abs(float(loss) - record.loss) < ROUNDING
