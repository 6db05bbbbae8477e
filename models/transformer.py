"""The forward pass, top to bottom: embedding, blocks (attention, feed-forward), head.

Shape letters of the package: B batch, T time (query), S time (key), D model width, N heads, K key heads, H head width, G all heads
of a projection, F hidden width of the feed-forward, C its halves (2 where it is gated), V vocabulary, L layers, E experts, R rows
(tokens), M members of an ensemble. In routing, K counts experts per token.

All blocks are one stacked module: its parameters carry a leading L axis and one `lax.scan` runs them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from models import kernels as compiled
from models.accounting import REMAT
from models.attention import Attention
from models.collectives import GATHERED, joined, looked_up, parts, whole, whole_tree
from models.config import ConfigError, ModelConfig
from models.feedforward import MLP
from models.moe import MoE
from models.norms import norm
from models.parametrization import head_multiplier, new_weight, residual_multiplier
from models.precision import Precision, policy
from models.routing import RouterStats

UNROLLED_LAYERS = 8  # up to which blocks are unrolled by default: on a CPU a loop over blocks costs a fifth to a half of the speed


class Block(nnx.Module):
    """Pre-norm attention and feed-forward, each added to the stream with the parametrisation's residual multiplier."""

    def __init__(self, config: ModelConfig, precision: Precision, *, rngs: nnx.Rngs, kernels: bool = False):
        self.residual = residual_multiplier(config)
        self.attention_norm = norm(config, precision, rngs=rngs)
        self.attention = Attention(config, precision, rngs=rngs, kernels=kernels)
        self.ffn_norm = norm(config, precision, rngs=rngs)
        make_ffn = MoE if config.is_moe else MLP
        self.ffn = make_ffn(config, precision, rngs=rngs)

    def __call__(self, x_BTD: Array) -> tuple[Array, RouterStats | None]:
        x_BTD = x_BTD + self.residual * self.attention(self.attention_norm(x_BTD))
        normed_BTD = self.ffn_norm(x_BTD)
        y_BTD, stats = self.ffn(normed_BTD) if isinstance(self.ffn, MoE) else (self.ffn(normed_BTD), None)
        return x_BTD + self.residual * y_BTD, stats


class Transformer(nnx.Module):
    """A decoder-only language model: `logits_BTV = model(tokens_BT)`, float32 logits.

    `precision` names a policy of `models.precision`. `unroll` runs the blocks without a loop in the compiled program (by default
    up to UNROLLED_LAYERS; XLA's own FLOP count sees a loop body once). `remat` is one of REMAT. `kernels` asks for the compiled
    CPU kernels (`models.kernels`); ConfigError where there are none.
    """

    def __init__(
        self,
        config: ModelConfig,
        precision: str = "fp32",
        *,
        rngs: nnx.Rngs,
        unroll: bool | None = None,
        remat: str = "none",
        kernels: bool = False,
    ):
        if remat not in REMAT:
            raise ConfigError(f"remat must be one of {', '.join(REMAT)}, got {remat!r}")
        self.config, self.precision, self.remat = config, policy(precision), remat
        if unroll is None:  # unrolled, XLA's CPU backend frees next to nothing of what is computed again
            unroll = config.layers <= UNROLLED_LAYERS and remat == "none"
        self.unroll = unroll
        if kernels:
            check_kernels(config, self.precision)
        D, V = config.width, config.vocab_size
        self.embedding_VD = new_weight(rngs, (V, D), "embedding", 1, config, self.precision)
        if config.positions == "learned":
            self.position_TD = new_weight(rngs, (config.context, D), "position", 1, config, self.precision)

        keys_L = jax.random.split(rngs.params(), config.layers)
        self.blocks_L = jax.vmap(lambda key: Block(config, self.precision, rngs=nnx.Rngs(params=key), kernels=kernels))(keys_L)
        self.final_norm = norm(config, self.precision, rngs=rngs)
        if not config.tied:
            self.head_DV = new_weight(rngs, (D, V), "head", D, config, self.precision)

    def __call__(self, tokens_BT: Array) -> Array:
        return self.with_stats(tokens_BT)[0]

    def with_stats(self, tokens_BT: Array) -> tuple[Array, RouterStats | None]:
        """`(logits_BTV, stats)`; stats are per layer for an MoE model and None for a dense one."""
        T = tokens_BT.shape[1]
        if self.config.context < T:
            raise ValueError(f"{T} tokens in a row exceed the model's context of {self.config.context}")
        embedding_VD = whole("embedding_VD", self.embedding_VD[...])
        x_BTD = looked_up(embedding_VD, tokens_BT)
        if self.config.positions == "learned":
            x_BTD = x_BTD + whole("position_TD", self.position_TD[...])[None, :T]
        x_BTD, stats = self._blocks(x_BTD.astype(self.precision.compute))
        return self._logits(self.final_norm(x_BTD), embedding_VD), stats

    def _blocks(self, x_BTD: Array) -> tuple[Array, RouterStats | None]:
        graph, blocks = nnx.split(self.blocks_L)

        def block(x: Array, weights: nnx.State) -> tuple[Array, RouterStats | None]:
            return nnx.merge(graph, whole_tree(weights))(x)

        body = block
        if self.remat == "blocks":
            body = jax.checkpoint(block, prevent_cse=self.unroll)
        elif parts("fsdp") > 1:  # the backward pass brings the weights together again in place of keeping them
            keep = jax.checkpoint_policies.save_anything_except_these_names(GATHERED)
            body = jax.checkpoint(block, prevent_cse=self.unroll, policy=keep)
        return jax.lax.scan(body, x_BTD, blocks, unroll=self.config.layers if self.unroll else 1)

    def _logits(self, x_BTD: Array, embedding_VD: Array) -> Array:
        head_DV = embedding_VD.T if self.config.tied else whole("head_DV", self.head_DV[...])
        logits_BTV = joined(self.precision.head_product("BTD,DV->BTV", x_BTD, head_DV, out=jnp.float32)) * head_multiplier(self.config)
        if self.config.softcap:
            logits_BTV = self.config.softcap * jnp.tanh(logits_BTV / self.config.softcap)
        return logits_BTV


def check_kernels(config: ModelConfig, precision: Precision) -> None:
    """ConfigError where the compiled kernels are not to be had, or do not do what `config` asks for."""
    available, reason = compiled.status()
    if not available:
        raise ConfigError(f"kernels = true: {reason}")
    if precision.compute == jnp.float16 or precision.name == "tf32" or config.attention_softcap:
        raise ConfigError("kernels = true: the attention kernel knows neither fp16, tf32 nor attention_softcap; set kernels = false")
