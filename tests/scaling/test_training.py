"""One run: it learns, it is reproducible, an interruption leaves no trace, and bad requests are refused."""

from __future__ import annotations

import dataclasses
import math
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import models
from scaling import recipe, step
from scaling.data import corpus
from scaling.data.corpora import load_corpus
from scaling.devices import threads
from scaling.errors import InputError
from scaling.evaluation import standard_error
from scaling.run import RunConfig, run_id
from scaling.schedules import learning_rate
from scaling.training import hyper, sequence_order, train

SHAPE = models.ladder(16, context=32)


def config(text_folder, **more) -> RunConfig:
    fields: dict[str, Any] = {"model": SHAPE, "tokens": 32 * 2 * 320, "corpus": str(text_folder), "batch": 2, "validation_tokens": 8192}
    return RunConfig(**(fields | more))


@pytest.fixture(scope="module")
def record(text_folder):
    return train(config(text_folder))


def test_a_run_learns_and_its_record_is_right(record):
    assert record.status == "done"
    assert record.loss is not None
    assert record.loss_se is not None
    # Far better than a uniform guess over 256 bytes, and than the unigram entropy of source code (about 3.2 nats).
    assert record.loss < 3.1
    assert 0 < record.loss_se < 0.1
    assert record.train_loss[0] > record.train_loss[-1] + 1
    assert record.tokens == 32 * 2 * 320 == record.unique_tokens
    assert record.flops == models.training_flops(SHAPE).training * record.tokens
    assert record.params == models.count_params(SHAPE).total
    assert record.bits_per_byte == pytest.approx(record.loss / math.log(2), rel=1e-12)
    assert record.bits_per_byte_se == pytest.approx(record.loss_se / math.log(2), rel=1e-9)


def test_the_same_run_twice_gives_the_same_bits(record, text_folder):
    again = train(config(text_folder))
    assert again.loss == record.loss
    assert again.train_loss == record.train_loss
    assert again.run_id == record.run_id


def test_a_corpus_too_large_for_the_device_gives_the_same_bits(record, text_folder, monkeypatch):
    """Of such a corpus the run gets the sequences that it reads, in rows, not the stream they stand in."""
    monkeypatch.setattr(corpus, "RESIDENT_BYTES", 0)
    rows = train(config(text_folder))
    assert (rows.run_id, rows.loss, rows.train_loss) == (record.run_id, record.loss, record.train_loss)


def test_resume_equals_uninterrupted_bit_for_bit(record, text_folder, tmp_path):
    class KilledError(Exception):
        pass

    def kill(done, steps):
        if done >= 200:
            raise KilledError

    with pytest.raises(KilledError):
        train(config(text_folder), checkpoint=tmp_path / "run", checkpoint_every=50, progress=kill)
    seen = []
    resumed = train(config(text_folder), checkpoint=tmp_path / "run", checkpoint_every=50, progress=lambda done, steps: seen.append(done))
    assert min(seen) > 150  # it did not start again
    assert resumed.loss == record.loss
    assert resumed.train_loss == record.train_loss


def test_a_checkpoint_of_another_run_is_refused(text_folder, tmp_path):
    train(config(text_folder), checkpoint=tmp_path / "run", checkpoint_every=300)
    with pytest.raises(InputError, match="belongs to another run"):
        train(config(text_folder, seed=1), checkpoint=tmp_path / "run")


def test_a_checkpoint_is_not_carried_on_with_other_text(text_folder, tmp_path):
    folder = tmp_path / "text"
    shutil.copytree(text_folder, folder)
    train(config(folder), checkpoint=tmp_path / "run", checkpoint_every=300)
    next(folder.rglob("*.py")).write_text("# another text\n" * 1000)
    with pytest.raises(InputError, match="belongs to another run"):
        train(config(folder), checkpoint=tmp_path / "run")


def test_validation_loss_is_on_the_validation_stream(record, text_folder, monkeypatch):
    """Byte 7 is in no source file: a validation split of nothing else is far harder than the training text."""
    corpus_class = type(load_corpus(str(text_folder)))
    monkeypatch.setattr(corpus_class, "validation", lambda self: np.full(50_000, 7, np.uint8))
    strange = train(config(text_folder)).loss
    assert strange is not None
    assert strange > record.loss + 1


def test_standard_error_knows_that_neighbours_err_together():
    generator = np.random.default_rng(0)
    text_effect = np.repeat(generator.normal(0, 1, 200), 8)
    losses = text_effect + generator.normal(0, 0.3, 1600)
    naive = losses.std() / 40
    found = standard_error(losses, np.arange(1600) * 1024)
    assert found == pytest.approx(np.sqrt((1 + 0.3**2 / 8) / 200), rel=0.15)
    assert found > 2.5 * naive


def test_micro_batches_add_up(text_folder):
    """A step over 4 sequences is the same update whether they go through together or one by one."""
    losses = [train(config(text_folder, tokens=32 * 4 * 300, batch=4, micro_batch=rows, precision="fp32")).train_loss[0] for rows in (4, 1)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)


def test_moe_and_bf16_train(text_folder):
    shape = models.ladder(16, context=32, experts=4, experts_per_token=2)
    record = train(config(text_folder, model=shape, precision="bf16", arm="moe"))
    assert record.status == "done"
    assert record.loss is not None
    assert record.loss < 3.1
    assert record.expert_load_max is not None
    assert 1 <= record.expert_load_max < 4
    assert record.active_params < record.params


def test_a_diverged_run_is_a_record(text_folder):
    record = train(config(text_folder, learning_rate=1e30))
    assert (record.status, record.loss) == ("diverged", None)
    assert "not finite" in record.reason


def test_shorter_runs_see_a_prefix_and_seeds_see_other_orders(text_folder):
    text = load_corpus(str(text_folder))
    order = sequence_order(config(text_folder), text, 0)
    assert sorted(order) == list(range(order.size))
    np.testing.assert_array_equal(order, sequence_order(config(text_folder), text, 0))
    assert (order != sequence_order(config(text_folder), text, 1)).mean() > 0.99


def test_unique_tokens_leaves_a_run_the_first_sequences_to_repeat(record, text_folder, monkeypatch):
    """Equal to a run on the whole corpus until they begin again; the same where the corpus is cut into rows; no other run where nothing repeats."""
    few = config(text_folder, unique_tokens=32 * 2 * 200 + 5)
    np.testing.assert_array_equal(
        sequence_order(few, load_corpus(str(text_folder)), 0), sequence_order(config(text_folder), load_corpus(str(text_folder)), 0)[:400]
    )
    repeated = train(few)
    assert (repeated.unique_tokens, repeated.tokens) == (32 * 2 * 200, record.tokens)
    assert repeated.train_loss[:12] == record.train_loss[:12]
    assert repeated.train_loss[-1] != record.train_loss[-1]
    monkeypatch.setattr(corpus, "RESIDENT_BYTES", 0)
    assert train(few).loss == repeated.loss
    assert config(text_folder, unique_tokens=32 * 2 * 320) == config(text_folder)
    with pytest.raises(InputError, match=r"unique_tokens = 10000000, but the training split"):
        train(config(text_folder, tokens=2 * 10**7, batch=64, unique_tokens=10**7))
    with pytest.raises(InputError, match="must hold a sequence"):
        config(text_folder, unique_tokens=8)


def test_a_field_added_later_leaves_runs_that_do_without_it_their_identity():
    known = run_id(RunConfig(SHAPE, 10**5, "text", learning_rate=0.01), "text@00000000", 1)
    assert known == "68ce9643cd0a32c9"
    assert known != run_id(RunConfig(SHAPE, 10**5, "text", learning_rate=0.01, unique_tokens=10**4), "text@00000000", 1)


def test_identity_depends_on_everything_but_the_label(text_folder):
    base = config(text_folder)
    ids = {run_id(base, "c@1", 1), run_id(base, "c@2", 1), run_id(base, "c@1", 2), run_id(dataclasses.replace(base, seed=1), "c@1", 1)}
    assert len(ids) == 4
    for label in ({"arm": "other"}, {"emulate": True}):
        assert run_id(dataclasses.replace(base, **label), "c@1", 1) == run_id(base, "c@1", 1)
    assert RunConfig.from_dict(base.as_dict()) == base


@pytest.mark.parametrize("schedule", ["wsd", "cosine"])
def test_schedule_warms_up_holds_or_falls_and_ends_low(schedule, text_folder):
    run = hyper(config(text_folder, learning_rate=0.01, tokens=32 * 2 * 1000))
    rates = np.array([learning_rate(schedule, run, jnp.int32(i)) for i in (0, 49, 99, 400, 699, 850, 999)])
    assert rates[0] == pytest.approx(1e-4, rel=1e-3)
    assert rates[1] == pytest.approx(5e-3, rel=1e-3)
    assert rates[2] == pytest.approx(1e-2, rel=1e-3)
    if schedule == "wsd":
        np.testing.assert_allclose(rates[3:5], 1e-2, rtol=1e-3)
        np.testing.assert_allclose(rates[5:], [0.01 * 0.149 / 0.3, 0], atol=2e-5)
    else:
        assert (np.diff(rates[2:]) < 0).all()
        assert rates[-1] == pytest.approx(1e-3, rel=1e-2)


def test_thread_count_is_that_of_the_workers(monkeypatch):
    monkeypatch.setenv("NPROC", "1")
    assert threads() == 1
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    assert threads() == 1


@pytest.mark.slow
def test_training_pushes_the_router_towards_balance():
    """A small step down the training loss, its balance term made large, lowers the balance loss of every layer."""
    shape = models.ladder(32, context=32, experts=4, experts_per_token=1)
    static = step.Static(shape, "fp32", 8, "wsd")
    state = step.initialise(static, jnp.int32(0))
    data = step.Data(jax.random.randint(jax.random.key(0), (8 * 32 + 1,), 0, 256).astype(jnp.uint8), jnp.arange(8, dtype=jnp.int32))
    run = hyper(RunConfig(shape, 10**6, balance_loss=1e3))
    graph = nnx.graphdef(step.new_model(static, 0))

    def balance(params) -> float:
        _, stats = nnx.merge(graph, params, state.router).with_stats(data.stream[:-1].astype(jnp.int32).reshape(8, 32))
        return float(jnp.mean(stats.balance_loss))

    gradient, _ = jax.grad(step._objective, has_aux=True)(state.params, state.router, static, data, run, jnp.float32(1), data.order)
    size = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradient)))
    moved = jax.tree.map(lambda weight, slope: weight - 0.1 * slope / size, state.params, gradient)
    assert balance(state.params) > 1.0
    assert balance(moved) < balance(state.params)


def test_batch_grows_with_the_horizon_and_leaves_enough_steps():
    sizes = [recipe.batch_sequences(tokens, 128) for tokens in (40_000, 300_000, 1_200_000, 5_000_000, 20_000_000)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[-1] >= 8
    for tokens in (38_400, 50_000, 10**6, 10**9):
        assert tokens // (recipe.batch_sequences(tokens, 128) * 128) >= recipe.MIN_STEPS


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"tokens": 100, "batch": None}, "too few"),
        ({"tokens": 32 * 2 * 100}, "steps"),
        ({"schedule": "linear"}, "wsd, cosine"),
        ({"warmup": 0.9, "decay": 0.9}, "must not exceed 1"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"batch": 3, "micro_batch": 2, "tokens": 10**6}, "not a multiple"),
        ({"tokens": 10**9}, "set epochs ="),
        ({"model": models.ladder(16, context=32, vocab_size=100)}, "smaller than the 256 symbols"),
    ],
)
def test_impossible_runs_are_refused(text_folder, fields, says):
    with pytest.raises(InputError, match=says):
        train(config(text_folder, **fields))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"checkpoint_every": 0}, "checkpoint_every must be a positive whole number of steps, got 0"),
        ({"checkpoint_every": -5}, "got -5"),
        ({"checkpoint_every": 2.5}, "got 2.5"),
        ({"devices": 2.0}, "devices = 2.0"),
        ({"devices": 0}, "devices = 0"),
    ],
)
def test_options_that_are_no_counts_are_refused(text_folder, tmp_path, options, says):
    with pytest.raises(InputError, match=says):
        train(config(text_folder), checkpoint=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_checkpoints_need_a_folder(text_folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match="is not a folder") as caught:
            train(config(text_folder), checkpoint=place)
        assert str(place) in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
def test_one_compilation_serves_all_learning_rates_and_batches(text_folder):
    jax.clear_caches()
    compiled: Any = step.train_steps
    before = compiled._cache_size()
    static = step.Static(SHAPE, "fp32", 2, "wsd")
    text = load_corpus(str(text_folder))
    data = step.Data(jnp.asarray(text.train()), jnp.asarray(sequence_order(config(text_folder), text, 0)))
    for rate, batch in ((1e-3, 2), (1e-2, 6)):
        run = hyper(config(text_folder, learning_rate=rate, batch=batch, tokens=10**6))
        compiled(static, step.initialise(static, jnp.int32(0)), data, run, jnp.int32(2))
    assert compiled._cache_size() == before + 1
