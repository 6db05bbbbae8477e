"""Causal self-attention: projections, rotary positions, and the softmax average over the past.

Queries have N heads of width H, keys and values K heads (grouped-query attention where K < N: head n reads key head n K / N).
The average is written head by head over (T, H) matrices: products of one head stay in the cache, and XLA multiplies
matrices whose batch axes lead several times faster than others.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from models.collectives import added, own_heads
from models.config import ModelConfig
from models.kernels.attention import causal_attention
from models.norms import RMSNorm
from models.parametrization import new_weight
from models.precision import Precision


class Attention(nnx.Module):
    """`y_BTD = attention(x_BTD)`: causal, with RoPE and QK-norm (RMS-normalised queries and keys, Henry et al. 2020) as configured.

    The projections of queries, keys and values are one product: `qkv_DGH` with G = N + 2 K heads. `kernels` asks for the compiled kernel in
    place of the plain average.
    """

    def __init__(self, config: ModelConfig, precision: Precision, *, rngs: nnx.Rngs, kernels: bool = False):
        D, N, K, H = config.width, config.heads, config.key_heads, config.head_width
        self.config, self.precision, self.kernels = config, precision, kernels
        self.qkv_DGH = new_weight(rngs, (D, N + 2 * K, H), "hidden", D, config, precision, inputs=(-3,), outputs=(-2, -1), parts=(N, K, K))
        self.out_NHD = new_weight(rngs, (N, H, D), "hidden", N * H, config, precision, inputs=(-3, -2))
        if config.qk_norm:
            self.query_norm = RMSNorm(H, config, precision, rngs=rngs)
            self.key_norm = RMSNorm(H, config, precision, rngs=rngs)

    def __call__(self, x_BTD: Array) -> Array:
        H, (qkv_DGH, N, K) = self.config.head_width, own_heads(self.qkv_DGH[...], self.config.heads, self.config.key_heads)
        qkv_BTGH = self.precision.product("BTD,DGH->BTGH", x_BTD, qkv_DGH)
        q_BTNH, k_BTKH, v_BTKH = jnp.split(qkv_BTGH, [N, N + K], axis=2)
        if self.config.qk_norm:
            q_BTNH, k_BTKH = self.query_norm(q_BTNH), self.key_norm(k_BTKH)
        if self.config.positions == "rope":
            q_BTNH, k_BTKH = rope(q_BTNH, self.config.rope_base), rope(k_BTKH, self.config.rope_base)
        k_BTKH, v_BTKH = self.precision.cache(k_BTKH), self.precision.cache(v_BTKH)
        if self.kernels:
            mixed_BTNH = causal_attention(q_BTNH, k_BTKH, v_BTKH, H**-0.5)
        else:
            heads_first = (x.swapaxes(1, 2) for x in (q_BTNH, k_BTKH, v_BTKH))
            mixed_BTNH = attend(*heads_first, self.precision, self.config.attention_softcap).swapaxes(1, 2)
        return added(self.precision.product("BTNH,NHD->BTD", mixed_BTNH, self.out_NHD[...]))


def attend(q_BNTH: Array, k_BKSH: Array, v_BKSH: Array, precision: Precision, softcap: float = 0.0) -> Array:
    """Causal softmax attention, (B, N, T, H) in the dtype of q; scores and their softmax are float32, T = S."""
    B, N, T, H = q_BNTH.shape
    K = k_BKSH.shape[1]
    q_BKGTH = q_BNTH.reshape(B, K, N // K, T, H)  # G query heads a key head
    scores_BKGTS = precision.head_product("BKGTH,BKSH->BKGTS", q_BKGTH, k_BKSH, out=jnp.float32) * H**-0.5
    if softcap:
        scores_BKGTS = softcap * jnp.tanh(scores_BKGTS / softcap)
    causal_TS = jnp.arange(T)[:, None] >= jnp.arange(T)[None, :]
    scores_BKGTS = jnp.where(causal_TS[None, None, None], scores_BKGTS, -1e30)
    # The softmax is divided out after the product: T x H divisions in place of T x T.
    peak = jax.lax.stop_gradient(jnp.max(scores_BKGTS, axis=-1, keepdims=True))
    odds_BKGTS = jnp.exp(scores_BKGTS - peak)
    total_BKGT1 = jnp.sum(odds_BKGTS, axis=-1, keepdims=True)
    mixed = precision.head_product("BKGTS,BKSH->BKGTH", odds_BKGTS, v_BKSH, out=jnp.float32)
    return (mixed / total_BKGT1).astype(q_BNTH.dtype).reshape(B, N, T, H)


def rope(x_BTNH: Array, base: float) -> Array:
    """Rotary position embedding (Su et al. 2021): pairs (i, i + H/2) turn by t * base^(-2i/H), computed in float32."""
    half = x_BTNH.shape[-1] // 2
    freq_H = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle_TH = jnp.arange(x_BTNH.shape[1], dtype=jnp.float32)[:, None] * freq_H[None, :]
    cos, sin = jnp.cos(angle_TH)[None, :, None], jnp.sin(angle_TH)[None, :, None]
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BTNH.dtype)
