"""Causal attention by the compiled kernel, with its gradient.

Twice the speed or more of the plain score matrix on a CPU: only the causal half is computed, and no score reaches memory. The
backward pass needs q, k, v, the result and two floats per query and head. float32 and bfloat16 come out as they go in; sums,
scores and the softmax are float32 in both (in bfloat16 the probabilities are rounded before they multiply the values, as in
the plain path). Works under jit, scan, remat, vmap and explicit sharding of batch and heads; the result does not depend on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from models.kernels import build

SAVED = "attention"  # the name under which a remat policy may keep the kernel's results
DTYPES = (jnp.float32, jnp.bfloat16)

Residuals = tuple[Array, ...]


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def causal_attention(q_BTNH: Array, k_BTKH: Array, v_BTKH: Array, scale: float) -> Array:
    """softmax(scale q k^T) v over keys no later than the query: (B, T, N, H) in the dtype of q. K divides N (grouped queries).

    ValueError for shapes, dtypes or a scale that the kernel does not take; RuntimeError where there are no kernels.
    """
    return _forward(q_BTNH, k_BTKH, v_BTKH, scale)[0]


def _forward(q_BTNH: Array, k_BTKH: Array, v_BTKH: Array, scale: float) -> tuple[Array, Residuals]:
    _check(q_BTNH, scale)
    B, T, N, H = q_BTNH.shape
    K = k_BTKH.shape[2]
    if k_BTKH.shape != (B, T, K, H) or v_BTKH.shape != k_BTKH.shape or K < 1 or N % K:
        raise ValueError(f"keys {k_BTKH.shape} and values {v_BTKH.shape} do not fit queries {q_BTNH.shape}")
    if not q_BTNH.dtype == k_BTKH.dtype == v_BTKH.dtype:
        raise ValueError(f"queries, keys and values differ in dtype: {q_BTNH.dtype}, {k_BTKH.dtype}, {v_BTKH.dtype}")

    def run(q_BTNH: Array, k_BTKH: Array, v_BTKH: Array) -> Sequence[Array]:
        return _call("attention", scale, _results(q_BTNH), q_BTNH, k_BTKH, v_BTKH)

    spec = _spec(q_BTNH)
    if not spec == _spec(k_BTKH) == _spec(v_BTKH):
        raise ValueError(f"queries, keys and values lie on devices differently: {spec}, {_spec(k_BTKH)}, {_spec(v_BTKH)}")
    out_BTNH, stats_BNT2 = _named(_on_devices(run, (spec,) * 3, (spec, _stats_spec(spec)))(q_BTNH, k_BTKH, v_BTKH))
    return out_BTNH, (q_BTNH, k_BTKH, v_BTKH, out_BTNH, stats_BNT2)


def _backward(scale: float, residuals: Residuals, dout_BTNH: Array) -> tuple[Array, ...]:
    def run(*arrays: Array) -> Sequence[Array]:
        return _call("attention_gradient", scale, [_like(x) for x in arrays[:3]], *arrays)

    spec = _spec(residuals[0])
    return tuple(_on_devices(run, (spec,) * 4 + (_stats_spec(spec), spec), (spec,) * 3)(*residuals, dout_BTNH))


causal_attention.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def packed_attention(qkv_BTXH: Array, heads: int, scale: float) -> Array:
    """`causal_attention` of one array that holds the heads' queries, then keys, then values: X = N + 2 K with N = `heads`.

    The result is (B, T, N, H); the gradient comes packed likewise. Spares the copies that take a projection apart. Heads
    cannot be spread over devices.
    """
    return _packed_forward(qkv_BTXH, heads, scale)[0]


def _packed_forward(qkv_BTXH: Array, heads: int, scale: float) -> tuple[Array, Residuals]:
    _check(qkv_BTXH, scale)
    X = qkv_BTXH.shape[2]
    key_heads = (X - heads) // 2
    if heads < 1 or key_heads < 1 or heads + 2 * key_heads != X or heads % key_heads:
        raise ValueError(f"an array {qkv_BTXH.shape} does not hold {heads} heads of queries and their keys and values")

    def run(qkv_BTXH: Array) -> Sequence[Array]:
        return _call("packed_attention", scale, _results(qkv_BTXH, heads), qkv_BTXH)

    spec = _spec(qkv_BTXH)
    if spec[2] is not None:
        raise ValueError(f"packed heads cannot be spread over devices, got {spec}")
    out_BTNH, stats_BNT2 = _named(_on_devices(run, (spec,), (spec, _stats_spec(spec)))(qkv_BTXH))
    return out_BTNH, (qkv_BTXH, out_BTNH, stats_BNT2)


def _packed_backward(heads: int, scale: float, residuals: Residuals, dout_BTNH: Array) -> tuple[Array, ...]:
    def run(*arrays: Array) -> Sequence[Array]:
        return _call("packed_attention_gradient", scale, [_like(arrays[0])], *arrays)

    spec = _spec(residuals[0])
    return tuple(_on_devices(run, (spec, spec, _stats_spec(spec), spec), (spec,))(*residuals, dout_BTNH))


packed_attention.defvjp(_packed_forward, _packed_backward)


def _check(array: Array, scale: float) -> None:
    if array.ndim != 4 or 0 in array.shape:
        raise ValueError(f"attention takes an array (batch, time, heads, width) with no empty axis, got {array.shape}")
    if array.dtype not in DTYPES:
        raise ValueError(f"the attention kernel takes float32 or bfloat16, got {array.dtype}")
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"the scale of attention scores must be positive, got {scale}")
    spec = _spec(array)
    if spec[1] is not None or spec[3] is not None:
        raise ValueError(f"the attention kernel needs time and head width whole on each device, got {spec}")


def _results(array: Array, heads: int | None = None) -> list[jax.ShapeDtypeStruct]:
    """The mixed values, and per query the largest score (base 2) and the reciprocal of the softmax denominator."""
    B, T, N, H = array.shape
    N = heads or N
    return [_like(array, (B, T, N, H)), _like(array, (B, N, T, 2), jnp.float32)]


def _like(array: Array, shape: tuple[int, ...] | None = None, dtype: DTypeLike | None = None) -> jax.ShapeDtypeStruct:
    """A result that varies over the same manual mesh axes as `array`, whose shape and dtype it has unless others are given."""
    kind = jax.typeof(array)
    manual: dict = {name: getattr(kind, name) for name in ("manual_axis_type", "vma") if hasattr(kind, name)}
    if not kind.sharding.mesh.empty:
        manual["sharding"] = NamedSharding(kind.sharding.mesh, PartitionSpec())
    return jax.ShapeDtypeStruct(shape or array.shape, dtype or array.dtype, **manual)


def _named(results: Sequence[Array]) -> tuple[Array, Array]:
    out, stats = (checkpoint_name(result, SAVED) for result in results)
    return out, stats


def _call(name: str, scale: float, results: Sequence[jax.ShapeDtypeStruct], *arrays: Array) -> Sequence[Array]:
    build.require()
    return jax.ffi.ffi_call(f"isoloss_{name}", results, vmap_method="broadcast_all")(*arrays, scale=np.float32(scale))


def _explicit_axes() -> set[str]:
    mesh = jax.sharding.get_abstract_mesh()
    return {name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Explicit}


def _spec(array: Array) -> PartitionSpec:
    """How the array lies on the mesh axes that are part of its type."""
    return jax.typeof(array).sharding.spec if _explicit_axes() else PartitionSpec(*(None,) * array.ndim)


def _stats_spec(spec: PartitionSpec) -> PartitionSpec:
    return PartitionSpec(spec[0], spec[2], None, None)


def _on_devices(run: Callable, in_specs: Sequence[PartitionSpec], out_specs: Sequence[PartitionSpec]) -> Callable:
    """`run` on each device's share: XLA would bring a whole array to every device for a call that it cannot look into."""
    axes = _explicit_axes()
    if not axes:
        return run
    return jax.shard_map(lambda *x: tuple(run(*x)), in_specs=tuple(in_specs), out_specs=tuple(out_specs), axis_names=axes)
