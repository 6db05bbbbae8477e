"""The weight product: an einsum whose operands, and whose incoming gradient, are first brought to their formats.

Forward, y = x w with x and w quantised. Backward, the incoming gradient g is quantised in its own format and multiplied with the
quantised operands of the forward pass: dx = g w^T, dw = x^T g. Rounding itself has the gradient of the identity.
All sums are kept in float32 (int32 for integers), whatever the operands are. On a CPU that is also the faster way: bfloat16
operands with a float32 result, cast afterwards, reach its matrix units, and a bfloat16 result does not.

Scales are shared along letters of the einsum. `per = "tensor"`: one scale for each matrix (letters in both operands and the
result, such as experts, keep a scale each). `per = "channel"`: one for each output channel of the weight and each row of the
activations. There the other operand's scale varies along what the backward product sums over, so it is moved onto g before g is
quantised (as Qwix does in quantised training), and the sum is over codes alone.

One function serves hardware and emulation. They differ only in the dtype that carries the codes: float8 or int8, where the device
multiplies them, or else the cheapest dtype that holds every code (bfloat16 or float32). The codes are the same, and so are the
products up to the order of float32 sums. Products of int8 codes are Qwix's.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType
from jax.typing import DTypeLike

from models.collectives import parts
from models.formats import E4M3, E5M2, TF32, Coded, Float, Format, decode, encode

FLOAT8: dict[Format, DTypeLike] = {E4M3: jnp.float8_e4m3fn, E5M2: jnp.float8_e5m2}
# The letters of heads and hidden units (X: both halves of them). Where tensor parallelism splits them over devices, a scale that is
# shared along one of them is the same on all of those.
SPLIT = frozenset("NGFX")


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a product is done. A format of None leaves that operand in `compute`. `native`: codes in the device's own dtype."""

    compute: DTypeLike
    activations: Format | None = None
    weights: Format | None = None
    gradients: Format | None = None
    per: str = "channel"
    native: bool = False


@dataclasses.dataclass(frozen=True)
class _Call:
    """What is static in one product: the plan, the letters of x, w and y, their dtypes and the result's sharding."""

    plan: Plan
    letters: tuple[str, str, str]
    dtypes: tuple[DTypeLike, DTypeLike, DTypeLike]
    sharding: Any

    def shared(self, source: str, target: str) -> tuple[int, ...]:
        """The axes of the operand `source` along which a scale is shared, in a product that gives `target`."""
        x, w, y = self.letters
        kept = set(target) if self.plan.per == "channel" else set(x) & set(w) & set(y)
        return tuple(axis for axis, letter in enumerate(source) if letter not in kept)


def product(plan: Plan, spec: str, x: Array, w: Array, out: DTypeLike | None = None, sharding: Any = None) -> Array:
    """`jnp.einsum(spec, x, w)` by the plan, in dtype `out` (default: the plan's compute dtype).

    `spec` names two operands and the result ("BTD,DF->BTF"): no letter twice in one operand, and every letter of an operand
    again in the other or in the result. `sharding` is the result's, where the mesh is explicit and cannot tell by itself.
    Works under jit, vmap, scan and remat. Reverse-mode only, unless there is nothing to round.
    """
    out = plan.compute if out is None else out
    if plan.compute == jnp.float32 and not (plan.activations or plan.weights or plan.gradients):
        highest = jax.lax.Precision.HIGHEST  # a GPU would multiply float32 as tf32 by default
        return jnp.einsum(spec, x.astype(jnp.float32), w.astype(jnp.float32), precision=highest, out_sharding=sharding).astype(out)
    operands, y = spec.split("->")
    first, second = operands.split(",")
    return _product(_Call(plan, (first, second, y), (x.dtype, w.dtype, out), sharding), x, w)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(call: _Call, x: Array, w: Array) -> Array:
    return _forward(call, x, w)[0]


def _forward(call: _Call, x: Array, w: Array) -> tuple[Array, tuple[Coded, Array]]:
    x_letters, _, y_letters = call.letters
    coded = _encode(call.plan, x, x_letters, call.plan.activations, call.shared(x_letters, y_letters))
    y = _contract(call.plan, call.letters, coded, _encoded_weight(call, w), call.sharding)
    # The weight is kept as it is and encoded again: a scan over layers would store a second copy of them all.
    return y.astype(call.dtypes[2]), (coded, w)


def _backward(call: _Call, kept: tuple[Coded, Array], g: Array) -> tuple[Array, Array]:
    (x, w), (x_letters, w_letters, y_letters) = kept, call.letters
    dx = _gradient(call, (y_letters, w_letters, x_letters), g, _encoded_weight(call, w), _explicit_sharding(x.codes))
    dw = _gradient(call, (y_letters, x_letters, w_letters), g, x, _explicit_sharding(w))
    return dx.astype(call.dtypes[0]), dw.astype(call.dtypes[1])


def _encoded_weight(call: _Call, w: Array) -> Coded:
    _, w_letters, y_letters = call.letters
    return _encode(call.plan, w, w_letters, call.plan.weights, call.shared(w_letters, y_letters))


_product.defvjp(_forward, _backward)


def _gradient(call: _Call, letters: tuple[str, str, str], g: Array, other: Coded, sharding: Any) -> Array:
    """The product of g with an operand of the forward pass, in float32."""
    plan, (g_letters, other_letters, target) = call.plan, letters
    if plan.gradients is None:
        if other.scale is not None:
            other = Coded(decode(other).astype(plan.compute), None)
        return _contract(plan, letters, Coded(g.astype(plan.compute), None), other, sharding, backward=True)
    if other.scale is not None and plan.per == "channel":
        summed = tuple(axis for axis, letter in enumerate(other_letters) if letter not in target)
        top = jnp.max(other.scale, axis=summed, keepdims=True)  # only ratios go onto g: it can neither overflow nor vanish
        if mesh_axis := _mesh_axis(other_letters, summed):
            top = jax.lax.pmax(top, mesh_axis)
        g, other = g.astype(jnp.float32) * _align(other.scale / top, other_letters, g_letters), Coded(other.codes, top)
    coded = _encode(plan, g, g_letters, plan.gradients, call.shared(g_letters, target))
    return _contract(plan, letters, coded, other, sharding, backward=True)


def _mesh_axis(letters: str, axes: tuple[int, ...]) -> str | None:
    """The mesh axis that splits one of the `axes` of an array, if one does."""
    return "tensor" if parts("tensor") > 1 and any(letters[axis] in SPLIT for axis in axes) else None


def _encode(plan: Plan, x: Array, letters: str, fmt: Format | None, axes: tuple[int, ...]) -> Coded:
    """Codes of `x` in the dtype that this device multiplies. Narrow integers are int8 too: few devices multiply int4."""
    if fmt is None:
        return Coded(x.astype(plan.compute), None)
    own = FLOAT8.get(fmt) if isinstance(fmt, Float) else jnp.int8 if fmt.bits <= 8 else None
    return encode(x, fmt, axes, own if plan.native else None, _mesh_axis(letters, axes))


def _contract(plan: Plan, letters: tuple[str, str, str], a: Coded, b: Coded, sharding: Any, backward: bool = False) -> Array:
    """The sum of products of codes, times the scales that remain: float32."""
    spec = f"{letters[0]},{letters[1]}->{letters[2]}"
    integers = a.codes.dtype == b.codes.dtype == jnp.int8
    if integers and sharding is None:
        import qwix

        return qwix.einsum(spec, *(_qarray(part) for part in (a, b)), preferred_element_type=jnp.float32)
    codes_a, codes_b = a.codes, b.codes
    if codes_a.dtype != codes_b.dtype and not (codes_a.dtype in FLOAT8.values() and codes_b.dtype in FLOAT8.values()):
        codes_a, codes_b = codes_a.astype(jnp.float32), codes_b.astype(jnp.float32)
    y = jnp.einsum(
        spec,
        codes_a,
        codes_b,
        preferred_element_type=jnp.int32 if integers else jnp.float32,
        precision=_accuracy(plan, codes_a.dtype, backward),
        out_sharding=sharding,
    ).astype(jnp.float32)
    # One scale after the other: their product alone could overflow where the result does not.
    for scale, source in ((a.scale, letters[0]), (b.scale, letters[1])):
        y = y if scale is None else y * _align(scale, source, letters[2])
    return y


def _qarray(coded: Coded) -> Any:
    import qwix

    return coded.codes if coded.scale is None else qwix.QArray(coded.codes, coded.scale)


def _accuracy(plan: Plan, dtype: Any, backward: bool) -> Any:
    """The `precision` of a product of `dtype`: what a device may do to float32 operands, and how it sums float8."""
    if dtype == jnp.float32:
        tf32 = plan.native and plan.weights == TF32
        return jax.lax.DotAlgorithmPreset.TF32_TF32_F32 if tf32 else jax.lax.Precision.HIGHEST
    # Sums of float8 products are shortened on some GPUs; gradients, which are small, get the long ones.
    return jax.lax.Precision.HIGHEST if backward and dtype in FLOAT8.values() else None


def _align(scale: Array, source: str, target: str) -> Array:
    """A scale with the axes of `source`, laid along those of `target`; along letters that `target` lacks it must have size 1."""
    present = [letter for letter in source if letter in target]
    scale = jnp.squeeze(scale, [axis for axis, letter in enumerate(source) if letter not in target])
    scale = jnp.transpose(scale, [present.index(letter) for letter in target if letter in present])
    return jnp.expand_dims(scale, [axis for axis, letter in enumerate(target) if letter not in present])


def _explicit_sharding(x: Array) -> Any:
    """How `x` lies on an explicit mesh, or None: its gradient must lie the same way."""
    sharding = jax.typeof(x).sharding
    return sharding if AxisType.Explicit in sharding.mesh.axis_types else None
