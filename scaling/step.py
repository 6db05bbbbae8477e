"""The compiled part of training: many optimiser steps in one call, and the validation loss.

Everything here is a pure function of arrays. One compilation serves every learning rate, horizon, seed and batch of a shape:
they are traced numbers, and a step runs as many micro-batches as its batch holds.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from models.config import ModelConfig
from models.parametrization import leaf_rule
from models.transformer import Transformer

STEPS_PER_CALL = 64
ADAM_B1, ADAM_B2, ADAM_EPS = 0.9, 0.95, 1e-10
CLIP_NORM = 1.0

Params = Any  # the nnx.State of a Transformer


@dataclasses.dataclass(frozen=True)
class Static:
    """What a compilation depends on."""

    model: ModelConfig
    precision: str
    micro_batch: int
    schedule: str


class Hyper(NamedTuple):
    """What a run chooses without a new compilation. float32 and int32 scalars."""

    peak: Array
    steps: Array
    warmup: Array
    decay: Array
    weight_decay: Array
    balance_loss: Array
    micro_batches: Array  # per step


class TrainState(NamedTuple):
    params: Params
    moments: optax.OptState
    step: Array


class Data(NamedTuple):
    """The training stream and the order in which its sequences are seen; sequence i starts at order[i] * context."""

    stream: Array
    order: Array


def new_model(model: ModelConfig, precision: str, seed: int | Array) -> Transformer:
    """A fresh Transformer with its blocks unrolled: few layers run faster so, on a CPU by about half."""
    return Transformer(model, precision, rngs=nnx.Rngs(params=jax.random.key(seed)), unroll=True)


@partial(jax.jit, static_argnums=0)
def initialise(static: Static, seed: Array) -> TrainState:
    """The state before the first step."""
    params = nnx.state(new_model(static.model, static.precision, seed), nnx.Param)
    return TrainState(params, _adam().init(params), jnp.zeros((), jnp.int32))


def _adam() -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(CLIP_NORM), optax.scale_by_adam(ADAM_B1, ADAM_B2, ADAM_EPS))


def learning_rate(schedule: str, hyper: Hyper, step: Array) -> Array:
    """The rate of a step: linear warm-up, then `wsd` (constant, linear to zero over the last `decay`) or `cosine` (to 10%)."""
    progress = (step.astype(jnp.float32) + 1) / hyper.steps.astype(jnp.float32)
    warm = jnp.minimum(1.0, progress / jnp.maximum(hyper.warmup, 1e-9))
    if schedule == "wsd":
        fall = jnp.minimum(1.0, (1 - progress) / jnp.maximum(hyper.decay, 1e-9))
    else:
        after = jnp.clip((progress - hyper.warmup) / jnp.maximum(1 - hyper.warmup, 1e-9), 0.0, 1.0)
        fall = 0.55 + 0.45 * jnp.cos(jnp.pi * after)
    return hyper.peak * warm * jnp.maximum(fall, 0.0)


def apply_update(params: Params, direction: Params, rate: Array, weight_decay: Array, width: int) -> Params:
    """AdamW with the parametrisation's multipliers: w - rate * lr_multiplier * (direction + decay * decay_multiplier * w)."""

    def leaf(weight: nnx.Variable, update: nnx.Variable) -> nnx.Variable:
        rule = leaf_rule(weight.get_metadata("kind"), weight.get_metadata("fan_in"), width)
        value, delta = weight.get_value(), update.get_value()
        return weight.replace(value - rate * rule.learning_rate * (delta + weight_decay * rule.decay * value))

    return jax.tree.map(leaf, params, direction, is_leaf=lambda x: isinstance(x, nnx.Variable))


def cross_entropy(logits_BTV: Array, targets_BT: Array) -> Array:
    """Nats per token, float32, shape BT."""
    picked_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BTV, axis=-1) - picked_BT


def _sequences(stream: Array, index_B: Array, context: int) -> tuple[Array, Array]:
    """Inputs and targets, int32 BT, of the sequences that start at index * context."""
    window = jax.vmap(lambda i: jax.lax.dynamic_slice(stream, (i * context,), (context + 1,)))(index_B).astype(jnp.int32)
    return window[:, :-1], window[:, 1:]


def _loss(params: Params, graph: nnx.GraphDef, inputs_BT: Array, targets_BT: Array, balance: Array) -> tuple[Array, tuple[Array, Array]]:
    logits_BTV, stats = nnx.merge(graph, params).with_stats(inputs_BT)
    loss = jnp.mean(cross_entropy(logits_BTV, targets_BT))
    if stats is None:
        return loss, (loss, jnp.ones(()))
    load_max = jnp.max(stats.load_E) * stats.load_E.shape[-1]
    return loss + balance * jnp.mean(stats.balance_loss), (loss, load_max)


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_steps(static: Static, state: TrainState, data: Data, hyper: Hyper, count: Array) -> tuple[TrainState, Array]:
    """`count` (at most STEPS_PER_CALL) optimiser steps; returns the state and metrics (STEPS_PER_CALL, 2): loss, expert load.

    Rows of metrics beyond `count` are zero.
    """
    graph = nnx.graphdef(jax.eval_shape(lambda: new_model(static.model, static.precision, 0)))
    gradient = jax.grad(_loss, has_aux=True)
    adam, rows = _adam(), static.micro_batch

    def micro_batch(j: Array, carry: tuple[Params, Array], params: Params, first: Array) -> tuple[Params, Array]:
        total, metrics = carry
        seen = (first + j * rows + jnp.arange(rows)) % data.order.shape[0]
        inputs_BT, targets_BT = _sequences(data.stream, data.order[seen], static.model.context)
        part, aux = gradient(params, graph, inputs_BT, targets_BT, hyper.balance_loss)
        return jax.tree.map(jnp.add, total, part), metrics + jnp.stack(aux)

    def step(i: Array, carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
        state, metrics = carry
        first = state.step * hyper.micro_batches * rows
        start = (jax.tree.map(jnp.zeros_like, state.params), jnp.zeros((2,)))
        body = partial(micro_batch, params=state.params, first=first)
        total, sums = jax.lax.fori_loop(0, hyper.micro_batches, body, start)
        mean = jax.tree.map(lambda g: g / hyper.micro_batches, total)
        direction, moments = adam.update(mean, state.moments)
        rate = learning_rate(static.schedule, hyper, state.step)
        params = apply_update(state.params, direction, rate, hyper.weight_decay, static.model.width)
        return TrainState(params, moments, state.step + 1), metrics.at[i].set(sums / hyper.micro_batches)

    return jax.lax.fori_loop(0, count, step, (state, jnp.zeros((STEPS_PER_CALL, 2))))


@partial(jax.jit, static_argnums=0)
def validation_losses(static: Static, params: Params, stream: Array, index_GB: Array) -> Array:
    """Nats per token of every validation sequence in `index_GB`, averaged over its tokens; groups are run one after another."""
    graph = nnx.graphdef(jax.eval_shape(lambda: new_model(static.model, static.precision, 0)))
    model = nnx.merge(graph, params)

    def group(index_B: Array) -> Array:
        inputs_BT, targets_BT = _sequences(stream, index_B, static.model.context)
        return jnp.mean(cross_entropy(model(inputs_BT), targets_BT), axis=-1)

    return jax.lax.map(group, index_GB)
