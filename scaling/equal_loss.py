"""Many penalties at once, for any law that divides compute between a size and tokens: batched, differentiable, in JAX.

`scaling.penalty` answers one question and explains it; this module answers a hundred thousand, over draws of constants, scales and
gaps, and differentiates them. Both solve the same problem: the least cost at which the follower's law meets the leader's loss.

Everything is in logarithms and on the reducible loss R = L - E: n = ln N, d = ln D, r(n, d) = ln R. A step of Newton's method that is
taken once more at the solution carries the derivatives (implicit function theorem), so no iteration is differentiated.

Shapes: all arguments broadcast to one batch; constants are (..., constants).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fits.laws.base import Inputs, Law
from scaling.errors import InputError
from scaling.repetition import REPETITION_HALF_LIFE

NEWTON_STEPS = 24
BISECTIONS = 80
SPAN = 60.0  # of the logarithms around the leader's within which a follower is looked for
BEYOND = 150.0  # ln N and ln D at which a law has given all it can
TOLERANCE = 1e-9  # of r and of the stationarity; what misses it after Newton's steps is searched for slowly


class Lab(NamedTuple):
    """One side: its law's constants and handicaps. `unique` may be infinite; `c` is the c of training FLOP = c N D."""

    constants: Any
    structure: Any
    data: Any
    unique: Any
    c: Any
    extras: Mapping[str, Any]


class Solution(NamedTuple):
    """Natural logarithms of sizes, tokens and costs (FLOP, serving included) of both sides; infinite where no compute suffices."""

    leader_params: Array
    leader_tokens: Array
    leader_cost: Array
    follower_params: Array
    follower_tokens: Array
    follower_cost: Array

    @property
    def log_penalty(self) -> Array:
        return self.follower_cost - self.leader_cost


@dataclasses.dataclass(frozen=True)
class Form:
    """A law, and whether its constant E is added to all else (then it is taken off, and R = L - E keeps its digits at any scale)."""

    law: Law
    floor: bool


@dataclasses.dataclass(frozen=True)
class Problem:
    """What the compiled solver depends on: both laws, and what the follower keeps of the leader's run (see `scaling.penalty`)."""

    leader: Form
    follower: Form
    fixed: str | None = None  # None, tokens, params, tokens_per_param, or allocation: off its optimum by a given factor
    serving: bool = False

    def __post_init__(self) -> None:
        for law in (self.leader.law, self.follower.law):
            if law.size is None or law.output != "loss":
                raise InputError(
                    f"penalty: law {law.name} does not divide compute between a size and tokens, so there is no compute for a loss"
                )


def log_reducible(form: Form, lab: Lab, n: Any, d: Any) -> Array:
    """ln(L - E) at n = ln N and d = ln D, handicaps and repetition of data counted.

    A law that has unique tokens among its inputs brings its own repetition; to divide its effective tokens by `data` is to divide both tokens
    and unique tokens, of which they are homogeneous. Others get D_eff of Muennighoff et al. 2023, equation 5.
    """
    law = form.law
    log_unique, log_data = jnp.log(lab.unique), jnp.log(lab.data)
    logs = {str(law.size): n - jnp.log(lab.structure), "tokens": d - log_data, **{name: jnp.log(x) for name, x in lab.extras.items()}}
    if "unique_tokens" in law.inputs:
        logs["unique_tokens"] = jnp.minimum(log_unique, BEYOND) - log_data
    else:
        epochs = jnp.exp(jnp.clip(d - log_unique, 0.0, 30.0))
        logs["tokens"] = logs["tokens"] + jnp.where(
            d > log_unique, log_unique - d + jnp.log1p(-REPETITION_HALF_LIFE * jnp.expm1(-(epochs - 1) / REPETITION_HALF_LIFE)), 0.0
        )
    named = {name: lab.constants[..., place] for place, name in enumerate(law.constants)}
    if form.floor:
        named["E"] = jnp.zeros_like(named["E"])
    logs = {name: jnp.asarray(logs[name]) for name in law.inputs}
    return jnp.log(law.function(named, Inputs({name: jnp.exp(x) for name, x in logs.items()}, logs)))


def irreducible(form: Form, lab: Lab) -> Any:
    """E, zero for a law without one."""
    return lab.constants[..., form.law.constants.index("E")] if form.floor else jnp.zeros_like(lab.constants[..., 0])


Slope = Callable[[Array], Array]


def slopes(r: Callable[[Any, Any], Array], n: Array, d: Array) -> tuple[Array, Array]:
    """dr/dn and dr/dd, element by element."""
    one, zero = jnp.ones_like(n), jnp.zeros_like(n)
    return jax.jvp(r, (n, d), (one, zero))[1], jax.jvp(r, (n, d), (zero, one))[1]


def _bisect(f: Slope, low: Array, high: Array) -> Array:
    """Where a decreasing f crosses zero; an end where it does not."""

    def half(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        above = f(middle) > 0
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    low, high = jax.lax.fori_loop(0, BISECTIONS, half, (low, high))
    return (low + high) / 2


def _with_derivatives(f: Slope, root: Array) -> Array:
    """`root` of f, and by one more step of Newton's method its derivatives to all that f depends on."""
    root = jax.lax.stop_gradient(root)
    value, slope = jax.jvp(f, (root,), (jnp.ones_like(root),))
    step = value / jax.lax.stop_gradient(jnp.where(slope == 0, 1.0, slope))
    return root - jnp.where(jnp.isfinite(step), step, 0.0)


def optimal_log_params(r: Callable[[Any, Any], Array], product: Array, law: Law, lab: Lab) -> Array:
    """ln N of least loss where ln N + ln D = `product`: Newton's method on dr/dn = dr/dd within a bracket."""

    def fall(n: Array) -> Array:  # of the loss as size is traded for tokens: positive where more size helps
        of_n, of_d = slopes(r, n, product - n)
        return of_d - of_n

    def step(_: Any, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        n, low, high = state
        value, slope = jax.jvp(fall, (n,), (jnp.ones_like(n),))
        low, high = jnp.where(value > 0, n, low), jnp.where(value > 0, high, n)
        moved = n - value / slope
        inside = (moved > low) & (moved < high)
        return jnp.where(inside, moved, (low + high) / 2), low, high

    low, high = jnp.zeros_like(product), product
    start = product / 2
    if law.terms is not None:  # the optimum of fresh data, which is all there is to find where data suffice
        named = {name: lab.constants[..., place] for place, name in enumerate(law.constants)}
        t = law.terms(named, Inputs(dict(lab.extras)))
        log_m, log_k = jnp.log(lab.structure), jnp.log(lab.data)
        start = log_m + (jnp.log(t.alpha * t.a / (t.beta * t.b)) + t.beta * (product - log_m - log_k)) / (t.alpha + t.beta)
        start = jnp.clip(start, low, high)
    n, _, _ = jax.lax.fori_loop(0, NEWTON_STEPS, step, (start, low, high))
    return _with_derivatives(fall, n)


def log_cost(n: Any, d: Any, c: Any, served: Any) -> Array:
    """ln of c N D + 2 N S: training, and serving S tokens."""
    return n + jnp.logaddexp(jnp.log(c) + d, jnp.log(2 * served))


def _cheapest(r: Callable[[Any, Any], Array], target: Array, c: Any, served: Any, start: tuple[Array, Array]) -> tuple[Array, Array, Array]:
    """(n, d, missed) of least cost with r = target: Newton's method on the two conditions, damped to steps of one e-fold.

    At the optimum cost and loss have parallel gradients: dr/dn w = dr/dd, w the share of training in the cost. `missed` says where the
    conditions do not hold to TOLERANCE.
    """

    def conditions(n: Array, d: Array) -> tuple[Array, Array]:
        share = jax.nn.sigmoid(jnp.log(c) + d - jnp.log(2 * served)) if served is not None else 1.0
        of_n, of_d = slopes(r, n, d)
        return r(n, d) - target, of_n * share - of_d

    def newton(n: Array, d: Array) -> tuple[Array, Array, Array]:
        one, zero = jnp.ones_like(n), jnp.zeros_like(n)
        (g, h), (g_n, h_n) = jax.jvp(conditions, (n, d), (one, zero))
        _, (g_d, h_d) = jax.jvp(conditions, (n, d), (zero, one))
        g_n, g_d, h_n, h_d = map(jax.lax.stop_gradient, (g_n, g_d, h_n, h_d))
        determinant = g_n * h_d - g_d * h_n
        determinant = jnp.where(determinant == 0, 1.0, determinant)
        return (g * h_d - h * g_d) / determinant, (h * g_n - g * h_n) / determinant, jnp.maximum(jnp.abs(g), jnp.abs(h))

    def step(_: Any, point: tuple[Array, Array]) -> tuple[Array, Array]:
        n, d = point
        dn, dd, _ = newton(n, d)
        longest = jnp.maximum(1.0, jnp.maximum(jnp.abs(dn), jnp.abs(dd)))
        moved = n - dn / longest, d - dd / longest
        finite = jnp.isfinite(moved[0] + moved[1])
        return jnp.where(finite, moved[0], n), jnp.where(finite, moved[1], d)

    n, d = jax.lax.stop_gradient(jax.lax.fori_loop(0, NEWTON_STEPS, step, start))
    dn, dd, residual = newton(n, d)
    missed = ~(residual < TOLERANCE)
    return n - jnp.where(missed, 0.0, dn), d - jnp.where(missed, 0.0, dd), missed


def _searched(r: Callable[[Any, Any], Array], target: Array, c: Any, served: Any, middle: Array) -> tuple[Array, Array]:
    """The same by golden section over n, with d by bisection at each: slow and sure, without derivatives."""
    golden = (np.sqrt(5) - 1) / 2

    def tokens(n: Array) -> Array:
        return _bisect(lambda d: r(n, d) - target, jnp.zeros_like(n), jnp.full_like(n, BEYOND))

    def cost(n: Array) -> Array:
        d = tokens(n)
        return jnp.where(r(n, jnp.full_like(n, BEYOND)) < target, log_cost(n, d, c, served), jnp.inf)

    # Below the least size that can meet the target at all the cost is infinite.
    least = _bisect(lambda n: r(n, jnp.full_like(n, BEYOND)) - target, jnp.zeros_like(middle), jnp.full_like(middle, BEYOND))

    def shrink(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        left, right = high - golden * (high - low), low + golden * (high - low)
        lower = cost(left) < cost(right)
        return jnp.where(lower, low, left), jnp.where(lower, right, high)

    low, high = jax.lax.fori_loop(0, BISECTIONS, shrink, (least, jnp.maximum(middle + SPAN, least + SPAN)))
    n = (low + high) / 2
    return n, tokens(n)


def _leader(problem: Problem, lab: Lab, log_flops: Array, log_overtraining: Array, served: Any) -> tuple[Array, Array, Array]:
    """(n, d, r) of the leader: its optimum for the training compute, shifted by over-training, or re-allocated for serving."""
    r = partial(log_reducible, problem.leader, lab)
    product = log_flops - jnp.log(lab.c)
    n = optimal_log_params(r, product, problem.leader.law, lab) - log_overtraining / 2
    d = product - n
    if not problem.serving:
        return n, d, r(n, d)
    target = r(n, d)
    n, d, _ = _cheapest(r, target, lab.c, served, (n, d))
    return n, d, target


def _on_path(
    r: Callable[[Any, Any], Array], path: Callable[[Array], tuple[Array, Array]], target: Array, middle: Array
) -> tuple[Array, Array]:
    def excess(s: Array) -> Array:
        return r(*path(s)) - target

    low, high = middle - SPAN, middle + SPAN
    s = _bisect(excess, low, high)
    s = _with_derivatives(excess, s)
    n, d = path(s)
    reached = excess(high) < 0
    return jnp.where(reached, n, jnp.inf), jnp.where(reached, d, jnp.inf)


def solve(
    problem: Problem, leader: Lab, follower: Lab, log_flops: Array, log_overtraining: Array, log_error: Array, served: Any
) -> tuple[Solution, Array]:
    """The solution of a whole batch, and where Newton's method missed it (`search` then finds those). Traced: call it under `jax.jit`, in x64."""
    n, d, reducible = _leader(problem, leader, log_flops, log_overtraining, served if problem.serving else None)
    cost = log_cost(n, d, leader.c, served)
    r = partial(log_reducible, problem.follower, follower)
    spare = jnp.exp(reducible) + irreducible(problem.leader, leader) - irreducible(problem.follower, follower)
    target = jnp.log(jnp.maximum(spare, 1e-300))
    missed = jnp.zeros(target.shape, bool)
    far = jnp.full_like(target, BEYOND)
    possible = (spare > 0) & (r(far, far) < target)
    log_m, log_k = jnp.log(follower.structure), jnp.log(follower.data)
    if problem.fixed == "tokens":
        fn, fd = _on_path(r, lambda s: (s, d), target, n)
    elif problem.fixed == "params":
        fn, fd = _on_path(r, lambda s: (n, s), target, d)
    elif problem.fixed == "tokens_per_param":
        fn, fd = _on_path(r, lambda s: (n + s, d + s), target, jnp.zeros_like(n))
    elif problem.fixed == "allocation":

        def off(product: Array) -> tuple[Array, Array]:
            size = optimal_log_params(r, product, problem.follower.law, follower) + log_error
            return size, product - size

        fn, fd = _on_path(r, off, target, n + d)
    else:
        fn, fd, missed = _cheapest(r, target, follower.c, served if problem.serving else None, (n + log_m, d + log_k))
        possible = possible | ~missed  # a law that rises again far out may be met nearer
        missed = missed & possible
    bad = ~possible | ~jnp.isfinite(fn + fd)
    reached = log_cost(fn, fd, follower.c, served)
    infinite = jnp.full_like(reached, jnp.inf)
    fn, fd, reached = (jnp.where(bad, infinite, x) for x in (fn, fd, reached))
    return Solution(n, d, cost, fn, fd, reached), missed


def search(
    problem: Problem, leader: Lab, follower: Lab, log_flops: Array, log_overtraining: Array, log_error: Array, served: Any
) -> Solution:
    """As `solve` with nothing fixed, by a search that needs no start. No derivatives."""
    n, d, reducible = _leader(problem, leader, log_flops, log_overtraining, served if problem.serving else None)
    r = partial(log_reducible, problem.follower, follower)
    target = jnp.log(jnp.exp(reducible) + irreducible(problem.leader, leader) - irreducible(problem.follower, follower))
    fn, fd = _searched(r, target, follower.c, served, n + jnp.log(follower.structure))
    return Solution(n, d, log_cost(n, d, leader.c, served), fn, fd, log_cost(fn, fd, follower.c, served))
