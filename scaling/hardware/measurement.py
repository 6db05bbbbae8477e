"""What this machine does: the best matrix product per number format, and its memory's bandwidth, as a `Chip`.

The rates are what products reach, not what a data sheet promises, so a utilisation against them is against the attainable.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from models.precision import native_units
from scaling.devices import device_name, threads
from scaling.errors import InputError
from scaling.hardware import library
from scaling.hardware.chip_file import write_chips
from scaling.hardware.chips import Chip

NAME = "this-machine"
SIZES = (256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384)
STRETCHES = ((1, 4, 1), (4, 1, 1), (1, 1, 4))  # of rows, inner dimension and columns, tried at the best size
REPEATS = 3
SHARE = 15  # a shape is repeated for a fifteenth of a format's time at least, so that a busy machine shows its best
TRAFFIC_BYTES = 2**29  # of an array whose traffic is timed: beyond the caches
OPERANDS = {"fp32": jnp.float32, "tf32": jnp.float32, "bf16": jnp.bfloat16, "fp16": jnp.float16, "fp8": jnp.float8_e4m3fn, "int8": jnp.int8}

Shape = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The machine as a chip; by format the shape (rows, inner, columns) of the best product; by kind of traffic its GB/s."""

    chip: Chip
    shapes: Mapping[str, Shape]
    traffic_gbps: Mapping[str, float]
    seconds: float


def measure(
    *,
    seconds: float = 3.0,
    sizes: tuple[int, ...] = SIZES,
    traffic_bytes: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Measurement:
    """Measures JAX's first device, for about `seconds` a format (compiling comes on top), and memory. `say` is told what comes out."""
    if not (seconds > 0 and math.isfinite(seconds)):
        raise InputError(f"seconds must be positive, got {seconds}")
    started = time.perf_counter()
    device = jax.devices()[0]
    memory = _memory_bytes(device)
    units = native_units(device.platform, device.device_kind)
    rates: dict[str, float] = {}
    shapes: dict[str, Shape] = {}
    for name in OPERANDS:
        if name not in units or (name == "fp16" and "bf16" in units):
            continue
        try:
            rates[name], shapes[name] = _best_product(name, seconds, sizes, memory)
        except jax.errors.JaxRuntimeError as error:  # a format that the compiler has no product for is left out, and said
            say(f"{name}: not measured: {str(error).splitlines()[0][:200]}")
            continue
        say(f"{name}: {rates[name] / 1e12:.4g} T{'OP' if name == 'int8' else 'FLOP'}/s at {' x '.join(map(str, shapes[name]))}")
    traffic = _traffic(traffic_bytes or min(TRAFFIC_BYTES, int(memory / 16)), seconds / 3)
    say("memory: " + ", ".join(f"{kind} {rate:.4g} GB/s" for kind, rate in traffic.items()))
    chip = _as_chip(device, rates, max(traffic.values()), memory)
    return Measurement(chip, shapes, traffic, time.perf_counter() - started)


def save(found: Measurement) -> None:
    """Keeps the machine, so that `scaling.chip("this-machine")` finds it. An earlier measurement is replaced."""
    write_chips(library.measured_file(), [found.chip])


def _best_product(name: str, seconds: float, sizes: tuple[int, ...], memory: float) -> tuple[float, Shape]:
    """FLOP/s of the best product in a format, and its shape: sizes up while time lasts, then the best one stretched."""
    best, at, spent, previous, least = 0.0, (0, 0, 0), 0.0, 0.0, seconds / SHARE
    for size in sizes:
        if (best and spent + 8 * previous * REPEATS > seconds) or 3 * size**2 * 4 > memory / 4:
            break
        previous = _product_seconds(name, (size, size, size), least)
        spent += max(previous * REPEATS, least)
        if (rate := 2 * size**3 / previous) > best:
            best, at = rate, (size, size, size)
    side = at[0]
    for rows, inner, columns in STRETCHES:
        shape = (side * rows, side * inner, side * columns)
        expected = 2 * math.prod(shape) / best
        if spent + expected * REPEATS > 2 * seconds:
            break
        spent += max(expected * REPEATS, least)
        if (rate := 2 * math.prod(shape) / _product_seconds(name, shape, least)) > best:
            best, at = rate, shape
    return best, at


def _product_seconds(name: str, shape: Shape, least: float) -> float:
    rows, inner, columns = shape
    left, right = jax.random.split(jax.random.key(0))
    operands = _random(left, (rows, inner), name), _random(right, (inner, columns), name)
    return _seconds(jax.jit(functools.partial(_product, name)), *operands, least=least)


def _product(name: str, x: Array, w: Array) -> Array:
    precision = lax.Precision.DEFAULT if name == "tf32" else lax.Precision.HIGHEST if name == "fp32" else None
    accumulate = jnp.int32 if name == "int8" else jnp.float32
    return lax.dot_general(x, w, (((1,), (0,)), ((), ())), precision=precision, preferred_element_type=accumulate)


def _random(key: Array, sides: tuple[int, int], name: str) -> Array:
    """Noise, not zeros: on some chips zeros draw less power and run faster. int8 takes the whole range."""
    scale = 40.0 if name == "int8" else 1.0
    return (scale * jax.random.normal(key, sides)).astype(OPERANDS[name])


def _seconds(function: Callable[..., Array], *operands: Array, least: float) -> float:
    """The best of a few runs, `least` seconds of them, after one that compiles."""
    jax.block_until_ready(function(*operands))
    times: list[float] = []
    while len(times) < REPEATS or sum(times) < least:
        started = time.perf_counter()
        jax.block_until_ready(function(*operands))
        times.append(time.perf_counter() - started)
    return min(times)


def _traffic(size: int, seconds: float) -> dict[str, float]:
    """GB/s read and written by scaling an array and by the triad a = b + s a of STREAM, in place: fresh pages would cost more than traffic."""
    count = max(size // 4, 1)
    kinds: dict[str, tuple[Callable[..., Array], int]] = {
        "scale": (lambda a, b: 0.999 * a, 2),
        "triad": (lambda a, b: b + 0.999 * a, 3),
    }
    other, found = jnp.ones(count), {}
    for kind, (function, arrays) in kinds.items():
        step = jax.jit(function, donate_argnums=0, keep_unused=True)
        value = jax.block_until_ready(step(jnp.ones(count), other))
        times: list[float] = []
        while len(times) < REPEATS or sum(times) < seconds:
            started = time.perf_counter()
            value = jax.block_until_ready(step(value, other))
            times.append(time.perf_counter() - started)
        found[kind] = arrays * 4 * count / min(times) / 1e9
    return found


def _as_chip(device: Any, rates: dict[str, float], bandwidth_gbps: float, memory: float) -> Chip:
    """The measured rates; of a chip that the table knows, also what was not measured: memory, links, power, price."""
    name = device_name()
    known = _in_table(name) if device.platform != "cpu" else None
    kept = dict.fromkeys(("fp32", "tf32", "bf16", "fp16_fp16acc", "fp8", "int8", "fp4"))
    measured = {("bf16" if each == "fp16" else each): _rounded(rate / 1e12) for each, rate in rates.items()}
    return dataclasses.replace(
        known or _alone(device.platform, memory),
        **kept | measured,
        name=NAME,
        aliases=() if known else (name,),
        mem_bw_gbps=_rounded(bandwidth_gbps),
        mamf_bf16=measured.get("bf16"),
        mamf_fp8=measured.get("fp8"),
        listed_tpp=None,
        listed_perf_density=None,
        cores=threads() if device.platform == "cpu" else None,
        origin="measured",
        note=f"Measured on {name} with JAX {jax.__version__}: the best matrix products, not a data sheet's peaks.",
        sources=(f"isoloss chips --measure on {name}",),
        figure_sources={},
    )


def _in_table(device: str) -> Chip | None:
    try:
        known = library.chip(device)
    except InputError:
        return None
    return known if known.origin == "table" else None


def _alone(platform: str, memory: float) -> Chip:
    """A chip of which the table knows nothing; a CPU has no links to others."""
    links = 0 if platform == "cpu" else None
    return Chip(
        NAME,
        mem_gb=_rounded(memory / 1e9),
        scaleup_unidir_gbps=links,
        scaleup_bidir_gbps=links,
        scaleup_domain=1 if platform == "cpu" else None,
    )


def _memory_bytes(device: Any) -> float:
    if device.platform == "cpu":
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return float((device.memory_stats() or {}).get("bytes_limit", 2**34))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
