"""`penalties`: `scaling.compute_penalty` for arrays of settings, draws of constants and any law, with exact elasticities."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fits.curve import Curve
from scaling import equal_loss
from scaling.devices import cores
from scaling.equal_loss import Form, Lab, Problem
from scaling.errors import InputError

FIXED = (None, "tokens", "params", "tokens_per_param")
SMALLEST_BATCH = 256
NO_SERVING = 1e-300  # tokens; their logarithm is finite

Settings = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Penalties:
    """Arrays of one shape. `value`: follower's compute over the leader's at equal loss, infinite where no compute suffices.

    Sizes, tokens and FLOP of both sides; computes hold 2 N FLOP per served token. `elasticities` holds d ln value / d ln x for every setting x
    and, as "leader.NAME" and "follower.NAME", for every constant; where asked for, else empty. NaN where the penalty is infinite.
    """

    value: np.ndarray
    leader_params: np.ndarray
    leader_tokens: np.ndarray
    leader_flops: np.ndarray
    follower_params: np.ndarray
    follower_tokens: np.ndarray
    follower_flops: np.ndarray
    elasticities: dict[str, np.ndarray]

    @property
    def feasible(self) -> np.ndarray:
        return np.isfinite(self.value)


def penalties(
    curve: Curve,
    *,
    flops: Any,
    structure: Any = 1.0,
    data: Any = 1.0,
    follower: Curve | None = None,
    unique_tokens: Any = None,
    follower_unique_tokens: Any = None,
    fixed: str | None = None,
    overtraining: Any = 1.0,
    allocation_error: Any = 1.0,
    served_tokens: Any = 0.0,
    inputs: Mapping[str, Any] | None = None,
    follower_inputs: Mapping[str, Any] | None = None,
    draws: bool = False,
    elasticities: bool = False,
) -> Penalties:
    """Penalties for settings that broadcast to one shape; what they mean says `scaling.compute_penalty`.

    Any law of `fits` that divides compute between a size and tokens serves, on either side; `inputs` (and `follower_inputs`, by default the
    same) are the law's further ones, such as experts or bits. `draws` puts a leading axis over the curve's draws of constants; a follower with draws
    of its own is paired with them one by one, one without keeps its constants. Raises InputError for settings that make no sense.
    """
    follower = follower or curve
    problem, settings = _checked(
        curve, follower, fixed, served_tokens, overtraining, allocation_error, flops, structure, data, unique_tokens, follower_unique_tokens
    )
    extras = {
        "leader": _extras(curve, inputs or {}),
        "follower": _extras(follower, (inputs if follower_inputs is None else follower_inputs) or {}),
    }
    shape = np.broadcast_shapes(*(x.shape for x in settings.values()), *(np.shape(x) for each in extras.values() for x in each.values()))
    constants = _constants(curve, follower, draws, shape)
    if draws:
        shape = (constants["leader"].shape[0], *shape)
    count = int(np.prod(shape))
    flat = {
        "settings": {name: np.broadcast_to(x, shape).reshape(count) for name, x in settings.items()},
        "constants": {side: np.broadcast_to(x, (*shape, x.shape[-1])).reshape(count, -1) for side, x in constants.items()},
        "extras": {side: {name: np.broadcast_to(x, shape).reshape(count) for name, x in each.items()} for side, each in extras.items()},
    }
    costs = {"leader": curve.flops_per_param_token, "follower": follower.flops_per_param_token}
    found = _in_parts(problem, costs, flat, count, elasticities)
    names = {"leader": curve.law.constants, "follower": follower.law.constants}
    return _penalties(found, shape, flat, names, elasticities)


def _checked(
    curve: Curve,
    follower: Curve,
    fixed: str | None,
    served: Any,
    overtraining: Any,
    error: Any,
    flops: Any,
    structure: Any,
    data: Any,
    unique: Any,
    follower_unique: Any,
) -> tuple[Problem, Settings]:
    if fixed not in FIXED:
        raise InputError(f"penalty: fixed must be tokens, params or tokens_per_param, got {fixed!r}")
    unique = np.inf if unique is None else unique
    given = {"flops": flops, "structure": structure, "data": data, "overtraining": overtraining, "allocation_error": error}
    given |= {"unique_tokens": unique, "follower_unique_tokens": unique if follower_unique is None else follower_unique}
    settings = {name: np.asarray(value, float) for name, value in given.items()}
    for name, value in settings.items():
        fine = (value > 0) & (np.isfinite(value) | ("unique" in name))
        if not fine.all():
            raise InputError(f"penalty: {name} must be positive{'' if 'unique' in name else ' and finite'}, got {value[~fine].flat[0]}")
    served = np.asarray(served, float)
    if not (np.isfinite(served) & (served >= 0)).all():
        raise InputError("penalty: served_tokens must be 0 or more")
    serving, misallocated = bool((served > 0).any()), bool((settings["allocation_error"] != 1).any())
    if misallocated and (fixed or serving):
        raise InputError("penalty: allocation_error is the follower's own choice of N: it goes neither with fixed nor with served_tokens")
    if serving and (settings["overtraining"] != 1).any():
        raise InputError("penalty: served_tokens already decides how long the leader trains; leave overtraining at 1")
    settings["served_tokens"] = np.maximum(served, NO_SERVING)
    return Problem(form_of(curve), form_of(follower), "allocation" if misallocated else fixed, serving), settings


def form_of(curve: Curve) -> Form:
    """Whether raising E by one raises the loss by one, at some point of the law."""
    if "E" not in curve.law.constants:
        return Form(curve.law, False)
    higher = curve.vector + np.eye(len(curve.vector))[curve.law.constants.index("E")]
    at = {name: 3e9 if name in ("tokens", "unique_tokens", curve.law.size) else 2.0 for name in curve.law.inputs}
    return Form(curve.law, bool(abs(curve.law.evaluate(higher, at) - curve.law.evaluate(curve.vector, at) - 1) < 1e-9))


def _extras(curve: Curve, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The law's inputs beside its size, tokens and unique tokens."""
    wanted = [name for name in curve.law.inputs if name not in (curve.law.size, "tokens", "unique_tokens")]
    unknown = sorted(set(inputs) - set(wanted))
    if unknown:
        raise InputError(f"penalty: {unknown[0]!r} is no further input of law {curve.law.name}; it has {', '.join(wanted) or 'none'}")
    values = dict(curve.law.typical) | dict(inputs)
    missing = [name for name in wanted if name not in values]
    if missing:
        raise InputError(f"penalty: law {curve.law.name} needs {missing[0]}; give it with inputs={{{missing[0]!r}: ...}}")
    found = {name: np.asarray(values[name], float) for name in wanted}
    for name, value in found.items():
        if not (value > 0).all():
            raise InputError(f"penalty: {name} must be positive, got {value.min()}")
    return found


def _constants(curve: Curve, follower: Curve, draws: bool, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    if not draws:
        return {"leader": curve.vector, "follower": follower.vector}
    if curve.draws is None:
        raise InputError(f"penalty: curve {curve.name!r} has no draws of its constants; fit it with bootstrap = N")
    lead = curve.draws
    follow = lead if follower is curve else follower.vector[None] if follower.draws is None else follower.draws
    count = min(len(lead), len(follow)) if len(follow) > 1 else len(lead)
    axes = (1,) * len(shape)
    return {
        "leader": lead[:count].reshape(count, *axes, -1),
        "follower": np.broadcast_to(follow[:count], (count, follow.shape[-1])).reshape(count, *axes, -1),
    }


def _in_parts(problem: Problem, costs: dict[str, float], flat: dict[str, Any], count: int, elasticities: bool) -> dict[str, Any]:
    """The batch in equal parts, one a core, each padded to a power of two so that few shapes are compiled."""
    parts = max(1, min(cores(), count // SMALLEST_BATCH))
    size = SMALLEST_BATCH
    while size * parts < count:
        size *= 2
    parts = -(-count // size)
    padded = jax.tree.map(lambda x: np.concatenate([x, np.broadcast_to(x[:1], (size * parts - count, *x.shape[1:]))]), flat)

    def work(part: int) -> dict[str, Any]:
        with jax.enable_x64(True):
            own = jax.tree.map(lambda x: x[part * size : (part + 1) * size], padded)
            found = jax.tree.map(np.asarray, _solved(problem, elasticities, costs, own))
            return _mended(problem, costs, own, found)

    with ThreadPoolExecutor(parts) as pool:
        found = list(pool.map(work, range(parts)))
    return jax.tree.map(lambda *x: np.concatenate(x)[:count], *found)


def _mended(problem: Problem, costs: dict[str, float], own: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """What Newton's method missed is searched for slowly; the search is a start for the derivatives as well."""
    missed = np.flatnonzero(found["missed"])
    if not missed.size:
        return found
    some = jax.tree.map(lambda x: x[np.resize(missed, max(SMALLEST_BATCH, 1 << (missed.size - 1).bit_length()))], own)
    searched = jax.tree.map(lambda x: np.asarray(x)[: missed.size], _searched(problem, costs, some))
    solution = jax.tree.map(np.array, found["solution"])
    for name, value in searched._asdict().items():
        getattr(solution, name)[missed] = value
    return found | {"solution": solution}


def _arguments(costs: dict[str, float], own: dict[str, Any]) -> tuple[Any, ...]:
    s = own["settings"]
    one = jnp.ones_like(s["flops"])
    leader = Lab(own["constants"]["leader"], one, one, s["unique_tokens"], costs["leader"], own["extras"]["leader"])
    follower = Lab(
        own["constants"]["follower"], s["structure"], s["data"], s["follower_unique_tokens"], costs["follower"], own["extras"]["follower"]
    )
    return leader, follower, jnp.log(s["flops"]), jnp.log(s["overtraining"]), jnp.log(s["allocation_error"]), s["served_tokens"]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _solved(problem: Problem, elasticities: bool, costs: dict[str, float], own: dict[str, Any]) -> dict[str, Any]:
    def total(own: dict[str, Any]) -> tuple[jax.Array, Any]:
        solution, missed = equal_loss.solve(problem, *_arguments(costs, own))
        finite = jnp.isfinite(solution.follower_cost)
        # Elements do not touch each other: the gradient of the sum holds the gradient of each.
        return jnp.sum(jnp.where(finite, solution.follower_cost - solution.leader_cost, 0.0)), (solution, missed)

    if not elasticities:
        _, (solution, missed) = total(own)
        return {"solution": solution, "missed": missed, "gradient": {}}
    gradient, (solution, missed) = jax.grad(total, has_aux=True)(own)
    return {"solution": solution, "missed": missed, "gradient": gradient}


@functools.partial(jax.jit, static_argnums=0)
def _searched(problem: Problem, costs: dict[str, float], own: dict[str, Any]) -> equal_loss.Solution:
    return equal_loss.search(problem, *_arguments(costs, own))


def _penalties(
    found: dict[str, Any], shape: tuple[int, ...], flat: dict[str, Any], names: dict[str, tuple[str, ...]], elasticities: bool
) -> Penalties:
    solution, unknown = found["solution"], found["missed"]
    with np.errstate(over="ignore", invalid="ignore"):
        sides = [np.exp(x).reshape(shape) for x in solution]
        value = np.exp(solution.log_penalty)
    value = np.where(np.isnan(value), np.inf, value)
    slopes: dict[str, np.ndarray] = {}
    if elasticities:
        known = np.isfinite(value) & ~unknown
        gradient = found["gradient"]
        for name, x in flat["settings"].items():
            with np.errstate(invalid="ignore"):
                slopes[name] = np.where(np.isfinite(x), gradient["settings"][name] * x, 0.0)
        for side, constants in names.items():
            for place, name in enumerate(constants):
                slopes[f"{side}.{name}"] = gradient["constants"][side][:, place] * flat["constants"][side][:, place]
            for name, x in flat["extras"][side].items():
                slopes[f"{side}.{name}"] = gradient["extras"][side][name] * x
        slopes = {name: np.where(known, x, np.nan).reshape(shape) for name, x in slopes.items()}
    return Penalties(value.reshape(shape), *sides, slopes)
