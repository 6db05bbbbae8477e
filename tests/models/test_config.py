"""Configurations take values of the kinds that their fields name, and no others: whatever is given, it is a shape or one line of refusal."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from models import ConfigError, ModelConfig, ladder
from models.sharding import Layout
from scaling.errors import InputError
from scaling.run import RunConfig

DENSE: dict[str, Any] = {"layers": 1, "width": 16, "heads": 2, "context": 16}
MOE = DENSE | {"experts": 4, "experts_per_token": 2}
RUN: dict[str, Any] = {"model": ModelConfig(**DENSE), "tokens": 16 * 2 * 320, "batch": 2}
MODEL_FIELDS = [field.name for field in dataclasses.fields(ModelConfig)]
RUN_FIELDS = [field.name for field in dataclasses.fields(RunConfig)]


def model(base: dict[str, Any], more: dict[str, Any]) -> ModelConfig:
    return ModelConfig(**(base | more))


def run(more: dict[str, Any]) -> RunConfig:
    return RunConfig(**(RUN | more))


def refused(make: Any, error: type[Exception], name: str) -> str:
    with pytest.raises(error) as caught:
        make()
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", MODEL_FIELDS)
@pytest.mark.parametrize("base", [DENSE, MOE], ids=["dense", "moe"])
def test_values_of_another_kind_are_no_shape(base, name):
    """None of these is a whole or a finite number, a word or a truth value that any field takes."""
    for strange in (2.5, "16", "no", ["rms"], {}, float("inf"), float("nan"), 1j, b"rope"):
        if not (isinstance(strange, float) and strange == 2.5 and name in ("rope_base", "softcap", "attention_softcap", "capacity_factor")):
            refused(lambda given=strange: model(base, {name: given}), ConfigError, name)
    if name not in ("tied", "qk_norm"):
        refused(lambda: model(base, {name: True}), ConfigError, name)


@pytest.mark.parametrize("name", RUN_FIELDS)
def test_values_of_another_kind_are_no_run(name):
    for strange in (["rms"], {}, float("inf"), float("nan"), 1j, b"fp32"):
        refused(lambda given=strange: run({name: given}), InputError, name)
    if name not in ("corpus", "arm", "teacher"):
        refused(lambda: run({name: "x"}), ValueError, name)
    if name not in ("emulate", "kernels"):
        refused(lambda: run({name: True}), InputError, name)
    if name in ("seed", "tokens", "batch", "micro_batch", "epochs", "validation_tokens"):
        refused(lambda: run({name: 2.0}), InputError, name)


@pytest.mark.parametrize("name", ["model", "tokens", "corpus", "precision", "seed", "arm", "micro_batch", "remat", "kernels"])
def test_what_has_to_be_given_is_not_none(name):
    refused(lambda: run({name: None}), InputError, name)


def test_numbers_of_numpy_are_plain_numbers():
    """So that a configuration is written as JSON, and is the same run however its numbers were made."""
    numpy = model({name: np.int64(size) for name, size in DENSE.items()}, {"rope_base": np.float32(100)})
    plain = ModelConfig(**DENSE, rope_base=100)
    runs = [run({"model": shape, "learning_rate": rate}) for shape, rate in ((numpy, np.float64(1)), (plain, 1))]
    assert len({json.dumps(run.as_dict()) for run in runs}) == 1


@pytest.mark.parametrize(
    ("width", "overrides", "says"),
    [
        ("32", {}, "multiples of 16, got '32'"),
        (32.0, {}, "multiples of 16, got 32.0"),
        (True, {}, "multiples of 16"),
        (20, {}, "multiples of 16"),
        (32, {"colour": 1}, "a model has no colour"),
        (32, {"context": "x"}, "context must be a whole number, got 'x'"),
        (32, {"layers": None}, "layers must be a whole number"),
    ],
)
def test_the_ladder_refuses_what_is_no_rung(width: Any, overrides: dict[str, Any], says: str):
    assert says in refused(lambda: ladder(width, **overrides), ConfigError, "")


@pytest.mark.parametrize("strange", [True, 2.0, "2", 0])
def test_a_layout_counts_devices(strange):
    refused(lambda: Layout(data=strange), ConfigError, "data must be a whole number of devices")


@pytest.mark.parametrize(
    ("base", "more", "says"),
    [
        (DENSE, {"router": "sigmoid"}, "router = 'sigmoid' needs experts > 0"),
        (DENSE, {"dispatch": "capacity"}, "dispatch = 'capacity' needs experts > 0"),
        (DENSE, {"balance": "none"}, "balance = 'none' needs experts > 0"),
        (DENSE, {"capacity_factor": -1}, "capacity_factor = -1.0 needs experts > 0"),
        (MOE, {"capacity_factor": 2.0}, "capacity_factor = 2.0 needs dispatch = 'capacity'"),
        (MOE, {"capacity_factor": -1, "dispatch": "capacity"}, "capacity_factor must be positive"),
    ],
)
def test_a_model_is_not_told_what_it_would_not_heed(base, more, says):
    assert says in refused(lambda: model(base, more), ConfigError, "")


BIAS = model(MOE, {"balance": "bias"})
SWITCH = model(MOE, {})


@pytest.mark.parametrize(
    ("more", "needs"),
    [
        ({"z_loss": 0.5}, "experts"),
        ({"balance_loss": 0.5}, "experts"),
        ({"bias_rate": 0.3}, "experts"),
        ({"model": BIAS, "balance_loss": 0.5}, 'balance = "switch"'),
        ({"model": SWITCH, "bias_rate": 0.3}, 'balance = "bias"'),
        ({"schedule": "cosine", "decay": 0.5}, 'schedule = "wsd"'),
        ({"distill_weight": 0.9}, "a teacher"),
        ({"temperature": 5.0}, "a teacher"),
    ],
)
def test_a_run_is_not_told_what_it_would_not_heed(more, needs):
    """It would be another run by its identity, and the same by what it computes."""
    name = list(more)[-1]
    assert f"{name} changes nothing without {needs}, got {name} = {more[name]}" in refused(lambda: run(more), InputError, name)
    assert getattr(run(more | {name: getattr(RunConfig, name)}), name) == getattr(RunConfig, name)


def test_what_is_heeded_is_taken():
    for more in (
        {"model": SWITCH, "z_loss": 0.5, "balance_loss": 0.5},
        {"model": BIAS, "z_loss": 0.5, "bias_rate": 0.3},
        {"schedule": "wsd", "decay": 0.5},
        {"schedule": "cosine", "warmup": 0.95},  # no decay that it could overlap with
        {"teacher": "folder", "distill_weight": 0.9, "temperature": 5.0},
    ):
        run(more)
