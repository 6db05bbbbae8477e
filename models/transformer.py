"""The forward pass, top to bottom: embedding, blocks (attention, feed-forward), head.

Shape letters of the package: B batch, T time (query), S time (key), D model width, N heads, H head width, F hidden width of
the feed-forward, V vocabulary, L layers, E experts, K experts per token.

All blocks are one stacked module: its parameters carry a leading L axis and one `lax.scan` runs them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from models.config import ModelConfig
from models.moe import MoE, RouterStats
from models.parametrization import new_weight, residual_multiplier
from models.precision import Precision, policy


class RMSNorm(nnx.Module):
    """x / rms(x) * gain over the last axis, in float32, returned in the dtype of x (Zhang & Sennrich 2019)."""

    def __init__(self, size: int, config: ModelConfig, precision: Precision, *, rngs: nnx.Rngs):
        self.gain = new_weight(rngs, (size,), "gain", 1, config, precision)

    def __call__(self, x: Array) -> Array:
        x32 = x.astype(jnp.float32)
        scale = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + 1e-6)
        gain = self.gain[...]
        return (x32 * scale * gain.reshape((1,) * (x.ndim - 1) + gain.shape)).astype(x.dtype)


def rope(x_BTNH: Array, base: float) -> Array:
    """Rotary position embedding (Su et al. 2021): pairs (i, i + H/2) turn by t * base^(-2i/H), computed in float32."""
    half = x_BTNH.shape[-1] // 2
    freq_H = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle_TH = jnp.arange(x_BTNH.shape[1], dtype=jnp.float32)[:, None] * freq_H[None, :]
    cos, sin = jnp.cos(angle_TH)[None, :, None, :], jnp.sin(angle_TH)[None, :, None, :]
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BTNH.dtype)


class Attention(nnx.Module):
    """Causal multi-head attention with RoPE and QK-norm (RMS-normalised queries and keys, Henry et al. 2020)."""

    def __init__(self, config: ModelConfig, precision: Precision, *, rngs: nnx.Rngs):
        D, N, H = config.width, config.heads, config.head_width
        self.config, self.precision = config, precision
        self.qkv_D3NH = new_weight(rngs, (D, 3, N, H), "hidden", D, config, precision)
        self.out_NHD = new_weight(rngs, (N, H, D), "hidden", N * H, config, precision)
        self.query_norm = RMSNorm(H, config, precision, rngs=rngs)
        self.key_norm = RMSNorm(H, config, precision, rngs=rngs)

    def __call__(self, x_BTD: Array) -> Array:
        cast = self.precision.compute
        qkv = jnp.einsum("BTD,DCNH->CBTNH", x_BTD, self.qkv_D3NH[...].astype(cast))
        q_BTNH = rope(self.query_norm(qkv[0]), self.config.rope_base)
        k_BSNH = rope(self.key_norm(qkv[1]), self.config.rope_base)
        T, H = x_BTD.shape[1], self.config.head_width
        scores_BNTS = jnp.einsum("BTNH,BSNH->BNTS", q_BTNH, k_BSNH, preferred_element_type=jnp.float32)
        causal_TS = jnp.tril(jnp.ones((T, T), bool))[None, None]
        scores_BNTS = jnp.where(causal_TS, scores_BNTS * H**-0.5, -jnp.inf)
        probs_BNTS = jax.nn.softmax(scores_BNTS, axis=-1).astype(cast)
        mixed_BTNH = jnp.einsum("BNTS,BSNH->BTNH", probs_BNTS, qkv[2])
        return jnp.einsum("BTNH,NHD->BTD", mixed_BTNH, self.out_NHD[...].astype(cast))


class GatedMLP(nnx.Module):
    """SwiGLU feed-forward (Shazeer 2020): silu(x W_gate) * (x W_up), then W_down."""

    def __init__(self, config: ModelConfig, precision: Precision, *, rngs: nnx.Rngs):
        D, F = config.width, config.ffn_width
        self.precision = precision
        self.up_D2F = new_weight(rngs, (D, 2, F), "hidden", D, config, precision)
        self.down_FD = new_weight(rngs, (F, D), "hidden", F, config, precision)

    def __call__(self, x_BTD: Array) -> Array:
        cast = self.precision.compute
        gate_up = jnp.einsum("BTD,DCF->CBTF", x_BTD, self.up_D2F[...].astype(cast))
        return jnp.einsum("BTF,FD->BTD", jax.nn.silu(gate_up[0]) * gate_up[1], self.down_FD[...].astype(cast))


class Block(nnx.Module):
    """Pre-norm attention and feed-forward, each added to the stream with the parametrisation's residual multiplier."""

    def __init__(self, config: ModelConfig, precision: Precision, *, rngs: nnx.Rngs):
        self.residual = residual_multiplier(config)
        self.attention_norm = RMSNorm(config.width, config, precision, rngs=rngs)
        self.attention = Attention(config, precision, rngs=rngs)
        self.ffn_norm = RMSNorm(config.width, config, precision, rngs=rngs)
        make_ffn = MoE if config.is_moe else GatedMLP
        self.ffn = make_ffn(config, precision, rngs=rngs)

    def __call__(self, x_BTD: Array) -> tuple[Array, RouterStats | None]:
        x_BTD = x_BTD + self.residual * self.attention(self.attention_norm(x_BTD))
        normed_BTD = self.ffn_norm(x_BTD)
        y_BTD, stats = self.ffn(normed_BTD) if isinstance(self.ffn, MoE) else (self.ffn(normed_BTD), None)
        return x_BTD + self.residual * y_BTD, stats


class Transformer(nnx.Module):
    """A decoder-only language model: `logits_BTV = model(tokens_BT)`, float32 logits, untied head.

    `precision` names a policy of `models.precision`. `unroll=True` runs the blocks without a loop in the compiled program
    (XLA's own FLOP count sees a loop body once).
    """

    def __init__(self, config: ModelConfig, precision: str = "fp32", *, rngs: nnx.Rngs, unroll: bool = False):
        self.config, self.precision, self.unroll = config, policy(precision), unroll
        D, V = config.width, config.vocab_size
        self.embedding_VD = new_weight(rngs, (V, D), "embedding", 1, config, self.precision)

        keys_L = jax.random.split(rngs.params(), config.layers)
        self.blocks_L = jax.vmap(lambda key: Block(config, self.precision, rngs=nnx.Rngs(params=key)))(keys_L)
        self.final_norm = RMSNorm(D, config, self.precision, rngs=rngs)
        self.head_DV = new_weight(rngs, (D, V), "head", D, config, self.precision)

    def __call__(self, tokens_BT: Array) -> Array:
        return self.with_stats(tokens_BT)[0]

    def with_stats(self, tokens_BT: Array) -> tuple[Array, RouterStats | None]:
        """`(logits_BTV, stats)`; stats are per layer for an MoE model and None for a dense one."""
        if tokens_BT.shape[1] > self.config.context:
            raise ValueError(f"{tokens_BT.shape[1]} tokens in a row exceed the model's context of {self.config.context}")
        x_BTD = self.embedding_VD[...][tokens_BT].astype(self.precision.compute)
        graph, blocks = nnx.split(self.blocks_L)
        x_BTD, stats = jax.lax.scan(
            lambda x, block: nnx.merge(graph, block)(x), x_BTD, blocks, unroll=self.config.layers if self.unroll else 1
        )
        x_BTD = self.final_norm(x_BTD)
        head_DV = self.head_DV[...].astype(self.precision.compute)
        return jnp.einsum("BTD,DV->BTV", x_BTD, head_DV, preferred_element_type=jnp.float32), stats
