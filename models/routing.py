"""Which experts a token visits, with what weights, and what keeps their load even.

Everything here is float32, whatever the model computes in: small differences of logits decide which experts are chosen.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from models.config import ModelConfig


class RouterBias(nnx.Variable):
    """Selection bias of each expert: state that no gradient reaches, so not an `nnx.Param`. Moved by `updated_bias`."""


class Routing(NamedTuple):
    """For every row (token) the K experts it visits, first choice first, and their float32 weights."""

    experts_RK: Array
    weights_RK: Array


class RouterStats(NamedTuple):
    """What a router did with one batch; float32 scalars, and `load_E`.

    `balance_loss`: Switch loss, 1 when balanced. `z_loss`: mean squared logsumexp of the logits. `load_E`: each expert's share of
    the R K choices, before drops; sums to one. `entropy`: mean over rows of the entropy of the expert probabilities, nats.
    `dropped`: share of the choices that the dispatch left out.
    """

    balance_loss: Array
    z_loss: Array
    load_E: Array
    entropy: Array
    dropped: Array


def route(x_RD: Array, router_DE: Array, config: ModelConfig, bias_E: Array | None = None) -> tuple[Routing, RouterStats]:
    """Each row's `experts_per_token` best experts of its scores plus `bias_E`, and the statistics (`dropped` is 0 here).

    Scores are a softmax over the experts or a sigmoid for each (`config.router`). The weights are the chosen scores without the bias,
    divided by their sum. With one expert per token that would be 1 and the router would learn nothing, so there the weight is
    the score itself (Fedus et al. 2021, arXiv 2101.03961, eq. 2).
    """
    logits_RE = jnp.matmul(x_RD.astype(jnp.float32), router_DE.astype(jnp.float32), precision="highest")
    total_R = jax.nn.logsumexp(logits_RE, axis=-1)
    log_scores_RE = logits_RE - total_R[:, None] if config.router == "softmax" else jax.nn.log_sigmoid(logits_RE)
    scores_RE = jnp.exp(log_scores_RE)
    selection_RE = jax.lax.stop_gradient(scores_RE)
    if bias_E is not None:
        selection_RE = selection_RE + bias_E.astype(jnp.float32)[None]
    experts_RK = jax.lax.top_k(selection_RE, config.experts_per_token)[1]
    weights_RK = jnp.take_along_axis(scores_RE, experts_RK, axis=-1)
    if config.experts_per_token > 1:
        weights_RK = weights_RK / jnp.sum(weights_RK, axis=-1, keepdims=True)
    load_E = expert_load(experts_RK, config.experts)
    score_R = jnp.sum(scores_RE, axis=-1)
    probs_RE = scores_RE / score_R[:, None]
    return Routing(experts_RK, weights_RK), RouterStats(
        balance_loss=balance_loss(probs_RE, load_E),
        z_loss=z_loss(total_R),
        load_E=load_E,
        entropy=jnp.mean(jnp.log(score_R) - jnp.sum(probs_RE * log_scores_RE, axis=-1)),
        dropped=jnp.zeros((), jnp.float32),
    )


def expert_load(experts_RK: Array, experts: int) -> Array:
    """Each expert's share of all choices, float32, shape E."""
    return jnp.bincount(experts_RK.reshape(-1), length=experts).astype(jnp.float32) / experts_RK.size


def balance_loss(probs_RE: Array, load_E: Array) -> Array:
    """Switch loss E * sum_e f_e p_e (Fedus et al. 2021, arXiv 2101.03961, eq. 4): 1 when balanced, E when one expert gets all.

    f is the share of the K R choices and sums to one, so that the balanced value is 1 for every K; where f counts choices per
    row instead, all values are K times these. p is the mean probability; a sigmoid router's scores are divided by their sum.
    """
    return load_E.shape[0] * jnp.sum(jax.lax.stop_gradient(load_E) * jnp.mean(probs_RE, axis=0))


def z_loss(total_R: Array) -> Array:
    """Mean square of each row's logsumexp of logits, which keeps logits small (ST-MoE, Zoph et al. 2022, arXiv 2202.08906, eq. 5)."""
    return jnp.mean(jnp.square(total_R))


def updated_bias(bias_E: Array, load_E: Array, rate: float | Array) -> Array:
    """`bias + rate * sign(mean load - load)`: an overloaded expert is chosen less in the next step, an idle one more.

    Balancing without an auxiliary loss (Wang et al. 2024, arXiv 2408.15664, algorithm 1; DeepSeek-V3, arXiv 2412.19437, section
    2.1.2). `load_E` must be of the whole batch, over all devices and micro-batches. Stays float32: bfloat16 loses steps of 1e-3.
    Leading axes (layers) are kept. The sources use sigmoid scores and a rate of 1e-3; softmax scores of many experts are
    near 1/E, so that the same rate moves them more.
    """
    load_E = load_E.astype(jnp.float32)
    return bias_E.astype(jnp.float32) + rate * jnp.sign(jnp.mean(load_E, axis=-1, keepdims=True) - load_E)
