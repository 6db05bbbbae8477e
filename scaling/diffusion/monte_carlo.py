"""Batches of worlds through the compiled simulation: quasi-random draws of what is uncertain, in chunks, on all cores, the same by seed."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtri

from fits.curve import Curve
from scaling.devices import cores
from scaling.diffusion import worlds
from scaling.diffusion.actors import NEEDS_ABOVE_ONE, PARTY_PARAMETERS, TREND_PARAMETERS, Cast
from scaling.diffusion.scenario import Scenario, Uncertain, unknown
from scaling.diffusion.trends import trend
from scaling.diffusion.worlds import Law, Runs, Spec
from scaling.errors import InputError

CHUNK_ELEMENTS = 2**15  # actors times worlds of one call: the step's arrays stay in a core's cache
DEFAULT_SPREADS = {"price_performance": "price-performance-ml-gpus", "algorithms": "algorithms-ho2024"}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One uncertain number: the field or capability that it moves, on which rows, and how its draws spread.

    `centre` and `sd` are of z, which is added to a logarithm, or whose exponential multiplies a rate or an amount; z = 0 is the stated value.
    `trend` names the trend whose own, lopsided interval gives the draws; `base` is then the stated rate.
    """

    path: str
    field: str
    mode: str
    rows: tuple[int, ...] | None
    centre: float
    sd: float
    trend: str | None = None
    base: float = 0.0

    def quantile(self, probability: np.ndarray) -> np.ndarray:
        """z at each probability."""
        if self.trend is not None:
            rates = np.log(np.maximum(_trend(self.trend).growth_quantile(probability), 1 + 1e-9))
            return np.log(rates / self.base)
        return self.centre + self.sd * ndtri(probability)


@dataclasses.dataclass(frozen=True)
class Model:
    """A scenario ready to run: what is compiled against, the arrays, and what is uncertain."""

    spec: Spec
    fields: dict[str, np.ndarray]
    paths: dict[str, np.ndarray]
    curve: Curve
    data_share: float
    levels: np.ndarray  # ln X, (capabilities, 1)
    widths: np.ndarray
    parameters: tuple[Parameter, ...]


def model(scenario: Scenario, cast: Cast, curve: Curve) -> Model:
    """The scenario's model."""
    fields = cast.fields
    limited = bool((fields["log_unique"] < 700).any())
    if not limited and any(each.synthetic for each in cast.parties):
        raise InputError(f"scenario {scenario.name}: synthetic data matter only where data run out; give unique_tokens")
    pupils, lessons = _pupils(scenario, cast)
    releases = tuple(
        (row, (party.weights_after or 0.0) / scenario.step) for row, party in enumerate(cast.parties) if party.weights_after is not None
    )
    spec = Spec(
        step=scenario.step,
        named=tuple(cast.named),
        leader=cast.leader,
        stock=bool((fields["has_stock"] > 0).any()),
        limited_data=limited,
        synthetic=any(each.synthetic is not None for each in cast.parties),
        fuzzy=any(each.width > 0 for each in scenario.capabilities),
        controlled=bool((cast.paths["bound"] > 0).any()),
        learning=bool((fields["learns"] > 0).any()),
        lessons=lessons,
        pupils=pupils,
        releases=releases,
    )
    levels = []
    for each in scenario.capabilities:
        flops = each.effective_flops if each.loss is None else float(curve.compute_for(each.loss))
        assert flops is not None  # one of both is given
        if not math.isfinite(flops):
            raise InputError(f"capabilities.{each.name}: curve {curve.name} reaches a loss of {each.loss} at no compute")
        levels.append([math.log(flops)])
    widths = [[each.width * math.log(10.0)] for each in scenario.capabilities]
    parameters = _parameters(scenario, cast)
    return Model(spec, fields, cast.paths, curve, scenario.trends.data_share, np.array(levels), np.array(widths), parameters)


def _pupils(scenario: Scenario, cast: Cast) -> tuple[tuple[int, ...], tuple[tuple[int, float], ...]]:
    pairs: list[tuple[int, float]] = []
    places = []
    for party in cast.parties:
        if party.distils_from is None:
            places.append(0)  # with distillation 0, whose lesson does not matter
            continue
        pair = (cast.names.index(party.distils_from), party.distillation_delay / scenario.step)
        if pair not in pairs:
            pairs.append(pair)
        places.append(pairs.index(pair))
    return (tuple(places), tuple(pairs)) if pairs else ((), ())


def _parameters(scenario: Scenario, cast: Cast) -> tuple[Parameter, ...]:
    given = scenario.uncertainty.parameters
    if given is None:
        return tuple(found for key, name in DEFAULT_SPREADS.items() if (found := _by_default(scenario, cast, key, name)) is not None)
    return tuple(_parameter(scenario, cast, path, spread) for path, spread in given.items())


def _by_default(scenario: Scenario, cast: Cast, key: str, name: str) -> Parameter | None:
    """A trend's published interval, moved to the scenario's own value; the trend's own where the scenario names one with an interval."""
    field, mode = TREND_PARAMETERS[key]
    rate, stated = float(cast.fields[field][0, 0]), getattr(scenario.trends, key)
    if rate <= 0:
        return None
    if isinstance(stated, str) and _trend(stated).low is not None:
        return Parameter(f"trends.{key}", field, mode, None, 0.0, 1.0, stated, rate)
    low, high = np.log(_trend(name).growth_quantile(np.array([0.05, 0.95])))
    return Parameter(f"trends.{key}", field, mode, None, 0.0, float(np.log(high / low) / (2 * ndtri(0.95))))


@functools.cache
def _trend(name: str) -> Any:
    from scaling.diffusion.trends import load_trends

    found = load_trends()[name]
    return trend(name, found.kind)


def _parameter(scenario: Scenario, cast: Cast, path: str, spread: Uncertain) -> Parameter:
    where = f"uncertainty.parameters.{path!r}"
    kind, _, rest = path.partition(".")
    field, mode, rows, base, key = _place(scenario, cast, where, kind, rest)
    if spread.sd is not None:
        return Parameter(path, field, mode, rows, 0.0, spread.sd)
    assert spread.low is not None
    assert spread.high is not None
    low, high = math.log(spread.low), math.log(spread.high)
    if mode == "multiply" and (field.startswith("rate_") or key in NEEDS_ABOVE_ONE):
        if low <= 0 or base <= 0:
            raise InputError(f"{where}: its interval and its stated value must lie above 1; for others give sd")
        low, high, base = math.log(low), math.log(high), math.log(base)
    elif mode == "multiply":
        if base <= 0:
            raise InputError(f"{where}: the stated value is 0, which no factor moves; state a middle value")
        base = math.log(base)
    sd = (high - low) / (2 * float(ndtri((1 + spread.level) / 2)))
    return Parameter(path, field, mode, rows, (low + high) / 2 - base, sd)


def _place(scenario: Scenario, cast: Cast, where: str, kind: str, rest: str) -> tuple[str, str, tuple[int, ...] | None, float, str]:
    """Field, mode, rows, stated value as the field has it, and the key."""
    if kind == "trends":
        if rest not in TREND_PARAMETERS:
            raise InputError(f"{where}: {unknown('trend', rest, list(TREND_PARAMETERS))}")
        field, mode = TREND_PARAMETERS[rest]
        return field, mode, None, float(cast.fields[field].flat[0]), rest
    if kind == "capabilities":
        names = [each.name for each in scenario.capabilities]
        name = rest.removesuffix(".effective_flops")
        if name not in names:
            raise InputError(f"{where}: {unknown('capability', name, names)}")
        place = names.index(name)
        return "levels", "add", (place,), math.log(scenario.capabilities[place].effective_flops or math.nan), "effective_flops"
    if kind in ("actors", "populations"):
        groups = list(dict.fromkeys(cast.groups))
        name = next((each for each in sorted(groups, key=len, reverse=True) if rest.startswith(f"{each}.")), None)
        key = rest[len(name) + 1 :] if name else ""
        if name is None or key not in PARTY_PARAMETERS:
            raise InputError(
                f"{where}: write {kind}.NAME.KEY with a NAME of {', '.join(groups)} and a KEY of {', '.join(PARTY_PARAMETERS)}"
            )
        field, mode = PARTY_PARAMETERS[key]
        rows = tuple(cast.rows(name))
        return field, mode, rows, float(cast.fields[field][rows[0], 0]), key
    raise InputError(f"{where}: a path starts with trends, actors, populations or capabilities")


def quasi_random(parameters: Sequence[Parameter], draws: int, seed: int) -> np.ndarray:
    """z of every parameter, (parameters, draws): a scrambled Sobol sequence through each one's quantiles."""
    return _through_quantiles(parameters, points(max(len(parameters), 1), draws, seed))


def points(dimensions: int, draws: int, seed: int) -> np.ndarray:
    """Scrambled Sobol points, (draws, dimensions), strictly inside the unit cube."""
    from scipy.stats import qmc

    sampler = qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng(seed))
    power = max(draws - 1, 1).bit_length()
    return np.clip(sampler.random_base2(power)[:draws], 1e-9, 1 - 1e-9)


def _through_quantiles(parameters: Sequence[Parameter], unit: np.ndarray) -> np.ndarray:
    if not parameters:
        return np.zeros((0, len(unit)))
    return np.stack([each.quantile(unit[:, place]) for place, each in enumerate(parameters)])


def law_of(curve: Curve, data_share: float, constants: np.ndarray | None = None) -> Law:
    """The law's arrays, (1, worlds); of draws of constants (worlds, 5) where given."""
    vector = curve.vector[None] if constants is None else constants
    named = dict(zip(curve.law.constants, vector.T[:, None, :], strict=True))
    ones = np.ones((1, 1))
    return Law(
        np.log(named["A"] / named["B"]), named["alpha"], named["beta"], data_share * ones, math.log(curve.flops_per_param_token) * ones
    )


def run(
    model: Model, z: np.ndarray, *, fields: Mapping[str, np.ndarray] | None = None, law: Law | None = None, precision: str = "float64"
) -> Runs:
    """The simulation of the worlds z (parameters, worlds), in chunks on all cores; arrays as in `worlds.Runs`, on the host.

    `fields` replace the model's, with worlds on their second axis: z then moves nothing.
    """
    fields = dict(model.fields if fields is None else fields)
    law = law or law_of(model.curve, model.data_share)
    count = max(z.shape[1], max((value.shape[1] for value in fields.values()), default=1), max(x.shape[1] for x in law))
    actors = max(value.shape[0] for value in fields.values())
    size = min(max(1, CHUNK_ELEMENTS // actors), count)
    size = 1 << (size - 1).bit_length() if size < count or count <= 64 else size
    chunks = -(-count // size)
    moves = _moves(model.parameters, actors, len(model.levels))

    def cut(value: np.ndarray, chunk: int) -> np.ndarray:
        if value.shape[-1] == 1 and count > 1:
            return np.asarray(value, precision)
        part = value[..., chunk * size : (chunk + 1) * size]
        short = size - part.shape[-1]
        whole = np.concatenate([part, np.broadcast_to(part[..., :1], (*part.shape[:-1], short))], axis=-1) if short else part
        return np.asarray(whole, precision)

    def work(chunk: int) -> Runs:
        with jax.enable_x64(precision == "float64"):
            parts = jax.tree.map(lambda value: cut(value, chunk), (fields, law, z))
            still = jax.tree.map(lambda value: np.asarray(value, precision), (moves, model.paths, model.levels, model.widths))
            return jax.tree.map(np.asarray, simulated(model.spec, _names(model.parameters), *parts, *still))

    with ThreadPoolExecutor(min(cores(), chunks)) as pool:
        found = list(pool.map(work, range(chunks)))
    return jax.tree.map(lambda *parts: np.concatenate(parts, axis=-1)[..., :count] if chunks > 1 else parts[0][..., :count], *found)


def _names(parameters: Sequence[Parameter]) -> tuple[tuple[str, str], ...]:
    return tuple(dict.fromkeys((each.field, each.mode) for each in parameters))


def _moves(parameters: Sequence[Parameter], actors: int, capabilities: int) -> dict[str, np.ndarray]:
    """By field: which parameter moves which row, (rows or 1, parameters)."""
    found: dict[str, np.ndarray] = {}
    for place, each in enumerate(parameters):
        rows = 1 if each.rows is None else capabilities if each.field == "levels" else actors
        matrix = found.get(each.field)
        if matrix is None or matrix.shape[0] < rows:
            wide = np.zeros((rows, len(parameters)))
            found[each.field] = wide if matrix is None else wide + matrix
        target = slice(None) if each.rows is None else list(each.rows)
        found[each.field][target, place] = 1.0
    return found


@functools.partial(jax.jit, static_argnums=(0, 1))
def simulated(
    spec: Spec,
    names: tuple[tuple[str, str], ...],
    fields: dict[str, Any],
    law: Law,
    z: Any,
    moves: dict[str, Any],
    paths: dict[str, Any],
    levels: Any,
    widths: Any,
) -> Runs:
    """The worlds of z."""
    moved, levels = shifted(names, fields, z, moves, levels)
    return worlds.simulate(spec, moved, paths, law, levels, widths)


def shifted(
    names: tuple[tuple[str, str], ...], fields: dict[str, Any], z: Any, moves: dict[str, Any], levels: Any
) -> tuple[dict[str, Any], Any]:
    """Fields and levels of the worlds of z."""
    moved = dict(fields)
    for field, mode in names:
        by = jnp.matmul(moves[field], z, precision="highest")
        if field == "levels":
            levels = levels + by
        else:
            moved[field] = moved[field] + by if mode == "add" else moved[field] * jnp.exp(by)
    return moved, levels
