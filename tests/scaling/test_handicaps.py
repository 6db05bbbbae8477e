"""Handicaps that are exact by construction: the live run is untouched bit for bit, and XLA counts m and k times its work."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from scaling import step
from scaling.errors import InputError
from scaling.finished import static_of
from scaling.plan import read_plan
from scaling.run import RunConfig, run_id
from scaling.training import hyper, train

SHAPE = models.ModelConfig(layers=1, width=16, heads=2, context=8, vocab_size=32)
LIVE_TOKENS = 8 * 4 * 310 + 17  # steps of 4 sequences, and what is left of one
DATA, STRUCTURE, BOTH = {"handicap_data": 2}, {"handicap_structure": 2}, {"handicap_data": 3, "handicap_structure": 2}
HANDICAPS: list[dict[str, int]] = [DATA, STRUCTURE, BOTH]
EACH = pytest.mark.parametrize(
    "handicap", [pytest.param(DATA, marks=pytest.mark.slow), pytest.param(STRUCTURE, marks=pytest.mark.slow), BOTH], ids=str
)
STEPS = 12


def config(seed: int = 0, micro_batch: int = 2, **handicap: Any) -> RunConfig:
    tokens = LIVE_TOKENS * handicap.get("handicap_data", 1)
    return RunConfig(SHAPE, tokens, "x", seed=seed, batch=4, micro_batch=micro_batch, **handicap)


def beginning(run: RunConfig) -> tuple[step.Static, step.TrainState, step.Data, step.Hyper]:
    """A run before its first step, on text of a random source."""
    static = static_of(run)
    stream = np.random.default_rng(0).geometric(0.2, 40_000).clip(max=31).astype(np.uint8)
    order = np.random.default_rng(run.seed).permutation(len(stream) // SHAPE.context - 1).astype(np.int32)
    data = step.Data(jnp.asarray(stream), jnp.asarray(order), None, step.dead_networks(static, run.seed))
    return static, step.initialise(static, jnp.int32(run.seed)), data, hyper(run)


def first_steps(run: RunConfig) -> tuple[step.TrainState, step.Metrics]:
    return step.train_steps(*beginning(run), jnp.int32(STEPS))


@EACH
def test_the_live_network_moves_as_without_a_handicap_bit_for_bit(handicap):
    for seed in (0, 1):
        alone, metrics = first_steps(config(seed))
        state, handicapped = first_steps(config(seed, **handicap))
        assert np.ptp(metrics.loss[:STEPS]) > 0.01  # it learns
        for name in ("loss", "gradient_norm", "rate"):
            np.testing.assert_array_equal(getattr(handicapped, name), getattr(metrics, name))
        for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(alone), strict=True):
            np.testing.assert_array_equal(one, other)
        assert (handicapped.dead is not None) == ("handicap_structure" in handicap)
        if handicapped.dead is not None:  # the dead network is computed, on text that changes
            assert (np.asarray(handicapped.dead[:STEPS]) > 0).all()
            assert len(np.unique(handicapped.dead[:STEPS])) == STEPS


def gradient_flops(monkeypatch, **handicap: int) -> float:
    """XLA's own count of the compiled gradients of one step. It counts a loop's body once, so that here micro-batches follow one another."""

    def one_by_one(low: int, high: int, body: Any, start: Any) -> Any:
        for j in range(low, high):
            start = body(jnp.int32(j), start)
        return start

    monkeypatch.setattr(jax.lax, "fori_loop", one_by_one)
    run = config(micro_batch=4, **handicap)
    static, state, data, traced = beginning(run)
    whole: Any = traced._replace(micro_batches=run.micro_batches)  # ty: ignore[invalid-argument-type]

    def gradients(state: step.TrainState) -> Any:
        return step._mean_gradients(static, state, data, whole), step._dead_norm(static, state, data, whole)

    options: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}  # of machine code, which the count does not see
    analysis = jax.jit(gradients).lower(state).compile(compiler_options=options).cost_analysis()
    assert analysis is not None
    return analysis["flops"]


@pytest.mark.slow
def test_xla_counts_the_handicaps_work(monkeypatch):
    alone = gradient_flops(monkeypatch)
    assert alone > config().flops_per_token * config().step_tokens
    for data, structure in ((3, 1), (1, 2)):
        found = gradient_flops(monkeypatch, handicap_data=data, handicap_structure=structure)
        assert found / alone == pytest.approx(data * structure, rel=0.02)


def test_the_step_without_a_handicap_is_the_program_it_was():
    """No input, no output and no operation more: neither traced weights nor the dead networks' norm."""
    static, state, data, traced = beginning(config())
    whole = jax.make_jaxpr(partial(step.train_steps, static))(state, data, traced, jnp.int32(1))
    inputs = len(jax.tree.leaves((state, data, traced))) + 1
    assert (len(whole.jaxpr.invars), len(whole.jaxpr.outvars)) == (inputs, len(jax.tree.leaves(state)) + 6)


def test_identities_without_a_handicap_are_those_from_before_there_were_any():
    """Hashes that the code before made; a factor of one is no part of an identity, another is."""
    ladder = models.ladder(16, context=32)
    assert run_id(RunConfig(ladder, 100_000, "x"), "x@1a2b3c4d", 1) == "5832f7d969dfdb39"
    moe = models.ladder(32, context=64, experts=4, experts_per_token=2)
    assert run_id(RunConfig(moe, 300_000, "x", seed=3, precision="bf16"), "x@1a2b3c4d", 2) == "19f80e5f6ab1307a"
    fields = RunConfig(ladder, 100_000, "x").as_dict()
    before = {name: value for name, value in fields.items() if not name.startswith("handicap")}
    assert RunConfig.from_dict(before) == RunConfig.from_dict(fields)
    found = {run_id(config(**handicap), "x@1a2b3c4d", 1) for handicap in ({}, *HANDICAPS)}
    assert len(found) == 1 + len(HANDICAPS)


def test_a_plan_pays_for_what_is_computed():
    """At one budget a follower's live network gets 1/m k of the FLOP; steps, batch and rate are those of the live tokens."""
    plan = {
        "ladder": {"widths": [16, 32, 48], "context": 32},
        "budgets": {"flops": [2e11], "sizes": 1, "tokens_per_param": 30},
        "arms": [
            {"name": "leader"},
            {"name": "data", "handicap_data": 3, "tokens_per_param": 90},
            {"name": "structure", "handicap_structure": 4, "tokens_per_param": 7.5},
        ],
        "runs": [{"arm": "listed", "width": 32, "flops": 2e11, "handicap_structure": 2}],
    }
    leader, data, structure, listed = read_plan(plan).jobs()
    for job, factor in ((leader, 1), (data, 3), (structure, 4), (listed, 2)):
        assert 0.99 < job.flops / 2e11 <= 1
        live = models.training_flops(job.config.model).training * job.config.tokens_trained / job.config.handicap_data
        assert live == pytest.approx(2e11 / factor, rel=0.01)
        tokens = job.config.tokens // job.config.handicap_data
        alone = RunConfig(job.config.model, tokens, arm=job.config.arm)
        assert (alone.steps, alone.batch, alone.learning_rate) == (job.config.steps, job.config.batch, job.config.learning_rate)
        nominal = job.config.tokens / (models.count_params(job.config.model).total * job.config.handicap_structure)
        aim = {"leader": 30, "data": 90, "structure": 7.5}.get(job.config.arm, nominal)
        assert abs(math.log(nominal / aim)) < math.log(3)
    with pytest.raises(InputError, match="no width leaves 300 steps"):
        read_plan(plan | {"arms": [{"name": "data", "handicap_data": 3000}]}).jobs()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"handicap_data": 0}, "handicap_data must be a positive whole number, got handicap_data = 0"),
        ({"handicap_structure": 1.5}, "handicap_structure"),
        ({"handicap_structure": 2, "teacher": "folder"}, "handicap_structure is for runs without a teacher"),
        ({"handicap_data": 40}, "tokens give 7 steps of 4 x 8 tokens times handicap_data = 40"),
    ],
)
def test_bad_handicaps_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(config(), **changes)


@pytest.mark.slow
@pytest.mark.parametrize("handicap", HANDICAPS, ids=str)
def test_a_whole_run_and_its_record(text_folder, tmp_path, handicap):
    """The live run's losses to the last bit, also after an interruption and beside other members; parameters, tokens and FLOP m, k and m k times."""
    data, structure = handicap.get("handicap_data", 1), handicap.get("handicap_structure", 1)
    shape = models.ladder(16, context=32)
    fields: dict[str, Any] = {"batch": 4, "micro_batch": 2, "validation_tokens": 8192}
    tokens = 32 * 4 * 300 + 50
    for seed in (0, 1):
        live = train(RunConfig(shape, tokens, str(text_folder), seed=seed, **fields))
        run = RunConfig(shape, tokens * data + data - 1, str(text_folder), seed=seed, **fields, **handicap)
        record = train(run, checkpoint=tmp_path / str(seed), checkpoint_every=100)
        assert (record.loss, record.loss_se, record.train_loss) == (live.loss, live.loss_se, live.train_loss)
        assert (record.steps, record.batch, record.learning_rate) == (live.steps, live.batch, live.learning_rate)
        assert (record.tokens, record.unique_tokens) == (live.tokens * data, live.unique_tokens * data)
        counts = ("params", "active_params", "non_embedding_params")
        assert [getattr(record, name) for name in counts] == [structure * getattr(live, name) for name in counts]
        costs = ("flops", "flops_causal", "flops_realised")
        assert [getattr(record, name) for name in costs] == [data * structure * getattr(live, name) for name in costs]
        (tmp_path / str(seed) / "300").rename(tmp_path / f"{seed}-300")
        again = train(run, checkpoint=tmp_path / str(seed), checkpoint_every=100)
        assert (again.loss, again.train_loss) == (live.loss, live.train_loss)
