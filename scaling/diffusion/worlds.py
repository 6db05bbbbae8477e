"""Many worlds at once: every actor's effective compute on the grid of dates, and when each capability is reached. Traced by JAX, differentiable.

Arrays are (actors, worlds), either of which may be 1; everything is in natural logarithms. A run's compute is the least of what the budget buys
(C = i h), what the chips do in a run's length, and physical limits. Effective compute is X = a C / (m k), less what repeated data waste
(`scaling.diffusion.data_wall`); m structure and k data gap, a algorithms. Between dates ln X is a straight line, which is exact where growth is steady.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from scaling.diffusion import data_wall, stocks

Fields = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Spec:
    """What the compiled simulation depends on besides shapes. `named`: rows whose paths are kept; `leader`: one of them.

    `pupils`: for each row the place of its teacher's path in `lessons` (row of the teacher, delay in steps), or -1. `releases`: the same pairs
    for weights that everyone may use.
    """

    step: float
    named: tuple[int, ...]
    leader: int
    stock: bool = False
    limited_data: bool = False
    synthetic: bool = False
    fuzzy: bool = False
    controlled: bool = False
    learning: bool = False
    lessons: tuple[tuple[int, float], ...] = ()
    pupils: tuple[int, ...] = ()
    releases: tuple[tuple[int, float], ...] = ()


class Law(NamedTuple):
    """ln(A/B), exponents, and ln G of the optimal size N = G (C/6)^(beta/(alpha+beta)); (1, worlds). `share`: of algorithmic gains on data."""

    log_ratio: Any
    alpha: Any
    beta: Any
    share: Any
    log_flops_per_pair: Any


class Runs(NamedTuple):
    """What comes out. Paths (dates, rows, worlds) of named actors: effective compute of the date's own run, the best within reach so far (models stay), run FLOP, what the budget and the
    chips would allow, parameters, H100 equivalents at work on serving; `reached` (capabilities, actors, worlds): years from the start, infinite
    if never; `counts` (dates, capabilities, worlds)."""

    own: Any
    accessible: Any
    run: Any
    afforded: Any
    supplied: Any
    log_params: Any
    serving: Any
    reached: Any
    counts: Any


class State(NamedTuple):
    gap: Array
    stock: Any
    before: Array
    best: Array
    reached: tuple[Array, ...]


def simulate(spec: Spec, f: Fields, paths: Fields, law: Law, levels: Array, widths: Array) -> Runs:
    """All worlds. `paths` are (dates, actors or 1); `levels` ln X of the capabilities and `widths` of their emergence, (capabilities, worlds or 1)."""
    table = data_wall.tabulate(law.alpha, law.beta) if spec.limited_data else None
    dates = {name: path.reshape(path.shape[0], -1, 1) for name, path in paths.items()}
    lessons = _lessons(spec, f, dates, law, table)

    def step(state: State, now: Any) -> tuple[State, Any]:
        p, lesson, place = now
        out, chips = _day(spec, f, p, law, table, state, lesson)
        x = out["accessible"]
        best = jnp.maximum(state.best, x)
        reached = tuple(
            jnp.where(
                jnp.isinf(old) & (x >= level),
                jnp.where(place == 0, 0.0, (place - 1 + _part(state.before, x, level)) * spec.step),
                old,
            )
            for old, level in zip(state.reached, levels[:, None, :], strict=True)
        )
        counts = jnp.stack(
            [_with_access(spec, best, level, width) for level, width in zip(levels[:, None, :], widths[:, None, :], strict=True)]
        )
        gap = state.gap
        if spec.learning:
            gap = _next_gap(f, gap, spec.step)
        stock = stocks.step(chips, f, p, spec.step) if spec.stock else chips
        rows = jnp.asarray(spec.named)
        kept = {name: _full(value, x.shape)[rows] for name, value in (out | {"accessible": best}).items()}
        return State(gap, stock, x, best, reached), (kept, counts)

    shape = _shape(f, dates, law, levels)
    dtype = levels.dtype
    empty = jnp.full(shape, -jnp.inf, dtype)
    first = {name: path[0] for name, path in dates.items()}
    gap = jnp.zeros(shape, dtype) + f["gap"] if spec.learning else f["gap"]
    stock = _widened(stocks.first(f, first), shape) if spec.stock else None
    start = State(gap, stock, empty, empty, tuple(jnp.full(shape, jnp.inf, dtype) for _ in range(levels.shape[0])))
    count = dates["years"].shape[0]
    end, (kept, counts) = jax.lax.scan(step, start, (dates, lessons, jnp.arange(count, dtype=dtype)))
    reached = jnp.stack(end.reached)
    return Runs(**kept, reached=reached, counts=counts)


def _day(spec: Spec, f: Fields, p: Fields, law: Law, table: Any, state: State, lesson: Any) -> tuple[dict[str, Array], Any]:
    """Everything of one date."""
    years = p["years"]
    afforded = f["log_budget"] + p["budget"] + f["rate_budget"] * years + f["log_h"] + f["rate_h"] * years
    leader = slice(spec.leader, spec.leader + 1)
    if f["on_budget"].shape[1] > 1:  # attribution: the follower with the leader's money
        lead = (f["log_budget"] + f["rate_budget"] * years)[leader] + p["budget"][leader] + f["log_h"] + f["rate_h"] * years
        afforded = f["on_budget"] * afforded + (1 - f["on_budget"]) * lead
    price = f["on_chips"] * p["price_free"]
    if spec.controlled:
        held = price + f["on_controls"] * (p["price_held"] - p["price_free"])
        around = jnp.maximum(f["cloud_price"], f["smuggling_price"])
        price = jnp.where(p["bound"] * f["on_controls"] > 0, jnp.maximum(held, around), price)
    afforded = afforded + price
    supplied = jnp.full_like(afforded, 1e3)
    chips = state.stock
    if spec.stock:
        working = jnp.maximum(stocks.at_work(chips, f, p, "training"), 1e-30)
        supplied = jnp.where(f["has_stock"] > 0, jnp.log(working) + f["log_run"], 1e3)
    run = jnp.minimum(jnp.minimum(afforded, supplied), p["limit"])
    algorithms = f["rate_a"] * (years - f["delay"]) - state.gap
    if spec.controlled:
        algorithms = algorithms + p["bound"] * f["on_controls"] * f["log_software"]
    log_m = f["log_m"] - (1 - law.share) * algorithms
    log_k = f["log_k"] - law.share * algorithms
    log_n = log_params(law, run, log_m, log_k)
    x = run - log_m - log_k
    if spec.limited_data:
        unique = f["log_unique"] + f["rate_unique"] * years
        if spec.synthetic:
            written = f["log_synthetic"] + f["log_whole"] + run - math.log(2.0) - log_n
            unique = jnp.logaddexp(unique, written)
        x = x - data_wall.deficit(table, wall_distance(law, run, log_m, log_k, unique))
    if spec.lessons and spec.pupils:
        taught = lesson["lessons"][jnp.asarray(spec.pupils)]
        x = x + f["distillation"] * jnp.maximum(taught - x, 0.0)
    own = x + p["inference"] * f["log_inference"] * f["inverse_mu"]
    accessible = own
    if spec.releases:
        released = jnp.max(lesson["releases"], axis=0, keepdims=True)
        accessible = jnp.where(f["on_open"] > 0, jnp.maximum(own, released), own)
    serving = _serving(spec, f, p, run, chips)
    out = {
        "own": own,
        "accessible": accessible,
        "run": run,
        "afforded": afforded,
        "supplied": supplied,
        "log_params": log_n,
        "serving": serving,
    }
    return out, chips


def log_params(law: Law, run: Array, log_m: Array, log_k: Array) -> Array:
    """ln of the size of a compute-optimal run: N = m G (C / (6 m k))^(beta / (alpha + beta))."""
    both = law.alpha + law.beta
    log_g = (jnp.log(law.alpha / law.beta) + law.log_ratio) / both
    return log_m + log_g + law.beta / both * (run - law.log_flops_per_pair - log_m - log_k)


def wall_distance(law: Law, run: Array, log_m: Array, log_k: Array, log_unique: Array) -> Array:
    """y of `data_wall`: ln of C / (6 m U) over the natural size of the law at U / k."""
    natural = (law.log_ratio + law.beta * (log_unique - log_k)) / law.alpha
    return run - law.log_flops_per_pair - log_m - log_unique - natural


def _serving(spec: Spec, f: Fields, p: Fields, run: Array, chips: Any) -> Array:
    """ln FLOP/s, of H100s' training rate, that go into deployment: of the chips owned, or of a budget in proportion to its runs."""
    own = jnp.log(jnp.maximum(f["deployment"], 1e-30))
    worth = jnp.log(p["serving_free"] / p["training_free"]) * f["on_chips"]
    if spec.controlled:
        held = jnp.log(p["serving_held"] / p["training_held"]) - jnp.log(p["serving_free"] / p["training_free"])
        worth = worth + f["on_controls"] * held
    of_budget = run + f["log_whole"] - jnp.log(f["run_seconds"]) + own + worth
    if not spec.stock:
        return of_budget
    working = jnp.maximum(stocks.at_work(chips, f, p, "serving"), 1e-30)
    return jnp.where(f["has_stock"] > 0, jnp.log(working) + f["log_run"] + f["log_whole"] - jnp.log(f["run_seconds"]) + own, of_budget)


def _next_gap(f: Fields, gap: Array, years: float) -> Array:
    """dG/dt = r_leader - r_own - lambda G, solved exactly over a step; a constant gap for who does not learn by dissemination."""
    rate = f["dissemination"] * years
    small = rate < 1e-8
    safe = jnp.where(small, 1.0, rate)
    spread = years * jnp.where(small, 1.0, -jnp.expm1(-safe) / safe)
    return jnp.where(f["learns"] > 0, gap * jnp.exp(-rate) + (f["rate_a"] - f["own_rate"]) * spread, gap)


def _part(before: Array, now: Array, level: Array) -> Array:
    """The part of the step at which a straight line from `before` to `now` crosses `level`."""
    rise = now - before
    return jnp.clip(jnp.where(rise > 0, (level - before) / jnp.where(rise > 0, rise, 1.0), 1.0), 0.0, 1.0)


def _with_access(spec: Spec, best: Array, level: Array, width: Array) -> Array:
    """How many have a capability: those above its level, or the sum of the shares in which it has emerged."""
    sharp = (best >= level).astype(best.dtype)
    if not spec.fuzzy:
        return jnp.sum(sharp, axis=0)
    soft = jax.nn.sigmoid((best - level) / jnp.where(width > 0, width, 1.0))
    return jnp.sum(jnp.where(width > 0, soft, sharp), axis=0)


def _lessons(spec: Spec, f: Fields, dates: Fields, law: Law, table: Any) -> dict[str, Array]:
    """Paths of teachers and of released weights, delayed: (dates, pairs, worlds); minus infinity before there is anything."""
    found: dict[str, Array] = {}
    for name, pairs in (("lessons", spec.lessons), ("releases", spec.releases)):
        if not pairs:
            continue
        rows = sorted({row for row, _ in pairs})
        alone = dataclasses.replace(spec, named=tuple(range(len(rows))), leader=0, lessons=(), pupils=(), releases=())
        part = jnp.asarray(rows)
        # Rows of the teachers only. What the reference actor would pay is none of their business: budgets are their own.
        few = {key: value[part] if value.shape[0] > 1 else value for key, value in f.items() if key != "on_budget"}
        few["on_budget"] = jnp.ones((1, 1), f["gap"].dtype)
        some = {key: path[:, part] if path.shape[1] > 1 else path for key, path in dates.items()}
        levels = jnp.zeros((1, 1), f["gap"].dtype)
        flat = {key: path[..., 0] for key, path in some.items()}
        paths = simulate(alone, few, flat, law, levels, levels).own
        found[name] = jnp.stack([_delayed(paths[:, rows.index(row)], delay) for row, delay in pairs], axis=1)
    return found


def _delayed(path: Array, steps: float) -> Array:
    """A path (dates, worlds) `steps` steps later, by straight lines between dates; minus infinity before its start."""
    whole, part = math.floor(steps), steps - math.floor(steps)
    none = jnp.full((whole + 1, path.shape[1]), -jnp.inf, path.dtype)
    padded = jnp.concatenate([none, path])
    later = padded[1 : path.shape[0] + 1] if part == 0 else (1 - part) * padded[1 : path.shape[0] + 1] + part * padded[: path.shape[0]]
    return jnp.where(jnp.isnan(later), -jnp.inf, later)


def _shape(f: Fields, dates: Fields, law: Law, levels: Array) -> tuple[int, int]:
    shapes = [value.shape for value in f.values()] + [path.shape[1:] for path in dates.values()]
    shapes += [value.shape for value in law] + [(1, levels.shape[1])]
    actors, worlds = jnp.broadcast_shapes(*shapes)
    return actors, worlds


def _full(value: Array, shape: tuple[int, ...]) -> Array:
    return jnp.broadcast_to(value, shape)


def _widened(stock: Any, shape: tuple[int, int]) -> Any:
    return jax.tree.map(lambda value: jnp.broadcast_to(value, shape), stock)
