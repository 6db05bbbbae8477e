"""Normalisation over the last axis, computed in float32 and returned in the dtype of its input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from models.config import ModelConfig
from models.parametrization import new_weight
from models.precision import Precision

EPSILON = 1e-6


class RMSNorm(nnx.Module):
    """x / rms(x) * gain (Zhang & Sennrich 2019)."""

    def __init__(self, size: int, config: ModelConfig, precision: Precision, *, rngs: nnx.Rngs):
        self.gain = new_weight(rngs, (size,), "gain", 1, config, precision)

    def __call__(self, x: Array) -> Array:
        x32 = x.astype(jnp.float32)
        scale = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + EPSILON)
        return (x32 * scale * _along_last(self.gain[...], x)).astype(x.dtype)


class LayerNorm(nnx.Module):
    """(x - mean(x)) / std(x) * gain + bias (Ba et al. 2016)."""

    def __init__(self, size: int, config: ModelConfig, precision: Precision, *, rngs: nnx.Rngs):
        self.gain = new_weight(rngs, (size,), "gain", 1, config, precision)
        self.bias = new_weight(rngs, (size,), "bias", 1, config, precision)

    def __call__(self, x: Array) -> Array:
        x32 = x.astype(jnp.float32)
        centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        scale = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + EPSILON)
        return (centred * scale * _along_last(self.gain[...], x) + _along_last(self.bias[...], x)).astype(x.dtype)


def norm(config: ModelConfig, precision: Precision, size: int | None = None, *, rngs: nnx.Rngs) -> RMSNorm | LayerNorm:
    """The norm that `config` asks for, over `size` (the model's width by default)."""
    kind = {"rms": RMSNorm, "layer": LayerNorm}[config.norm]
    return kind(size or config.width, config, precision, rngs=rngs)


def _along_last(vector: Array, x: Array) -> Array:
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)
