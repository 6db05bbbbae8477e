"""The compiled kernels against plain JAX in float64, their independence of threads, and life without them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import kernels
from models.kernels import build
from models.kernels.attention import causal_attention, packed_attention


@pytest.fixture(scope="module")
def compiled() -> None:
    available, reason = kernels.status()
    if not available:
        pytest.skip(f"no compiled kernels here: {reason}")


def exact_attention(q_BTNH, k_BSKH, v_BSKH, scale, dout_BTNH=None):
    """The result and its gradients in float64, by the formulae; keys and values repeated for the queries that share them."""
    q, k, v = (np.asarray(x, np.float64) for x in (q_BTNH, k_BSKH, v_BSKH))
    T, K, group = q.shape[1], k.shape[2], q.shape[2] // k.shape[2]
    k, v = np.repeat(k, group, axis=2), np.repeat(v, group, axis=2)
    scores = np.where(np.tril(np.ones((T, T), bool)), np.einsum("BTNH,BSNH->BNTS", q, k) * scale, -np.inf)
    probs = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probs /= probs.sum(axis=-1, keepdims=True)
    out = np.einsum("BNTS,BSNH->BTNH", probs, v)
    if dout_BTNH is None:
        return (out,)
    dout = np.asarray(dout_BTNH, np.float64)
    dprobs = np.einsum("BTNH,BSNH->BNTS", dout, v)
    dscores = probs * (dprobs - (probs * dprobs).sum(axis=-1, keepdims=True)) * scale
    dq, dk = np.einsum("BNTS,BSNH->BTNH", dscores, k), np.einsum("BNTS,BTNH->BSNH", dscores, q)
    dv = np.einsum("BNTS,BTNH->BSNH", probs, dout)
    shared = (*k.shape[:2], K, group, k.shape[3])
    return out, dq, dk.reshape(shared).sum(axis=3), dv.reshape(shared).sum(axis=3)


def operands(B, T, N, K, H, dtype, seed=0):
    """q, k, v and the gradient of the result, rounded to `dtype`."""
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=(B, T, heads, H)), jnp.float32).astype(dtype) for heads in (N, K, K, N)]


def with_gradients(attention, q, k, v, dout):
    out, pull = jax.vjp(attention, q, k, v)
    return (out, *pull(dout))


def relative(got, wanted) -> float:
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


SHAPES = [(2, 64, 2, 2, 32), (1, 50, 4, 2, 16), (1, 37, 2, 1, 64), (3, 17, 3, 3, 6), (1, 130, 1, 1, 24), (2, 1, 2, 2, 16)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-6), (jnp.bfloat16, 1e-2)])
@pytest.mark.parametrize("shape", SHAPES)
def test_attention_agrees_with_float64(compiled, shape, dtype, tolerance):
    """Lengths and widths that no block divides, one query only, grouped queries. bfloat16 keeps 8 bits: half a unit is 2e-3."""
    *tensors, dout = operands(*shape, dtype)
    scale = 1.3 * shape[-1] ** -0.5
    got = with_gradients(lambda q, k, v: causal_attention(q, k, v, scale), *tensors, dout)
    wanted = exact_attention(*tensors, scale, dout)
    for name, a, b in zip(("out", "dq", "dk", "dv"), got, wanted, strict=True):
        assert a.dtype == dtype
        if shape[1] == 1 and name in ("dq", "dk"):  # one key only: no gradient reaches its score
            assert np.abs(np.asarray(a, np.float64)).max() < tolerance
        else:
            assert relative(a, b) < tolerance, name


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_packed_is_the_same_bit_for_bit(compiled, dtype):
    q, k, v, dout = operands(2, 40, 4, 2, 16, dtype)
    apart = with_gradients(lambda q, k, v: causal_attention(q, k, v, 0.25), q, k, v, dout)
    packed = jnp.concatenate([q, k, v], axis=2)
    out, pull = jax.vjp(lambda x: packed_attention(x, 4, 0.25), packed)
    np.testing.assert_array_equal(out, apart[0])
    np.testing.assert_array_equal(pull(dout)[0], jnp.concatenate(apart[1:], axis=2))


def test_large_scores_do_not_overflow_and_nan_stays(compiled):
    q, k, v, _ = operands(1, 24, 1, 1, 16, jnp.float32)
    out = causal_attention(q * 1e3, k * 1e3, v, 1.0)
    assert relative(out, exact_attention(q * 1e3, k * 1e3, v, 1.0)[0]) < 1e-5
    poisoned = np.asarray(causal_attention(q.at[0, 5, 0, 0].set(jnp.nan), k, v, 0.25))
    assert np.isnan(poisoned[0, 5]).all()
    assert np.isfinite(np.delete(poisoned[0], 5, axis=0)).all()
    poisoned = np.asarray(causal_attention(q, k.at[0, 5, 0, 0].set(jnp.nan), v, 0.25))
    assert np.isnan(poisoned[0, 5:]).all()
    assert np.isfinite(poisoned[0, :5]).all()


def test_later_keys_have_no_influence(compiled):
    q, k, v, dout = operands(1, 48, 2, 2, 16, jnp.float32)
    out = causal_attention(q, k, v, 0.25)
    changed = causal_attention(q, k.at[:, 20:].add(3.0), v.at[:, 20:].add(3.0), 0.25)
    np.testing.assert_array_equal(out[:, :20], changed[:, :20])
    _, pull = jax.vjp(lambda k, v: causal_attention(q, k, v, 0.25), k, v)
    for gradient in pull(dout.at[:, 20:].set(0.0)):
        assert not np.asarray(gradient[:, 20:]).any()


def test_scan_remat_and_vmap(compiled):
    """The same numbers, bit for bit, however the call is wrapped."""
    q, k, v, dout = operands(3, 24, 2, 1, 16, jnp.float32)

    def loss(q, k, v, dout):
        return jnp.sum(causal_attention(q, k, v, 0.25) * dout)

    value, gradients = jax.value_and_grad(loss, (0, 1, 2))(q, k, v, dout)
    again = jax.jit(jax.value_and_grad(jax.checkpoint(loss), (0, 1, 2)))(q, k, v, dout)
    jax.tree.map(np.testing.assert_array_equal, gradients, again[1])
    np.testing.assert_allclose(value, again[0], rtol=1e-6)

    def body(carry, row):
        return carry, jax.grad(loss, (0, 1, 2))(*(x[None] for x in row))

    scanned = jax.jit(lambda *rows: jax.lax.scan(body, 0, rows)[1])(q, k, v, dout)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:, 0]), gradients, scanned)

    members = jax.jit(jax.vmap(jax.grad(loss, (0, 1, 2)), in_axes=(0, None, 0, 0)))(q[:, None], k[:1], v[:, None], dout[:, None])
    alone = jax.grad(loss, (0, 1, 2))(q[1:2], k[:1], v[1:2], dout[1:2])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[1]), alone, members)


THREADS = """
import hashlib, sys
import numpy as np, jax, jax.numpy as jnp
from models.kernels.attention import causal_attention
digest = hashlib.sha256()
for dtype in (jnp.float32, jnp.bfloat16):
    rng = np.random.default_rng(0)
    q, k, v, dout = (jnp.asarray(rng.normal(size=(5, 70, n, 16)), jnp.float32).astype(dtype) for n in (4, 2, 2, 4))
    out, pull = jax.vjp(lambda q, k, v: causal_attention(q, k, v, 0.25), q, k, v)
    for array in (out, *pull(dout)):
        digest.update(np.asarray(array).tobytes())
print(digest.hexdigest())
mesh = jax.make_mesh((2, 2), ("data", "model"))
q, k, v = (jnp.asarray(rng.normal(size=(4, 20, 4, 16)), jnp.float32) for _ in range(3))
gradient = jax.jit(jax.grad(lambda q, k, v: jnp.sum(jnp.sin(causal_attention(q, k, v, 0.25))), (0, 1, 2)))
alone = gradient(q, k, v)
with jax.set_mesh(mesh):
    spread = gradient(*jax.device_put((q, k, v), jax.P("data", None, "model")))
assert spread[0].sharding.spec == jax.P("data", None, "model", None)
jax.tree.map(np.testing.assert_array_equal, alone, spread)
"""


def test_bits_do_not_depend_on_threads_or_devices(compiled):
    """A process with one thread in XLA's pool and this one, with as many as there are, make the same bytes; so do one device
    and four, with batch and heads spread over them."""
    environment = os.environ | {"NPROC": "1", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    alone = subprocess.run([sys.executable, "-c", THREADS], env=environment, capture_output=True, text=True, check=False)
    assert alone.returncode == 0, alone.stderr
    digest = hashlib.sha256()
    for dtype in (jnp.float32, jnp.bfloat16):
        q, k, v, dout = operands(5, 70, 4, 2, 16, dtype)
        for array in with_gradients(lambda q, k, v: causal_attention(q, k, v, 0.25), q, k, v, dout):
            digest.update(np.asarray(array).tobytes())
    assert alone.stdout.strip() == digest.hexdigest()


@pytest.mark.parametrize(
    ("shapes", "dtypes", "scale", "message"),
    [
        (((2, 8, 4, 16), (2, 8, 3, 16), (2, 8, 3, 16)), "fff", 1.0, "do not fit"),
        (((2, 8, 4, 16), (2, 9, 4, 16), (2, 9, 4, 16)), "fff", 1.0, "do not fit"),
        (((2, 8, 4, 16),) * 3, "fbb", 1.0, "differ in dtype"),
        (((2, 8, 4, 16),) * 3, "hhh", 1.0, "float32 or bfloat16"),
        (((2, 8, 4, 16),) * 3, "fff", 0.0, "must be positive"),
        (((8, 4, 16),) * 3, "fff", 1.0, "with no empty axis"),
    ],
)
def test_what_the_kernel_does_not_take(shapes, dtypes, scale, message):
    kinds = {"f": jnp.float32, "b": jnp.bfloat16, "h": jnp.float16}
    arrays = [jnp.zeros(shape, kinds[kind]) for shape, kind in zip(shapes, dtypes, strict=True)]
    with pytest.raises(ValueError, match=message):
        causal_attention(*arrays, scale)


def test_packed_heads_must_fit():
    with pytest.raises(ValueError, match="does not hold 5 heads"):
        packed_attention(jnp.zeros((1, 4, 6, 16)), 5, 1.0)


def test_switched_off(monkeypatch):
    monkeypatch.setenv("ISOLOSS_KERNELS", "off")
    assert kernels.status() == (False, "switched off by ISOLOSS_KERNELS=off")
    assert kernels.version() == ""
    with pytest.raises(RuntimeError, match="switched off"):
        causal_attention(*(jnp.zeros((1, 4, 2, 16)),) * 3, 1.0)


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [("/nowhere/c++", "CXX names /nowhere/c++, which is not there"), ("false", "--version failed"), ("echo", "echo")],
)
def test_without_a_working_compiler(monkeypatch, tmp_path, compiler, reason):
    """No compiler, one that fails, one that writes nothing of use: a reason in one line and no exception."""
    monkeypatch.delenv("ISOLOSS_KERNELS", raising=False)
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path))
    library = build._loaded.__wrapped__()
    assert isinstance(library, str)
    assert "\n" not in library
    if compiler != "echo":
        assert reason in library
    monkeypatch.setattr(build, "_loaded", lambda: library)
    assert kernels.status() == (False, library)
    assert not list(tmp_path.rglob("*.so")) or compiler == "echo"


def test_version_names_source_and_instructions(compiled):
    source, instructions = kernels.version().split("-", 1)
    assert len(source) == 12
    assert instructions in ("avx512_bf16", "avx512", "portable")
