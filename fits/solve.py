"""Global, batched, robust minimisation: a damped Newton method in float64, from many starts and for many weightings at once.

With a small delta the Huber objective is nearly the sum of |r|: a problem of many kinks on which quasi-Newton methods stop early and
report success. Two things make it tame. Delta is lowered in stages from the scale of the data, so that every stage starts close
to its optimum. And every step solves with the exact Hessian, made positive where it is not, and is taken only if the objective falls.

Members share a fixed number of slots: one that has settled hands its slot to the next, so that a slow member holds up nobody.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fits import derivatives
from fits.derivatives import Rows
from fits.laws.base import Law
from fits.objectives import Objective
from fits.problems import Problem, fill, filled_members, filled_rows

ITERATIONS = 3000  # of the last stage at most; a converged member stops by itself, a rare one creeps along a ridge of kinks
STAGE_ITERATIONS = 30
STAGES = 24
AIMS = 4  # numbers of a spring
DECREMENT = 1e-12  # certified: Newton decrement over objective
EXACT = 1e-22  # mean objective per row below which a fit is exact and the relative decrement means nothing
UNROLLED = 10  # parameters up to which a Newton step is unrolled; beyond, that takes seconds more to compile and gains nothing
SLOT_ROWS = 2**16  # rows times slots worked on at once: fits the cache, and bounds the memory


class Minimum(NamedTuple):
    """Where every member ended. `decrement` is half g' H^-1 g, the distance to the local optimum in units of the objective."""

    theta: np.ndarray
    objective: np.ndarray
    decrement: np.ndarray
    curvature: np.ndarray  # least eigenvalue of the Hessian, scaled to a unit diagonal
    condition: np.ndarray
    active: np.ndarray  # which parameters ended at a bound
    iterations: np.ndarray


@dataclasses.dataclass(frozen=True)
class Pull:
    """A spring that holds function(theta, aims) at a member's own aims[0] with strength aims[1]: the way to points of a profile.

    The function must be hashable by value; what else it needs of a member stands in the rest of aims.
    """

    function: Callable[[Array, Array], Array]


def minimise(
    problem: Problem,
    starts: np.ndarray,
    weights: np.ndarray,
    *,
    first_delta: float | None = None,
    delta: float | None = None,
    observed: np.ndarray | None = None,
    bounds: tuple[np.ndarray, np.ndarray] | None = None,
    pull: Pull | None = None,
    aims: np.ndarray | None = None,
    describe: bool = True,
    room: int = 0,
) -> Minimum:
    """Local minima from `starts` (M, p) under `weights` (M or 1, rows), member by member; arrays of length M.

    `first_delta` is where the lowering of delta begins; without it least squares come first and then the spread of the data, which suits starts
    from afar. `delta` replaces the objective's own, `observed` (M or 1, rows) the problem's targets, `bounds` (M or 1, p each) its bounds. A `pull`
    adds a spring with `aims` (M, 4). Without `describe` the result holds theta and iterations only, which saves a compilation; `room` says how many members, with weights of
    their own, a later call will have, and saves the compilation of that.
    """
    last = problem.objective.delta if delta is None else delta
    deltas = _stages(first_delta, last, problem.spread)
    low, high = bounds or (problem.low[None], problem.high[None])
    targets = _with_rows(problem.observed[None] if observed is None else observed)
    weights = _with_rows(np.asarray(weights, float), weight=0.0)
    springs = np.zeros((1, AIMS)) if aims is None else aims
    members = len(starts)
    size = filled_members(max(members, room))
    if room and len(weights) == 1:
        weights = np.repeat(weights, members, axis=0)
    width = _slots(problem, size)
    arguments = (problem.law, problem.objective.kind, pull)
    with jax.enable_x64(True):
        f64 = partial(jnp.asarray, dtype=jnp.float64)
        rows = problem.rows
        tables = tuple(f64(fill(array, members, size)) for array in (weights, targets, low, high, springs))
        begin = f64(fill(starts, members, size))
        theta, count = _search(
            *arguments, width, begin, *tables, rows, f64(np.resize(deltas, STAGES)), jnp.asarray(len(deltas) - 1), jnp.asarray(members)
        )
        if not describe:
            nothing = np.full(members, np.nan)
            return Minimum(np.asarray(theta)[:members], nothing, nothing, nothing, nothing, nothing, np.asarray(count)[:members])
        # The description works on all members of a part at once, and parts of one size share a program.
        parts, part = [], _slots(problem, 4096)
        for first in range(0, members, part):
            own = [_part(np.asarray(array), first, part) for array in (theta, *tables)]
            parts.append([np.asarray(array) for array in _describe(*arguments, *own, rows, f64(deltas[-1]))])
        described = [np.concatenate(arrays)[:members] for arrays in zip(*parts, strict=True)]
        return Minimum(*described, np.asarray(count)[:members])


def _with_rows(array: np.ndarray, weight: float | None = None) -> np.ndarray:
    """`array` (members, rows) with the rows filled up: targets repeat the last, weights are `weight`."""
    more = filled_rows(array.shape[1]) - array.shape[1]
    if weight is None:
        return np.concatenate([array, np.repeat(array[:, -1:], more, axis=1)], axis=1)
    return np.concatenate([array, np.full((len(array), more), weight)], axis=1)


def _part(array: np.ndarray, first: int, size: int) -> np.ndarray:
    """`size` members of an array from the one called `first` on; the last is repeated where there are no more."""
    if len(array) == 1:
        return np.broadcast_to(array, (size, array.shape[1]))
    own = array[first : first + size]
    return own if len(own) == size else np.concatenate([own, np.repeat(own[-1:], size - len(own), axis=0)])


def _slots(problem: Problem, members: int) -> int:
    """How many members to work on at once: as many as the cache holds, a power of two so that few programs are compiled."""
    room = max(1, SLOT_ROWS // filled_rows(len(problem.target)))
    return 2 ** int(math.log2(min(room, 256, members)))


def _stages(first: float | None, last: float, spread: float) -> np.ndarray:
    """Deltas from `first` down to `last`, by factors of about 3; without `first` from least squares and then the spread of the data."""
    if not np.isfinite(last):
        return np.array([last])
    begin = max(first or spread, last)
    stages = np.geomspace(begin, last, 1 + min(STAGES - 2, math.ceil(math.log(begin / last, 3))))
    # Far from the data every row would be on Huber's linear side, which has no curvature to step by.
    return stages if first else np.concatenate([[np.inf], stages])


def _derive(law: Law, objective: Objective, pull: Pull | None, rows: Rows) -> Callable[..., tuple[Array, Array, Array]]:
    misfit = derivatives.derivatives(law, objective, rows)
    if pull is None:
        return lambda theta, weight, target, delta, _: misfit(theta, weight, target, delta)

    def spring(theta: Array, aim: Array) -> Array:
        return 0.5 * aim[1] * (pull.function(theta, aim) - aim[0]) ** 2

    pulled = jax.vmap(lambda theta, aim: (spring(theta, aim), jax.grad(spring)(theta, aim), jax.hessian(spring)(theta, aim)))

    def both(theta: Array, weight: Array, target: Array, delta: Array, aim: Array) -> tuple[Array, Array, Array]:
        value, gradient, hessian = misfit(theta, weight, target, delta)
        more = pulled(theta, aim)
        return value + more[0], gradient + more[1], hessian + more[2]

    return both


class _State(NamedTuple):
    """What the slots hold (leading axis: slots), and what is left to do."""

    member: Array
    theta: Array
    value: Array
    gradient: Array
    hessian: Array
    damping: Array
    stage: Array
    count: Array
    total: Array
    fresh: Array  # the derivatives belong to another member or delta: take them anew before stepping
    following: Array  # the next member to load
    found: Array  # (members, p)
    iterations: Array  # (members,)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _search(
    law: Law,
    objective: Objective,
    pull: Pull | None,
    slots: int,
    starts: Array,
    weights: Array,
    observed: Array,
    low: Array,
    high: Array,
    aims: Array,
    rows: Rows,
    deltas: Array,
    last: Array,
    members: Array,
) -> tuple[Array, Array]:
    derive = _derive(law, objective, pull, rows)
    size, p = starts.shape

    def own(array: Array, member: Array) -> Array:
        return jnp.broadcast_to(array, (slots, array.shape[1])) if array.shape[0] == 1 else array[jnp.minimum(member, size - 1)]

    def body(s: _State) -> _State:
        least, most = own(low, s.member), own(high, s.member)
        gradient, hessian, _ = restrict(s.theta, s.gradient, s.hessian, least, most)
        step, slope = _newton_step(gradient, hessian, s.damping)
        moved = jnp.clip(jnp.where(s.fresh[:, None], s.theta, s.theta + step), least, most)
        trial = derive(moved, own(weights, s.member), own(observed, s.member), deltas[s.stage], own(aims, s.member))
        value, slope_new, curve_new = trial
        sound = jnp.isfinite(value) & jnp.isfinite(slope_new).all(axis=1) & jnp.isfinite(curve_new).all(axis=(1, 2))
        better = (s.fresh | (value < s.value)) & sound
        taken = better[:, None]
        settled = ~s.fresh & (slope <= jnp.where(s.stage == last, 1e-3 * DECREMENT, 1e-3) * jnp.abs(s.value)) & (s.damping < 1e-3)
        stuck = ~better & ((s.damping > 1e8) | s.fresh)
        over = s.count >= jnp.where(s.stage == last, ITERATIONS, STAGE_ITERATIONS)
        ended = settled | stuck | over
        done = ended & ((s.stage == last) | (stuck & s.fresh)) & (s.member < members)
        theta = jnp.where(taken, moved, s.theta)
        total = s.total + 1
        found = s.found.at[jnp.where(s.member < members, s.member, size)].set(theta, mode="drop")
        iterations = s.iterations.at[jnp.where(s.member < members, s.member, size)].set(total, mode="drop")
        # A settled member hands its slot to the next one.
        member = jnp.where(done, s.following + jnp.cumsum(done) - 1, s.member)
        loaded = jnp.clip(starts[jnp.minimum(member, size - 1)], own(low, member), own(high, member))
        advance = ended & ~done
        return _State(
            member=member,
            theta=jnp.where(done[:, None], loaded, theta),
            value=jnp.where(better, value, s.value),
            gradient=jnp.where(taken, slope_new, s.gradient),
            hessian=jnp.where(taken[:, :, None], curve_new, s.hessian),
            damping=jnp.where(
                done | advance, 1e-3, jnp.where(s.fresh, s.damping, jnp.where(better, s.damping * 0.1, jnp.maximum(s.damping, 1e-10) * 8))
            ),
            stage=jnp.where(done, 0, jnp.where(advance, s.stage + 1, s.stage)),
            count=jnp.where(done | advance, 0, s.count + 1),
            total=jnp.where(done, 0, total),
            fresh=done | advance,
            following=s.following + done.sum(),
            found=found,
            iterations=iterations,
        )

    member = jnp.arange(slots)
    zero = jnp.zeros(slots, jnp.int64)
    start = _State(
        member=member,
        theta=jnp.clip(starts[:slots], own(low, member), own(high, member)),
        value=jnp.full(slots, jnp.inf),
        gradient=jnp.zeros((slots, p)),
        hessian=jnp.broadcast_to(jnp.eye(p), (slots, p, p)),
        damping=jnp.full(slots, 1e-3),
        stage=zero,
        count=zero,
        total=zero,
        fresh=jnp.ones(slots, bool),
        following=jnp.asarray(slots),
        found=starts,
        iterations=jnp.zeros(size, jnp.int64),
    )
    end = jax.lax.while_loop(lambda s: (s.member < members).any(), body, start)
    return end.found, end.iterations


def restrict(theta: Array, gradient: Array, hessian: Array, low: Array, high: Array) -> tuple[Array, Array, Array]:
    """Gradient and Hessian without the directions whose bounds are active, as they cannot be followed; and which those are."""
    active = ((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0)) | (low == high)
    free = ~active
    hessian = jnp.where(free[:, :, None] & free[:, None, :], hessian, 0.0)
    hessian = hessian + jnp.eye(theta.shape[1])[None] * active[:, :, None]
    return jnp.where(active, 0.0, gradient), hessian, active


def scaled(hessian: Array) -> tuple[Array, Array]:
    """The Hessian in coordinates that give it a unit diagonal, and those coordinates' scale."""
    diagonal = jnp.abs(jnp.diagonal(hessian, axis1=1, axis2=2))
    scale = jax.lax.rsqrt(jnp.maximum(diagonal, 1e-30 + 1e-14 * jnp.max(diagonal, axis=1, keepdims=True)))
    return hessian * scale[:, :, None] * scale[:, None, :], scale


def _newton_step(gradient: Array, hessian: Array, damping: Array) -> tuple[Array, Array]:
    """The damped step and half its slope, unrolled for few parameters and in loops for many, whose unrolled program takes minutes to compile."""
    return (_unrolled_step if gradient.shape[-1] <= UNROLLED else _looped_step)(gradient, hessian, damping)


def _unrolled_step(gradient: Array, hessian: Array, damping: Array) -> tuple[Array, Array]:
    """-(H + damping)^-1 g with H made positive (Gill, Murray & Wright 1981, 4.4.2.2: pivots bounded away from zero), and half |g' step|.

    Unrolled over the few parameters, so that every operation runs along the slots.
    """
    unit, scale = scaled(hessian)
    p = unit.shape[-1]
    rest = unit + damping[:, None, None] * jnp.eye(p)[None]
    bound = jnp.maximum(jnp.max(jnp.abs(rest), axis=(1, 2)), 1.0)
    right = -gradient * scale
    columns, pivots, solved = [], [], []
    for j in range(p):
        column = rest[:, j + 1 :, j]
        largest = jnp.max(jnp.abs(column), axis=1) if j + 1 < p else jnp.zeros_like(bound)
        pivot = jnp.maximum(jnp.maximum(jnp.abs(rest[:, j, j]), largest**2 / bound), 1e-14)
        lower = column / pivot[:, None]
        rest = rest.at[:, j + 1 :, j + 1 :].add(-lower[:, :, None] * column[:, None, :])
        y = right[:, j]
        right = right.at[:, j + 1 :].add(-lower * y[:, None])
        columns.append(lower)
        pivots.append(pivot)
        solved.append(y / pivot)
    step = solved
    for j in reversed(range(p)):
        for i in range(j + 1, p):
            step[j] = step[j] - columns[j][:, i - j - 1] * step[i]
    move = jnp.stack(step, axis=1) * scale
    return move, -0.5 * jnp.sum(move * gradient, axis=1)


def _looped_step(gradient: Array, hessian: Array, damping: Array) -> tuple[Array, Array]:
    """The same, column by column in a loop: the program's size does not grow with the parameters."""
    unit, scale = scaled(hessian)
    p = unit.shape[-1]
    index = jnp.arange(p)
    rest = unit + damping[:, None, None] * jnp.eye(p)[None]
    bound = jnp.maximum(jnp.max(jnp.abs(rest), axis=(1, 2)), 1.0)

    def eliminate(j: Array, state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        rest, right, lowers, pivots = state
        column = jnp.where(index[None] > j, rest[:, :, j], 0.0)
        pivot = jnp.maximum(jnp.maximum(jnp.abs(rest[:, j, j]), jnp.max(jnp.abs(column), axis=1) ** 2 / bound), 1e-14)
        lower = column / pivot[:, None]
        rest = rest - lower[:, :, None] * column[:, None, :]
        right = right - lower * right[:, j, None]
        return rest, right, lowers.at[:, :, j].set(lower), pivots.at[:, j].set(pivot)

    start = (rest, -gradient * scale, jnp.zeros_like(rest), jnp.ones_like(gradient))
    _, solved, lowers, pivots = jax.lax.fori_loop(0, p, eliminate, start)

    def substitute(k: Array, step: Array) -> Array:
        j = p - 1 - k
        return step.at[:, j].add(-jnp.sum(lowers[:, :, j] * step, axis=1))

    move = jax.lax.fori_loop(0, p, substitute, solved / pivots) * scale
    return move, -0.5 * jnp.sum(move * gradient, axis=1)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _describe(
    law: Law,
    objective: Objective,
    pull: Pull | None,
    theta: Array,
    weights: Array,
    observed: Array,
    low: Array,
    high: Array,
    aims: Array,
    rows: Rows,
    delta: Array,
) -> tuple[Array, ...]:
    members = theta.shape[0]
    weight, target = (jnp.broadcast_to(array, (members, array.shape[1])) for array in (weights, observed))
    springs = jnp.broadcast_to(aims, (members, AIMS))
    value, gradient, hessian = _derive(law, objective, pull, rows)(theta, weight, target, jnp.broadcast_to(delta, (members,)), springs)
    gradient, hessian, active = restrict(theta, gradient, hessian, low, high)
    unit, scale = scaled(hessian)
    values, vectors = jnp.linalg.eigh(jnp.where(jnp.isfinite(unit), unit, 0.0))
    along = jnp.einsum("mij,mi->mj", vectors, scale * gradient)
    decrement = 0.5 * jnp.sum(along**2 / jnp.maximum(jnp.abs(values), 1e-300), axis=1)
    least = jnp.min(values, axis=1)
    return theta, value, decrement, least, jnp.max(values, axis=1) / jnp.maximum(least, 1e-300), active


def certified(minimum: Minimum, rows: int) -> np.ndarray:
    """Which members are local optima for certain: decrement at rounding level (or an exact fit) and positive curvature."""
    exact = minimum.objective <= EXACT * rows
    flat = minimum.decrement <= DECREMENT * minimum.objective
    return (flat | exact) & (minimum.curvature > 0) & np.isfinite(minimum.objective)
