"""Element formats, emulated exactly: integers of 3 to 16 bits and floats eXmY (X exponent bits, Y mantissa bits).

A format is a finite set of codes, held as plain floating-point values. `round` takes every number to the nearest code, ties to
the even one, and saturates: an overflow gives the largest code, never infinity or NaN. A NaN stays NaN, so that a diverged run
is seen. Formats of little range are scaled: a tensor, or each channel of it, is divided by amax / largest first, so that its
largest element is the largest code (current scaling).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

TINY = float(np.finfo(np.float32).tiny)  # the least scale: a tensor of zeros divides by it and stays zero


@dataclasses.dataclass(frozen=True)
class Integer:
    """Symmetric integers: the codes are -(2^(bits-1) - 1) .. 2^(bits-1) - 1, always scaled."""

    bits: int

    scaled = True

    @property
    def name(self) -> str:
        return f"int{self.bits}"

    @property
    def largest(self) -> float:
        return 2.0 ** (self.bits - 1) - 1

    @property
    def carrier(self) -> DTypeLike:
        """The cheapest multiplied dtype that holds every code exactly: bfloat16 has 8 bits of significand."""
        return jnp.bfloat16 if self.largest <= 256 else jnp.float32

    def round(self, x: Array) -> Array:
        """The nearest code to each float32 of `x`, ties to even, saturating."""
        return jnp.clip(jnp.round(x), -self.largest, self.largest)


@dataclasses.dataclass(frozen=True)
class Float:
    """Binary floats with subnormals, bias 2^(exponent-1) - 1.

    Which codes are spent on infinity and NaN follows the standards: from 5 exponent bits on the whole top exponent (IEEE 754:
    e5m2, e5m10 = fp16, e8m7 = bf16), below that none (OCP microscaling formats e2m1, e2m3, e3m2), but for e4m3 the one code of
    all ones (OCP 8-bit: largest 448). Up to 6 exponent bits are scaled; 7 and 8 hold any tensor as it is.
    """

    exponent: int
    mantissa: int

    @property
    def name(self) -> str:
        return f"e{self.exponent}m{self.mantissa}"

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa

    @property
    def scaled(self) -> bool:
        return self.exponent <= 6

    @property
    def largest(self) -> float:
        if (self.exponent, self.mantissa) == (4, 3):
            return 448.0
        bias = 2 ** (self.exponent - 1) - 1
        top = bias if self.exponent >= 5 else bias + 1
        return (2 - 2.0**-self.mantissa) * 2.0**top

    @property
    def smallest_normal(self) -> float:
        return 2.0 ** (2 - 2 ** (self.exponent - 1))

    @property
    def carrier(self) -> DTypeLike:
        """The cheapest multiplied dtype that holds every code exactly."""
        return jnp.bfloat16 if self.mantissa <= 7 else jnp.float32

    def round(self, x: Array) -> Array:
        """The nearest code to each float32 of `x`, ties to even, saturating.

        Done on the bits of the float32, so that neither flushed denormals nor a compiler that drops pairs of casts can change
        the answer. Adding just under half a unit in the last place carries into the exponent where it must.
        """
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
        magnitude = bits & jnp.uint32(0x7FFFFFFF)
        drop = 23 - self.mantissa
        odd = (magnitude >> drop) & jnp.uint32(1)
        rounded = (magnitude + jnp.uint32((1 << (drop - 1)) - 1) + odd) & jnp.uint32(0x7FFFFFFF & -(1 << drop))
        rounded = jnp.minimum(rounded, np.float32(self.largest).view(np.uint32))
        value = jax.lax.bitcast_convert_type(rounded | (bits ^ magnitude), jnp.float32)
        if self.exponent < 8:  # with 8 exponent bits the subnormals are float32's own, and the bits above are theirs too
            step = self.smallest_normal * 2.0**-self.mantissa
            value = jnp.where(jnp.abs(x) < self.smallest_normal, jnp.round(x / step) * step, value)
        return jnp.where(jnp.isnan(x), x, value)


Format = Integer | Float

E4M3, E5M2, FP16, BF16, TF32 = Float(4, 3), Float(5, 2), Float(5, 10), Float(8, 7), Float(8, 10)


class Coded(NamedTuple):
    """A tensor as codes times a float32 scale that broadcasts to them (None: 1)."""

    codes: Array
    scale: Array | None


def encode(
    x: Array, fmt: Format, axis: int | tuple[int, ...] | None = None, dtype: DTypeLike | None = None, mesh_axis: str | None = None
) -> Coded:
    """`x` in codes of `fmt`, stored as `dtype` (default: the format's carrier), with one scale per slice along `axis`.

    `axis` is what a scale is shared along: None for one scale in all. Formats that need no scale get none. `mesh_axis` says, inside
    `shard_map`, that the devices along it hold parts of what a scale is shared along.
    """
    x = x.astype(jnp.float32)
    dtype = fmt.carrier if dtype is None else dtype
    if not fmt.scaled:
        return Coded(fmt.round(x).astype(dtype), None)
    amax = jnp.max(jnp.abs(x), axis=axis, keepdims=True)
    if mesh_axis is not None:
        amax = jax.lax.pmax(amax, mesh_axis)
    # A factor, not a quotient: a compiler may make one of the other, and the last bit of a scale would depend on it.
    scale = jnp.maximum(amax * np.float32(1 / fmt.largest), TINY)
    return Coded(fmt.round(x / scale).astype(dtype), scale)


def decode(coded: Coded) -> Array:
    """The float32 values that the codes stand for."""
    values = coded.codes.astype(jnp.float32)
    return values if coded.scale is None else values * coded.scale


def quantise(x: Array, fmt: Format, axis: int | tuple[int, ...] | None = None) -> Array:
    """`x` with every element replaced by the nearest that `fmt` can hold (scale shared along `axis`), in the dtype of `x`."""
    return decode(encode(x, fmt, axis)).astype(x.dtype)


def straight_through(x: Array, fmt: Format, axis: int | tuple[int, ...] | None = None) -> Array:
    """`quantise`, with the gradient of the identity (Bengio et al. 2013, arXiv 1308.3432)."""
    return jax.lax.stop_gradient(quantise(x, fmt, axis)) + (x - jax.lax.stop_gradient(x))
