"""Number formats as policies: what is stored, what is multiplied, and what always stays in float32.

| name | weights and activations in products              | gradients in products | between products  |
|------|--------------------------------------------------|-----------------------|-------------------|
| fp32 | float32, never shortened to tf32                 | float32               | float32           |
| tf32 | float32 rounded to 10 bits of mantissa           | the same              | float32           |
| bf16 | bfloat16                                         | bfloat16              | bfloat16          |
| fp16 | float16                                          | float16, loss scaled  | float16           |
| fp8  | e4m3, scale per tensor from its own amax         | e5m2, likewise        | bfloat16          |
| int8 | int8, scale per output channel and per row       | int8                  | bfloat16          |
| int4 | int4, likewise, multiplied as int8               | int8                  | bfloat16          |

fp8 follows Micikevicius et al. 2022 (arXiv 2209.05433) with current scaling; products of int8 and int4 run through Qwix. Under
every policy parameters and optimiser moments, norms, softmax, router, logits and the loss are float32: bfloat16 sums stall at 256
and bfloat16 parameters drop small updates. Head and attention stay in the format between products (tf32: in tf32).

Widths part by part, for laws of precision: `w4`, `w4a8c8`, `we3m2-ae4m3-c16`. The parts are w (weights), a (activations), c (keys
and values, the cache of a served model) and g (the gradient that enters a product), in this order, each an integer of 3 to 16 bits
or a float eXmY of as many bits, with a scale per output channel, per row, and per head and token. A part left out is float32, and
so is everything between products: a bfloat16 stream would already cut what 9 to 16 bits are to show.

A scale per tensor sees every position of its batch, so under fp8 a token's activations depend, by rounding, on later tokens.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from models.config import ConfigError
from models.formats import E4M3, E5M2, TF32, Float, Format, Integer, quantise, straight_through
from models.products import Plan, product

MIN_BITS, MAX_BITS = 3, 16


@dataclasses.dataclass(frozen=True)
class Precision:
    """A number format. Parameters and optimiser moments are kept in `param`, what lies between products in `compute`.

    A format of None is `compute`. `scales` is "tensor" or "channel" (`models.products`). `units` are the products that a device
    needs; an empty tuple: no device has them. `native` None uses the device's products where it has them and emulates elsewhere,
    with the same numerics; True and False force one or the other.
    """

    name: str
    compute: DTypeLike
    param: DTypeLike = jnp.float32
    weights: Format | None = None
    activations: Format | None = None
    gradients: Format | None = None
    keys_values: Format | None = None
    head: Format | None = None
    scales: str = "channel"
    loss_scaling: bool = False
    units: tuple[str, ...] = ()
    native: bool | None = None

    def product(self, spec: str, x: Array, w: Array, *, out: DTypeLike | None = None, sharding: Any = None) -> Array:
        """The weight product `jnp.einsum(spec, x, w)`, operands and gradients in their formats, in `out` or else `compute`.

        `w` is the float32 parameter. `sharding` is the result's on an explicit mesh, where it is ambiguous.
        """
        plan = Plan(self.compute, self.activations, self.weights, self.gradients, self.scales, self._uses_hardware())
        return product(plan, spec, x, w, out, sharding)

    def head_product(self, spec: str, x: Array, w: Array, *, out: DTypeLike | None = None, sharding: Any = None) -> Array:
        """As `product`, in the policy's high format: for the head, and for the two products of attention."""
        plan = Plan(self.compute, self.head, self.head, self.head, native=self._uses_hardware())
        return product(plan, spec, x, w, out, sharding)

    def cache(self, k: Array) -> Array:
        """Keys or values (..., head width) as a cache would hold them: one scale per head and token; straight-through."""
        return k if self.keys_values is None else straight_through(k, self.keys_values, axis=-1)

    def emulated(self, platform: str, device_kind: str = "") -> tuple[str, ...]:
        """What this policy emulates on such a device (names as `jax.Device` gives them), e.g. ("fp8 products",); () if nothing."""
        if self.units:
            return tuple(f"{unit} products" for unit in self.units if unit not in native_units(platform, device_kind))
        parts = {"weights": self.weights, "activations": self.activations, "cache": self.keys_values, "gradients": self.gradients}
        return tuple(f"{fmt.name} {part}" for part, fmt in parts.items() if fmt is not None)

    @property
    def bits_weights(self) -> float:
        """Bits of a weight in a product."""
        return _bits(self.weights, self.compute)

    @property
    def bits_activations(self) -> float:
        """Bits of an activation in a weight product."""
        return _bits(self.activations, self.compute)

    @property
    def bits_cache(self) -> float:
        """Bits of a key or value."""
        return _bits(self.keys_values, self.compute)

    def _uses_hardware(self) -> bool:
        if self.native is not None or not self.units:
            return bool(self.native)
        unit = "int8" if self.units[0] == "int4" else self.units[0]  # int4 codes are multiplied as int8
        return unit in native_units(*_this_device())


def _bits(fmt: Format | None, compute: DTypeLike) -> float:
    return float(fmt.bits if fmt is not None else 8 * jnp.dtype(compute).itemsize)


_INT8, _INT4 = Integer(8), Integer(4)
POLICIES = {
    policy.name: policy
    for policy in (
        Precision("fp32", jnp.float32, units=("fp32",)),
        Precision("bf16", jnp.bfloat16, units=("bf16",)),
        Precision("tf32", jnp.float32, weights=TF32, activations=TF32, gradients=TF32, head=TF32, units=("tf32",)),
        Precision("fp16", jnp.float16, units=("fp16",), loss_scaling=True),
        Precision("fp8", jnp.bfloat16, weights=E4M3, activations=E4M3, gradients=E5M2, scales="tensor", units=("fp8", "bf16")),
        Precision("int8", jnp.bfloat16, weights=_INT8, activations=_INT8, gradients=_INT8, units=("int8", "bf16")),
        Precision("int4", jnp.bfloat16, weights=_INT4, activations=_INT4, gradients=_INT8, units=("int4", "bf16")),
    )
}


def policy(name: str) -> Precision:
    """The policy called `name`, or the one that a name such as `w4a8c8` or `we3m2-c16` spells; ConfigError otherwise."""
    if not isinstance(name, str):
        raise ConfigError(f"precision must be text, got {name!r}")
    if name in POLICIES:
        return POLICIES[name]
    match = _GRAMMAR.fullmatch(name)
    if match is None or not name:
        known = ", ".join(POLICIES)
        raise ConfigError(
            f"precision {name!r} is not known; it is one of {known}, or widths in the order w, a, c, g such as w4a8c8 or we3m2-ae4m3"
        )
    formats = {part: None if text is None else _format(name, part, text) for part, text in match.groupdict().items()}
    given = [part + fmt.name.removeprefix("int") for part, fmt in formats.items() if fmt is not None]
    spelling = ("-" if any(isinstance(fmt, Float) for fmt in formats.values()) else "").join(given)
    if name != spelling:
        raise ConfigError(f"precision {name!r} is written {spelling}")  # one name for one policy: names are keys of run records
    return Precision(name, jnp.float32, weights=formats["w"], activations=formats["a"], gradients=formats["g"], keys_values=formats["c"])


_GRAMMAR = re.compile("-?".join(rf"(?:{part}(?P<{part}>\d+|e\d+m\d+))?" for part in "wacg"))


def _format(name: str, part: str, text: str) -> Format:
    """The format of one part of a policy's name: "8" or "e4m3"."""
    where = f"precision {name!r}, part {part}{text}"
    if text.isdigit():
        fmt: Format = Integer(int(text))
    else:
        exponent, mantissa = map(int, text[1:].split("m"))
        if not 2 <= exponent <= 8:
            raise ConfigError(f"{where}: floats have 2 to 8 exponent bits, got {exponent}")
        fmt = Float(exponent, mantissa)
    if not MIN_BITS <= fmt.bits <= MAX_BITS:
        raise ConfigError(f"{where}: widths are {MIN_BITS} to {MAX_BITS} bits, got {fmt.bits}")
    return fmt


# Generations of accelerators by the words of their device_kind, newest first, and the products that each multiplies in hardware.
_HALF = frozenset({"fp32", "fp16", "int8"})
_GPUS = (
    (r"H20|[HB]\d00|G[HB]\d00|L2|L4|L[24]0S?|RTX [45]0\d0D?|Ada|Blackwell", _HALF | {"tf32", "bf16", "fp8"}),
    (r"A2|A10G?|A16|A[34]0|A[18]00|RTX 30\d0|RTX A\d000", _HALF | {"tf32", "bf16"}),
    (r"MI\d+[AX]?", _HALF | {"bf16"}),  # no tf32, and up to MI300 another float8 (fnuz)
    (r"V100|T4|RTX 20\d0", _HALF),
)


def native_units(platform: str, device_kind: str = "") -> frozenset[str]:
    """The products that a device has units for, of fp32, tf32, bf16, fp16, fp8 and int8, with sums in float32 (int8: int32).

    By the words of its kind, as `jax.Device.device_kind` gives it; of an unknown GPU no more than fp32, fp16 and bf16 is assumed.
    A TPU is said to have fp32: it builds it from several bfloat16 passes.
    """
    if platform == "cpu":
        return frozenset({"fp32", "bf16", "int8"})
    if platform == "tpu":
        return frozenset({"fp32", "bf16"} | (set() if re.search(r"v[23]\b", device_kind) else {"int8"}))
    for words, units in _GPUS:
        if re.search(rf"\b(?:{words})\b", device_kind):
            return units
    return frozenset({"fp32", "fp16", "bf16"})


def _this_device() -> tuple[str, str]:
    device = getattr(jax.config, "jax_default_device", None) or jax.devices()[0]
    return (device, "") if isinstance(device, str) else (device.platform, device.device_kind)


def check_native(name: str, platform: str, device_kind: str = "", emulate: bool = False) -> None:
    """ConfigError if the policy `name` would be emulated on such a device and nobody asked for it."""
    missing = policy(name).emulated(platform, device_kind)
    if missing and not emulate:
        where = f"{platform} ({device_kind})" if device_kind and device_kind != platform else platform
        raise ConfigError(
            f"precision {name}: {where} has no unit for {', '.join(missing)}; set emulate = true for the same numerics, at lower speed"
        )


def quantised_params(params: nnx.State, precision: Precision) -> nnx.State:
    """Post-training quantisation: `params` with every weight of kind "hidden" replaced by what the policy's products see of it.

    `params` is a model's state of `Weight`s; all else in it is returned as it is. Weights are named after their axes
    (`up_EDCF`), inputs before outputs; leading axes beyond those letters, and experts (E), are stacks of separate matrices.
    A model with these parameters in fp32 equals, but for activations, the same model with its own parameters in `precision`.
    """
    fmt = precision.weights
    if fmt is None and precision.compute == jnp.float32:
        return params

    def quantised(path: tuple, weight: nnx.Variable) -> nnx.Variable:
        if weight.get_metadata().get("kind") != "hidden":
            return weight
        value = weight.get_value()
        if fmt is None:
            return weight.replace(value.astype(precision.compute).astype(value.dtype))
        stacked, inputs = _axes_of(str(path[-1]), value.shape, weight.get_metadata()["fan_in"])
        shared = inputs if precision.scales == "channel" else tuple(range(stacked, value.ndim))
        return weight.replace(quantise(value, fmt, shared))

    return nnx.from_flat_state([(path, quantised(path, weight)) for path, weight in nnx.to_flat_state(params)])


def _axes_of(name: str, shape: tuple[int, ...], fan_in: int) -> tuple[int, tuple[int, ...]]:
    """How many leading axes stack separate matrices, and the axes that a product sums over: the next ones that make up fan_in."""
    letters = name.rpartition("_")[2]
    stacked = len(shape) - len(letters) + letters.startswith("E")
    size = 1
    for axis in range(stacked, len(shape)):
        size *= shape[axis]
        if size == fan_in:
            return stacked, tuple(range(stacked, axis + 1))
    raise ValueError(f"weight {name} of shape {shape}: no axes after its stacks make up the fan-in {fan_in}")
