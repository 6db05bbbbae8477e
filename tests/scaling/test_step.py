"""One optimiser step against values by hand: what the objective is made of, how selection biases and the float16 loss scale move."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import models
from scaling import step
from scaling.run import RunConfig
from scaling.step import GROWTH_STEPS, LARGEST_SCALE, SMALLEST_SCALE, LossScale
from scaling.training import hyper

SHAPE: dict[str, Any] = {"layers": 1, "width": 16, "heads": 2, "context": 8, "vocab_size": 32}
MOE: dict[str, Any] = SHAPE | {"experts": 4, "experts_per_token": 2, "dispatch": "dense"}  # the dispatch that compiles soonest
ROWS = 4

next_scale = jax.jit(step._next_scale)


def scale(factor: float, since: int = 0, skipped: int = 0) -> LossScale:
    return LossScale(jnp.float32(factor), jnp.int32(since), jnp.int32(skipped))


@pytest.mark.parametrize(
    ("before", "finite", "after"),
    [
        (scale(1024, 7, 2), True, (1024, 8, 2)),
        (scale(1024, 7, 2), False, (512, 0, 3)),
        (scale(1024, GROWTH_STEPS - 2, 0), True, (1024, GROWTH_STEPS - 1, 0)),
        (scale(1024, GROWTH_STEPS - 1, 4), True, (2048, 0, 4)),
        (scale(1024, GROWTH_STEPS - 1, 4), False, (512, 0, 5)),
        (scale(LARGEST_SCALE, GROWTH_STEPS - 1, 0), True, (LARGEST_SCALE, 0, 0)),
        (scale(SMALLEST_SCALE, 3, 0), False, (SMALLEST_SCALE, 0, 1)),
    ],
)
def test_the_loss_scale_halves_after_an_overflow_and_grows_after_a_while(before, finite, after):
    found = next_scale(before, jnp.bool_(finite))
    assert tuple(float(part) for part in found) == after


@partial(jax.jit, static_argnums=0)
def updated(static: step.Static, state: step.TrainState, run: step.Hyper, gradients: Any, loss: jax.Array) -> step.TrainState:
    routers = jnp.zeros((static.model.layers, 0)), jnp.zeros((0,)), jnp.zeros((0,))
    return step._update(static, state, run, gradients, loss, routers)[0]


def moved(before: step.TrainState, after: step.TrainState) -> bool:
    return any((old != new).any() for old, new in zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True))


def test_an_overflow_in_float16_is_skipped_until_the_scale_is_at_its_least():
    """A gradient that is not finite moves nothing but the scale; at the least scale it ends the run, and then nothing moves at all."""
    static = step.Static(models.ModelConfig(**SHAPE), "fp16", 1, "wsd")
    run = hyper(RunConfig(static.model, 10**6))
    state = step.initialise(static, jnp.int32(0))
    assert float(state.scale.factor) == LARGEST_SCALE
    fine = jax.tree.map(jnp.ones_like, state.params)
    overflow = jax.tree.map(lambda weight: jnp.full_like(weight, jnp.inf), state.params)

    skipped = updated(static, state, run, overflow, jnp.float32(1))
    assert [float(part) for part in skipped.scale] == [LARGEST_SCALE / 2, 0, 1]
    assert (int(skipped.step), int(skipped.diverged_at)) == (1, -1)
    assert not moved(state, skipped)
    after = updated(static, skipped, run, fine, jnp.float32(1))
    assert [float(part) for part in after.scale] == [LARGEST_SCALE / 2, 1, 1]
    assert moved(skipped, after)

    least = after._replace(scale=scale(SMALLEST_SCALE, 5, 1))
    lost = updated(static, least, run, overflow, jnp.float32(1))
    assert int(lost.diverged_at) == int(lost.step) == 2
    for gradients in (overflow, fine):
        frozen = updated(static, lost, run, gradients, jnp.float32(1))
        assert [float(part) for part in frozen.scale] == [SMALLEST_SCALE, 5, 1]
        assert (int(frozen.diverged_at), int(frozen.step)) == (2, 2)
        assert not moved(least, frozen)


def test_a_scaled_gradient_moves_the_weights_as_a_plain_one():
    static = step.Static(models.ModelConfig(**SHAPE), "fp16", 1, "wsd")
    run = hyper(RunConfig(static.model, 10**6))
    state = step.initialise(static, jnp.int32(0))
    plain = jax.tree.map(lambda weight: 0.01 * weight, state.params)
    scaled = jax.tree.map(lambda gradient: LARGEST_SCALE * gradient, plain)
    ours, theirs = (
        updated(static, state, run, scaled, jnp.float32(1)),
        updated(static, state._replace(scale=scale(1)), run, plain, jnp.float32(1)),
    )
    assert moved(state, ours)
    for one, other in zip(jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def data() -> step.Data:
    generator = np.random.default_rng(0)
    # Half of it is one symbol, so that loads are uneven.
    stream = np.minimum(generator.geometric(0.5, ROWS * SHAPE["context"] + 1), 31).astype(np.uint8)
    return step.Data(jnp.asarray(stream), jnp.arange(ROWS, dtype=jnp.int32))


@pytest.mark.parametrize(
    ("balance", "weights"),
    [
        pytest.param("switch", {}, marks=pytest.mark.slow),
        pytest.param("switch", {"z_loss": 0.5}, marks=pytest.mark.slow),
        pytest.param("switch", {"balance_loss": 0.25}, marks=pytest.mark.slow),
        ("switch", {"z_loss": 0.5, "balance_loss": 0.25}),
        ("bias", {"z_loss": 0.5}),
    ],
)
def test_the_objective_is_the_loss_and_the_routers_terms(balance, weights):
    """Cross-entropy and terms from the model's own logits and statistics, summed by hand in float64, times the loss scale."""
    static = step.Static(models.ModelConfig(**MOE, balance=balance), "fp32", ROWS, "wsd")
    state, text = step.initialise(static, jnp.int32(0)), data()
    run = hyper(RunConfig(static.model, 10**6))._replace(balance_loss=jnp.float32(0), z_loss=jnp.float32(0))
    run = run._replace(**{name: jnp.float32(weight) for name, weight in weights.items()})
    total, (loss, _) = objective(state.params, state.router, static, text, run, jnp.float32(8), text.order)
    logits, stats = logits_and_stats(static, state, text)
    targets = np.asarray(text.stream[1:])
    shifted = logits - logits.max(axis=-1, keepdims=True)
    nats = np.log(np.exp(shifted).sum(axis=-1)) - np.take_along_axis(shifted, targets[:, None].astype(int), axis=-1)[:, 0]
    z, even = np.mean(np.asarray(stats.z_loss, np.float64)), np.mean(np.asarray(stats.balance_loss, np.float64))
    assert min(z, even) > 0.5
    assert float(loss) == pytest.approx(nats.mean(), rel=1e-5)
    wanted = nats.mean() + weights.get("z_loss", 0) * z + weights.get("balance_loss", 0) * even
    assert float(total) == pytest.approx(8 * wanted, rel=1e-5)


objective = jax.jit(step._objective, static_argnums=2)


@partial(jax.jit, static_argnums=0)
def forward(static: step.Static, params: Any, router: Any, inputs_BT: jax.Array) -> Any:
    return nnx.merge(step._graph(static), params, router).with_stats(inputs_BT)


def logits_and_stats(static: step.Static, state: step.TrainState, text: step.Data) -> tuple[np.ndarray, Any]:
    inputs_BT = text.stream[:-1].astype(jnp.int32).reshape(ROWS, -1)
    logits, stats = forward(static, state.params, state.router, inputs_BT)
    return np.asarray(logits, np.float64).reshape(-1, logits.shape[-1]), stats


def test_selection_biases_move_against_the_load_of_the_whole_step():
    """Up where an expert had less than its even share over all micro-batches, down where it had more: a rate at a time."""
    static = step.Static(models.ModelConfig(**MOE, balance="bias"), "fp32", 1, "wsd")  # micro-batches of one sequence
    run = hyper(RunConfig(static.model, 10**6, batch=ROWS, micro_batch=1, bias_rate=0.25))
    state = step.initialise(static, jnp.int32(0))
    before = [np.asarray(bias) for bias in jax.tree.leaves(state.router)]
    assert len(jax.tree.leaves(state.router)) == 1
    options: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}  # it compiles in half the time
    compiled = step.train_steps.lower(static, state, data(), run, jnp.int32(1)).compile(compiler_options=options)
    after, metrics = compiled(state, data(), run, jnp.int32(1))
    (bias,) = [np.asarray(leaf) for leaf in jax.tree.leaves(after.router)]
    load_LE = np.asarray(metrics.load_LE)[0]
    assert (load_LE != 0.25).sum() > 2
    np.testing.assert_allclose(load_LE.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(bias, before[0] + 0.25 * np.sign(0.25 - load_LE))
