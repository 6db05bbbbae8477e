"""A finished run's model: saved and read back to the bit, learnt from by a student, and rounded to fewer bits."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import models
from models.config import ConfigError
from scaling import step
from scaling.data.corpora import load_corpus
from scaling.errors import InputError
from scaling.finished import check_save, evaluate, load_model, save_model, static_of
from scaling.run import RunConfig, RunRecord
from scaling.training import identity, prepare, train

SHAPE = models.ladder(16, context=32)


def config(text_folder="python-source", **more) -> RunConfig:
    fields: dict[str, Any] = {"model": SHAPE, "tokens": 32 * 2 * 320, "corpus": str(text_folder), "batch": 2, "validation_tokens": 8192}
    return RunConfig(**(fields | more))


@pytest.fixture(scope="module")
def teacher(text_folder, tmp_path_factory) -> tuple[Path, RunRecord]:
    """The folder of a trained model, and its record."""
    folder = tmp_path_factory.mktemp("teacher") / "model"
    with jax.numpy_rank_promotion("raise"):  # as in the tests, which then share what is compiled here
        return folder, train(config(text_folder), save=folder)


@pytest.fixture(scope="module")
def student(teacher, text_folder, tmp_path_factory) -> tuple[Path, RunRecord]:
    """Another start and another order of the text, and nothing but the teacher to learn from."""
    folder = tmp_path_factory.mktemp("student") / "model"
    with jax.numpy_rank_promotion("raise"):
        return folder, train(config(text_folder, seed=1, teacher=str(teacher[0]), distill_weight=1.0), save=folder)


def leave(folder: Path, own: RunConfig, record: RunRecord, **labels) -> Path:
    """A model of zeros, whose prediction is uniform, in the name of a run of `own`."""
    plain = static_of(dataclasses.replace(own, kernels=False))
    start = jax.eval_shape(lambda: step.initialise(plain, jnp.int32(0)))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), start)
    save_model(folder, zeros, dataclasses.replace(record, config=own.as_dict(), **labels))
    return folder


@partial(jax.jit, static_argnums=0)
def apply(static: step.Static, params: Any, router: Any, tokens_BT: jax.Array) -> jax.Array:
    graph = nnx.graphdef(jax.eval_shape(lambda: step.new_model(static, 0)))
    return nnx.merge(graph, params, router)(tokens_BT)


def logits(folder: Path, text_folder) -> np.ndarray:
    """Of a saved model of SHAPE, on the first 2048 validation tokens."""
    finished = load_model(folder)
    tokens_BT = jnp.asarray(load_corpus(str(text_folder)).validation()[:2048].astype(np.int32).reshape(-1, 32))
    return np.asarray(apply(static_of(config()), finished.params, finished.router, tokens_BT), np.float64)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def divergence(taught: np.ndarray, own: np.ndarray) -> float:
    """KL(teacher || student) from logits, nats per token."""
    wanted, found = log_softmax(taught), log_softmax(own)
    return float((np.exp(wanted) * (wanted - found)).sum(axis=-1).mean())


def test_a_saved_model_has_the_loss_of_its_record_bit_for_bit(teacher):
    folder, record = teacher
    assert evaluate(folder) == {"loss": record.loss, "loss_se": record.loss_se}
    finished = load_model(folder)
    assert finished.record == record.as_dict()
    assert finished.config == RunConfig.from_dict(record.config)
    assert len(load_corpus(finished.record["corpus"]).validation()) > 2 * 8192
    assert evaluate(folder, tokens=16384)["loss"] != record.loss
    assert evaluate(folder, corpus=record.corpus)["loss"] == record.loss


def test_a_later_run_takes_the_folder_over(teacher, text_folder, tmp_path):
    record = teacher[1]
    check_save(teacher[0])
    leave(tmp_path / "model", config(text_folder), record, run_id="first")
    leave(tmp_path / "model", config(text_folder), record, run_id="second")
    assert load_model(tmp_path / "model").record["run_id"] == "second"


def test_a_folder_of_other_things_is_neither_trained_for_nor_touched(text_folder, tmp_path, monkeypatch):
    def prepared(*_: Any) -> None:
        raise AssertionError("training has begun")

    monkeypatch.setattr("scaling.training.prepare", prepared)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    for folder, says in (
        (tmp_path / "file", "is not a folder"),
        (tmp_path / "file" / "model", "is not a folder"),
        (tmp_path / "full", "they would be deleted, choose a new folder"),
    ):
        with pytest.raises(InputError, match=says) as caught:
            train(config(text_folder), save=folder)
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)
    for save, checkpoint in (("a", "a"), ("a", "a/b"), ("a/b", "a")):
        with pytest.raises(InputError, match="two that lie apart"):
            train(config(text_folder), save=tmp_path / save, checkpoint=tmp_path / checkpoint)
    assert (tmp_path / "file").read_text() == (tmp_path / "full" / "notes.txt").read_text() == "mine"
    for folder in (tmp_path / "empty", tmp_path / "new" / "model", tmp_path / "full" / "model"):
        with pytest.raises(AssertionError, match="training has begun"):
            train(config(text_folder), save=folder)


def test_a_model_is_judged_on_its_own_corpus_though_the_files_have_changed(teacher, text_folder, tmp_path):
    shutil.copytree(text_folder, tmp_path / "text")
    own = config(tmp_path / "text")
    folder = leave(tmp_path / "model", own, teacher[1], corpus=load_corpus(own.corpus).id)
    before = evaluate(folder)
    next((tmp_path / "text").rglob("*.py")).write_text("# another text\n" * 1000)
    assert evaluate(folder) == before
    assert before["loss"] == pytest.approx(np.log(256), rel=1e-6)


# Distillation.


@pytest.fixture(scope="module")
def pair() -> tuple[jax.Array, jax.Array]:
    """Logits of a student and a teacher, shape (2, 3, 7)."""
    first, second = jax.random.split(jax.random.key(0))
    return jax.random.normal(first, (2, 3, 7)), 2 * jax.random.normal(second, (2, 3, 7))


distillation_loss = jax.jit(step.distillation_loss)
slopes = jax.jit(jax.grad(step.distillation_loss, argnums=(0, 1)))


def gradient(own: jax.Array, taught: jax.Array, temperature: float) -> np.ndarray:
    """Of the distillation loss by the student's logits, for the sum over tokens."""
    return np.asarray(own[..., 0].size * slopes(own, taught, jnp.float32(temperature))[0])


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_loss_is_the_divergence_of_softened_distributions(pair, temperature):
    own, taught = pair
    found = float(distillation_loss(own, taught, jnp.float32(temperature)))
    assert found == pytest.approx(temperature**2 * divergence(np.asarray(taught) / temperature, np.asarray(own) / temperature), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_a_student_that_equals_its_teacher_learns_nothing_more(pair, temperature):
    _, taught = pair
    for own in (taught, taught + 3.0):  # a softmax does not see a constant
        assert float(distillation_loss(own, taught, jnp.float32(temperature))) == pytest.approx(0, abs=1e-6)
        np.testing.assert_allclose(gradient(own, taught, temperature), 0, atol=1e-6)
    assert np.abs(gradient(pair[0], taught, temperature)).max() > 0.1


def test_no_gradient_reaches_the_teacher(pair):
    np.testing.assert_array_equal(slopes(*pair, jnp.float32(2.0))[1], 0)


def test_temperature_squared_keeps_the_size_of_the_gradient(pair):
    """Hinton et al. 2015, equation 4: at high temperature the gradient is (student - teacher) / V for logits of zero mean."""
    own, taught = (z - jnp.mean(z, axis=-1, keepdims=True) for z in pair)
    np.testing.assert_allclose(gradient(own, taught, 300.0), np.asarray(own - taught) / 7, rtol=0.02, atol=2e-3)


def test_a_student_becomes_like_its_teacher(teacher, student, text_folder, tmp_path):
    """It is closer to the teacher than a run that had the same start, order and number of tokens, but the text to learn from."""
    folder, record = student
    alone = train(config(text_folder, seed=1), save=tmp_path / "alone")
    taught, own, other = (logits(path, text_folder) for path in (teacher[0], folder, tmp_path / "alone"))
    assert divergence(taught, own) < 0.5 * divergence(taught, other)
    assert divergence(taught, own) < 0.05 * divergence(taught, np.zeros_like(own))
    assert record.loss == pytest.approx(teacher[1].loss, abs=0.05)
    assert record.run_id != alone.run_id


def test_with_weight_one_the_text_teaches_nothing(teacher, text_folder, tmp_path):
    """From a teacher that guesses uniformly a student learns to guess uniformly."""
    uniform = leave(tmp_path / "uniform", config(text_folder), teacher[1])
    record = train(config(text_folder, teacher=str(uniform), distill_weight=1.0))
    assert record.loss == pytest.approx(np.log(256), abs=1e-4)


def test_with_weight_zero_the_teacher_teaches_nothing(teacher, text_folder):
    folder, record = teacher
    own = train(config(text_folder, teacher=str(folder), distill_weight=0.0))
    assert own.loss == record.loss
    assert own.train_loss == record.train_loss
    assert own.run_id != record.run_id


teach = jax.jit(step._teacher_logits, static_argnums=0)


@pytest.mark.parametrize(("own", "taught"), [("w4", "fp32"), ("fp32", "w4")])
def test_a_teacher_speaks_in_its_own_number_format(teacher, text_folder, own, taught):
    """Whatever the student's: its logits are to the bit those that it has by itself."""
    finished, speaker = load_model(teacher[0]), config(text_folder, precision=taught)
    stream = jnp.asarray(load_corpus(str(text_folder)).validation()[:256])
    inputs_BT = stream.astype(jnp.int32).reshape(-1, 32)
    text = step.Data(stream, jnp.arange(2), (finished.params, finished.router))
    found = teach(static_of(config(text_folder, precision=own), teacher=speaker), text, inputs_BT)
    np.testing.assert_array_equal(found, apply(static_of(speaker), finished.params, finished.router, inputs_BT))
    other = apply(static_of(config(text_folder, precision=own)), finished.params, finished.router, inputs_BT)
    assert np.abs(np.asarray(found - other)).max() > 0.01


def test_the_cost_of_the_teacher_is_in_the_record(teacher, student, text_folder, tmp_path):
    record, taught = student[1], teacher[1]
    assert record.teacher == taught.run_id
    assert record.teacher_training_flops == taught.flops == models.training_flops(SHAPE).training * taught.tokens
    assert record.teacher_forward_flops == models.training_flops(SHAPE).forward * record.tokens
    assert record.flops == taught.flops  # the student's own
    # A larger teacher, made for longer contexts, reads what the student reads.
    larger = models.ladder(32, context=64)
    folder = leave(tmp_path / "larger", config(text_folder, model=larger, batch=1), taught, flops=12345.0)
    found = identity(prepare(config(text_folder, teacher=str(folder))))
    assert found["teacher_training_flops"] == 12345.0
    assert found["teacher_forward_flops"] == models.training_flops(larger, 32).forward * found["tokens"]
    assert found["teacher_forward_flops"] < models.training_flops(larger).forward * found["tokens"]


def test_teachers_that_cannot_teach_are_refused_in_one_line(teacher, text_folder, tmp_path):
    taught = teacher[1]
    (tmp_path / "file").write_text("no model")
    (tmp_path / "empty").mkdir()
    words = leave(tmp_path / "words", config(text_folder, model=models.ladder(16, context=32, vocab_size=300)), taught)
    other = leave(tmp_path / "other", config(text_folder), taught, corpus="prose@0a1b2c3d")
    short = leave(tmp_path / "short", config(text_folder, model=models.ladder(16, context=16)), taught)
    lost = leave(tmp_path / "lost", config(text_folder), taught, status="diverged", reason="the loss was not finite at step 3", loss=None)
    old = tmp_path / "old"
    save_model(
        old,
        step.initialise(static_of(config(text_folder)), jnp.int32(0)),
        dataclasses.replace(taught, config={"colour": 1} | taught.config),
    )
    for folder, says in (
        (tmp_path / "nowhere", "not the folder of a finished run"),
        (tmp_path / "file", "not the folder of a finished run"),
        (tmp_path / "empty", "not the folder of a finished run"),
        (words, "vocab_size = 300 differs from the student's 256"),
        (other, f"was trained on corpus prose@0a1b2c3d, but the student's is {taught.corpus}"),
        (short, "context = 16 is shorter than the student's 32"),
        (lost, "diverged .the loss was not finite at step 3.; it left no trained model"),
        (old, "made by another version of isoloss"),
    ):
        with pytest.raises(InputError, match=says) as caught:
            train(config(text_folder, teacher=str(folder)))
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)


# Post-training quantisation.


def test_fewer_bits_of_the_weights_cost_more_loss(teacher):
    folder, record = teacher
    excess = {bits: evaluate(folder, f"w{bits}", weights_only=True)["loss"] - record.loss for bits in (12, 8, 6, 4, 3)}
    assert abs(excess[12]) < 1e-4
    assert abs(excess[8]) < 2e-3
    assert max(abs(excess[8]), 1e-4) < excess[4] < excess[3]
    assert abs(excess[6]) < excess[4]
    assert excess[3] > 0.02


def test_rounded_weights_are_what_the_format_multiplies(teacher):
    """A format of the weights alone is the same as the rounded weights in float32."""
    folder, record = teacher
    found = evaluate(folder, "w4")
    assert found["loss"] == pytest.approx(evaluate(folder, "w4", weights_only=True)["loss"], abs=1e-5)
    assert found["loss"] != record.loss


def test_rounding_activations_too_costs_more(teacher):
    folder, _ = teacher
    assert evaluate(folder, "w3a3c3")["loss"] > evaluate(folder, "w3", weights_only=True)["loss"] + 0.01


def test_a_format_that_is_not_known_is_refused(teacher):
    with pytest.raises(InputError, match="precision 'w99'"):
        evaluate(teacher[0], "w99")


def test_a_model_trained_with_kernels_is_read_where_there_are_none(teacher, text_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ISOLOSS_KERNELS", "off")
    folder = leave(tmp_path / "model", config(text_folder, kernels=True), teacher[1])
    assert load_model(folder).config.kernels
    assert evaluate(folder, "w4")["loss"] == pytest.approx(np.log(256), rel=1e-6)
    with pytest.raises(ConfigError, match="switched off"):
        evaluate(folder)


@pytest.mark.parametrize("tokens", [-5, 0, 1.5, True, "many"])
def test_a_number_of_tokens_that_is_none_is_refused(teacher, tokens):
    with pytest.raises(InputError, match="tokens must be a positive whole number"):
        evaluate(teacher[0], tokens=tokens)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "excess"), [("w8a8c8", 0.01), ("bf16", 0.01), ("int8", 0.02), ("fp8", 0.05)])
def test_formats_of_eight_bits_and_more_cost_little(teacher, precision, excess):
    folder, record = teacher
    assert 0 < abs(evaluate(folder, precision)["loss"] - record.loss) < excess


@pytest.mark.slow
def test_a_model_saved_on_one_device_teaches_on_two(teacher, text_folder, tmp_path):
    """And what was trained on two devices is read on one."""
    script = f"""
        from scaling.devices import one_device_per_core
        assert one_device_per_core(2) == 2
        import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_finished import config
        from scaling.finished import evaluate
        from scaling.training import train
        own = config({str(text_folder)!r}, batch=4, tokens=32 * 4 * 320, teacher={str(teacher[0])!r})
        record = train(own, save={str(tmp_path / "two")!r})
        assert record.devices == 2
        assert evaluate({str(tmp_path / "two")!r})["loss"] == record.loss
        print(record.loss)
    """
    answer = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert evaluate(tmp_path / "two")["loss"] == pytest.approx(float(answer.stdout), abs=1e-5)
