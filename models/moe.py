"""Mixture-of-experts feed-forward: a float32 top-k router and two dispatches that give the same answer.

`dense` computes every expert for every token: the oracle of the tests. `dropless` sorts the chosen (token, expert) pairs by
expert, pads each expert's share to whole blocks of rows and multiplies block by block (the idea of MegaBlocks, Gale et al.
2022, arXiv 2211.15841, in plain array operations): no token is dropped, and the work is that of the chosen experts plus the
padding, where `jax.lax.ragged_dot` does every expert's work for every row on a CPU.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from models.config import ModelConfig
from models.parametrization import new_weight
from models.precision import Precision

BLOCK_ROWS = 32  # rows per expert block: padding costs fewer than (E + 1) * BLOCK_ROWS rows a call


class RouterStats(NamedTuple):
    """What a router did with one batch: the Switch balance loss (1 when balanced) and each expert's share of the load."""

    balance_loss: Array
    load_E: Array


class Routing(NamedTuple):
    """For every row (token) its experts and their weights, which sum to one."""

    experts_RK: Array
    weights_RK: Array


class MoE(nnx.Module):
    """`experts` gated MLPs of which each token visits `experts_per_token`: `y_BTD, stats = moe(x_BTD)`."""

    def __init__(self, config: ModelConfig, precision: Precision, *, rngs: nnx.Rngs, dispatch: str = "dropless"):
        D, F, E = config.width, config.expert_width, config.experts
        self.config, self.precision, self.dispatch = config, precision, dispatch
        self.router_DE = new_weight(rngs, (D, E), "hidden", D, config, precision)
        self.up_ED2F = new_weight(rngs, (E, D, 2, F), "hidden", D, config, precision)
        self.down_EFD = new_weight(rngs, (E, F, D), "hidden", F, config, precision)

    def __call__(self, x_BTD: Array) -> tuple[Array, RouterStats]:
        x_RD = x_BTD.reshape(-1, x_BTD.shape[-1])
        routing, stats = route(x_RD, self.router_DE[...], self.config.experts_per_token)
        cast = self.precision.compute
        dispatch = {"dense": dense_dispatch, "dropless": dropless_dispatch}[self.dispatch]
        y_RD = dispatch(x_RD, routing, self.up_ED2F[...].astype(cast), self.down_EFD[...].astype(cast))
        return y_RD.reshape(x_BTD.shape), stats


def route(x_RD: Array, router_DE: Array, k: int) -> tuple[Routing, RouterStats]:
    """Top-k of a float32 softmax router, weights renormalised over the chosen; Switch balance loss (Fedus et al. 2021, eq. 4).

    The loss is E * sum_e f_e p_e with f_e the share of the K choices that fell on expert e, so that balance gives 1.
    """
    logits_RE = x_RD.astype(jnp.float32) @ router_DE.astype(jnp.float32)
    probs_RE = jax.nn.softmax(logits_RE, axis=-1)
    weights_RK, experts_RK = jax.lax.top_k(probs_RE, k)
    weights_RK = weights_RK / jnp.sum(weights_RK, axis=-1, keepdims=True)
    E = router_DE.shape[1]
    load_E = jnp.mean(jax.nn.one_hot(experts_RK, E, dtype=jnp.float32), axis=(0, 1))
    balance = E * jnp.sum(jax.lax.stop_gradient(load_E) * jnp.mean(probs_RE, axis=0))
    return Routing(experts_RK, weights_RK), RouterStats(balance, load_E)


def _gated(x: Array, up: Array, down: Array) -> Array:
    """Batched SwiGLU: (G, R, D), (G, D, 2, F), (G, F, D) -> (G, R, D)."""
    gate_up = jnp.einsum("GRD,GDCF->CGRF", x, up)
    return jnp.einsum("GRF,GFD->GRD", jax.nn.silu(gate_up[0]) * gate_up[1], down)


def dense_dispatch(x_RD: Array, routing: Routing, up_ED2F: Array, down_EFD: Array) -> Array:
    """Every expert on every row, masked: E / K times the work, and the meaning of the layer in two lines."""
    E = up_ED2F.shape[0]
    y_ERD = _gated(jnp.broadcast_to(x_RD[None], (E, *x_RD.shape)), up_ED2F, down_EFD)
    gates_RE = jnp.einsum("RK,RKE->RE", routing.weights_RK, jax.nn.one_hot(routing.experts_RK, E, dtype=jnp.float32))
    return jnp.einsum("RE,ERD->RD", gates_RE.astype(x_RD.dtype), y_ERD)


def dropless_dispatch(x_RD: Array, routing: Routing, up_ED2F: Array, down_EFD: Array) -> Array:
    """Only the chosen experts: sort choices by expert, pad shares to whole blocks, one small product a block."""
    R, K = routing.experts_RK.shape
    E, rows = up_ED2F.shape[0], BLOCK_ROWS
    expert_P = routing.experts_RK.reshape(-1)  # P = R * K (token, expert) pairs
    blocks = -(-R * K // rows) + E  # enough for any split: every expert wastes less than one block
    counts_E = jnp.bincount(expert_P, length=E)
    blocks_E = -(-counts_E // rows)
    first_block_E = jnp.cumsum(blocks_E) - blocks_E
    first_pair_E = jnp.cumsum(counts_E) - counts_E
    order_P = jnp.argsort(expert_P, stable=True)
    sorted_expert_P = expert_P[order_P]
    slot_P = first_block_E[sorted_expert_P] * rows + jnp.arange(R * K) - first_pair_E[sorted_expert_P]

    # Slots without a pair read the extra row of zeros, so padding costs time and never changes a sum.
    source_S = jnp.full((blocks * rows,), R).at[slot_P].set(order_P // K)
    padded_RD = jnp.concatenate([x_RD, jnp.zeros((1, x_RD.shape[1]), x_RD.dtype)])
    expert_of_block_G = jnp.clip(jnp.searchsorted(jnp.cumsum(blocks_E), jnp.arange(blocks), side="right"), 0, E - 1)
    x_GRD = padded_RD[source_S].reshape(blocks, rows, -1)
    y_SD = _gated(x_GRD, up_ED2F[expert_of_block_G], down_EFD[expert_of_block_G]).reshape(blocks * rows, -1)

    slot_of_pair_RK = jnp.zeros((R * K,), slot_P.dtype).at[order_P].set(slot_P).reshape(R, K)
    return jnp.einsum("RK,RKD->RD", routing.weights_RK.astype(x_RD.dtype), y_SD[slot_of_pair_RK])
