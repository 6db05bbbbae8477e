"""The cast of a scenario as arrays: one row an actor, members of populations included, and the paths of budgets, chips and limits over the dates.

A field is (actors, 1), or (1, 1) where all share it; a path is (dates, actors). Rates are natural logarithms a year. What a scenario's
uncertainty may name is in `PARAMETERS`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

import fits
from fits.curve import Curve
from fits.laws.chinchilla import CHINCHILLA
from scaling.diffusion import controls
from scaling.diffusion.chip_quality import quality
from scaling.diffusion.scenario import Actor, Party, Population, Scenario
from scaling.diffusion.trends import load_trends, trend
from scaling.errors import InputError

NONE = 1e3  # ln of a bound that never binds
H100E_FLOPS = 989.4e12
DAY, YEAR = 86_400.0, 365.25 * 86_400.0
MOST_USD, MOST_FLOPS, MOST_ALGORITHMS = 1e16, 1e40, 1e18  # a hundred times the world's product; no horizon goes on so long
KINDS = {
    "price_performance": ("price_performance",),
    "algorithms": ("frontier_algorithms",),
    "budget_growth": ("investment", "training_dollars"),
}

# Parameters by their key in a file: the field, and whether uncertainty adds to it (logarithms) or multiplies it (rates and amounts).
TREND_PARAMETERS = {
    "price_performance": ("rate_h", "multiply"),
    "algorithms": ("rate_a", "multiply"),
    "flops_per_usd": ("log_h", "add"),
    "unique_tokens": ("log_unique", "add"),
    "data_growth": ("rate_unique", "multiply"),
}
PARTY_PARAMETERS = {
    "budget_usd": ("log_budget", "add"),
    "budget_growth": ("rate_budget", "multiply"),
    "structure": ("log_m", "add"),
    "data": ("log_k", "add"),
    "delay_years": ("delay", "multiply"),
    "dissemination": ("dissemination", "multiply"),
    "algorithm_gap": ("gap", "multiply"),
    "distillation": ("distillation", "multiply"),
    "inference_factor": ("log_inference", "multiply"),
    "unique_tokens": ("log_unique", "add"),
    "stock.h100e": ("stock", "multiply"),
    "stock.purchases_per_year": ("purchases", "multiply"),
    "stock.domestic_per_year": ("domestic", "multiply"),
    "stock.decay_per_year": ("decay", "multiply"),
    "evasion.stockpile": ("stockpile", "multiply"),
    "evasion.smuggled_per_year": ("smuggled", "multiply"),
    "evasion.cloud_h100e": ("cloud", "multiply"),
    "evasion.software": ("log_software", "multiply"),
}
NEEDS_ABOVE_ONE = ("algorithm_gap", "inference_factor", "evasion.software")  # their logarithm is scaled, so 1 stays 1


@dataclasses.dataclass(frozen=True)
class Cast:
    """`parties` are the rows; `named` the rows of actors, the rest belong to populations. `unlimited`: data never run out for anyone."""

    names: list[str]
    groups: list[str]
    parties: list[Party]
    named: list[int]
    leader: int
    dates: np.ndarray
    fields: dict[str, np.ndarray]
    paths: dict[str, np.ndarray]
    events: list[controls.Event]

    def rows(self, name: str) -> list[int]:
        """The rows of an actor or of a population."""
        return [row for row, group in enumerate(self.groups) if group == name]


def curve_of(scenario: Scenario) -> Curve:
    """The scenario's curve, which must be of Chinchilla's law. InputError where there is none of that name."""
    try:
        curve = fits.load(scenario.curve)
    except OSError as error:  # a folder, a name too long for a path
        raise InputError(f"scenario {scenario.name}: curve cannot be read: {error.strerror}") from error
    if curve.law is not CHINCHILLA:
        raise InputError(
            f"scenario {scenario.name}: curve {curve.name} follows law {curve.law.name}; diffusion needs a curve of law chinchilla"
        )
    return curve


def build(scenario: Scenario) -> Cast:
    """The cast. InputError where something is unknown, inconsistent or beyond all bounds."""
    dates = scenario.start + scenario.step * np.arange(max(1, round((scenario.end - scenario.start) / scenario.step)) + 1)
    parties: list[Party] = []
    budgets: list[float | None] = []
    for actor in scenario.actors:
        parties.append(actor)
        budgets.append(actor.budgets_usd[0] if actor.budgets_usd else actor.budget_usd)
    for population in scenario.populations:
        found = population_budgets(population)
        parties += [population] * len(found)
        budgets += list(found)
    names = [actor.name for actor in scenario.actors]
    for population in scenario.populations:
        count = sum(each is population for each in parties)
        names += [f"{population.name} {place + 1}" for place in range(count)]
    held = controls.paths(scenario, _distinct(parties), dates)
    fields = _fields(scenario, parties, budgets)
    cast = Cast(
        names=names,
        groups=[each.name for each in parties],
        parties=parties,
        named=list(range(len(scenario.actors))),
        leader=[actor.name for actor in scenario.actors].index(scenario.reference),
        dates=dates,
        fields=fields,
        paths=_paths(scenario, parties, dates, held),
        events=held.events,
    )
    _check_horizon(scenario, cast)
    return cast


def population_budgets(population: Population) -> np.ndarray:
    """Budgets of a population, largest first.

    pareto and lognormal: the quantiles at the middles of `count` equal parts, so that the number above any budget is within one of count * S.
    allocation: the n-th run lies where `access.models_above`, N(> x largest) = (1/s) kappa/(1 - kappa) (x^(kappa - 1) - 1), is n - 1/2.
    """
    p, count = population, population.count or 0
    upper = (np.arange(count) + 0.5) / max(count, 1)  # share of members above
    if p.distribution == "list":
        return np.sort(np.asarray(p.budgets_usd, float))[::-1]
    if p.distribution == "pareto":
        assert p.least_usd is not None
        assert p.exponent is not None
        return p.least_usd * upper ** (-1 / p.exponent)
    if p.distribution == "lognormal":
        assert p.median_usd is not None
        assert p.sigma is not None
        return p.median_usd * np.exp(-p.sigma * ndtri(upper))
    assert p.total_usd is not None
    ranks = np.arange(count) + 0.5
    if p.kappa == 1:
        log_x = -p.largest_share * ranks
    else:
        inside = 1 + ranks * p.largest_share * (1 - p.kappa) / p.kappa
        if (inside <= 0).any():
            most = int(p.kappa / (p.largest_share * (p.kappa - 1)))
            raise InputError(f"populations.{p.name}: with kappa {p.kappa:g} there are only {most} runs, fewer than count {count}")
        log_x = np.log(inside) / (p.kappa - 1)
    return p.total_usd * p.largest_share * np.exp(log_x)


def growth(value: float | str, what: str) -> float:
    """A growth factor a year, from itself or from the trend of that name."""
    if not isinstance(value, str):
        return value
    known = load_trends()
    found = known.get(value)
    kinds = KINDS[what]
    return trend(value, kinds[0] if found is None or found.kind not in kinds else found.kind).growth


def _distinct(parties: Sequence[Party]) -> list[Party]:
    return list({each.name: each for each in parties}.values())


def _fields(scenario: Scenario, parties: Sequence[Party], budgets: Sequence[float | None]) -> dict[str, np.ndarray]:
    shared, papers = scenario.trends, scenario.openness.papers
    rate_a = math.log(growth(shared.algorithms, "algorithms"))
    one = {
        "rate_h": math.log(growth(shared.price_performance, "price_performance")),
        "rate_a": rate_a,
        "log_h": math.log(shared.flops_per_usd),
        "rate_unique": math.log(shared.data_growth),
        "on_budget": 1.0,
        "on_chips": 1.0,
        "on_controls": 1.0,
        "on_open": 1.0,
    }
    rows = [_row(each, budget, scenario, papers) for each, budget in zip(parties, budgets, strict=True)]
    return {name: np.array([[value]]) for name, value in one.items()} | {name: np.array([[row[name]] for row in rows]) for name in rows[0]}


def _row(party: Party, budget: float | None, scenario: Scenario, papers: float) -> dict[str, float]:
    stock, evasion, shares = party.stock, party.evasion, party.shares
    unique = party.unique_tokens or scenario.trends.unique_tokens
    domestic = quality(stock.domestic_chip).training if stock and stock.domestic_chip else 1.0
    seconds = stock.run_days * DAY if stock else 90 * DAY
    rate = H100E_FLOPS * (stock.utilisation if stock else 0.4)
    learns = party.dissemination is not None
    return {
        "log_budget": NONE if budget is None else math.log(budget),
        "rate_budget": math.log(growth(party.budget_growth, "budget_growth")),
        "log_m": math.log(party.structure),
        "log_k": math.log(party.data),
        "delay": (party.delay_years or 0.0) / papers,
        "dissemination": (party.dissemination or 0.0) * papers,
        "learns": float(learns),
        "own_rate": math.log(party.own_algorithms),
        "gap": math.log(party.algorithm_gap),
        "log_unique": NONE if unique is None else math.log(unique),
        "has_stock": float(stock is not None),
        "stock": stock.h100e if stock else 0.0,
        "purchases": stock.purchases_per_year if stock else 0.0,
        "purchases_rate": math.log(stock.purchases_growth) if stock else 0.0,
        "domestic": stock.domestic_per_year * domestic if stock else 0.0,
        "domestic_rate": math.log(stock.domestic_growth) if stock else 0.0,
        "decay": stock.decay_per_year if stock else 0.2,
        "stockpile": evasion.stockpile,
        "smuggled": evasion.smuggled_per_year,
        "smuggled_rate": math.log(evasion.smuggled_growth),
        "cloud": evasion.cloud_h100e,
        "cloud_rate": math.log(evasion.cloud_growth),
        "smuggling_price": -NONE if stock or evasion.smuggling_premium is None else -math.log1p(evasion.smuggling_premium),
        "cloud_price": -NONE if stock or evasion.cloud_premium is None else -math.log1p(evasion.cloud_premium),
        "log_software": math.log(evasion.software),
        "log_run": math.log(shares.final * shares.largest_run * rate * seconds),  # FLOP of a run for each H100 equivalent owned
        # Compute of a year outside the largest run, as a multiple of that run: what deployment and synthetic data get of it.
        "log_whole": -math.log(shares.final * shares.largest_run),
        "deployment": shares.deployment,
        "run_seconds": seconds,
        "log_synthetic": math.log(max(party.synthetic.share * party.synthetic.worth, 1e-300)) if party.synthetic else -NONE,
        "distillation": party.distillation,
        "log_inference": math.log(party.inference_factor),
        "inverse_mu": 1 / scenario.trends.inference_exchange,
    }


def _paths(scenario: Scenario, parties: Sequence[Party], dates: np.ndarray, held: controls.Paths) -> dict[str, np.ndarray]:
    places = {each.name: place for place, each in enumerate(_distinct(parties))}
    columns = [places[each.name] for each in parties]
    found = {field.name: getattr(held, field.name)[:, columns] for field in dataclasses.fields(held) if field.name != "events"}
    years = dates - scenario.start
    found["budget"] = np.zeros((len(dates), len(parties)))
    found["inference"] = np.zeros((len(dates), len(parties)))
    for row, party in enumerate(parties):
        begins = scenario.start if party.inference_from is None else party.inference_from
        found["inference"][:, row] = dates >= begins - 1e-9
        if isinstance(party, Actor) and party.budgets_usd:
            # Listed budgets, log-linear between the years, over the growth that the fields hold.
            rate = math.log(growth(party.budget_growth, "budget_growth"))
            logs = np.log(party.budgets_usd)
            listed = np.interp(years, np.arange(len(logs)), logs) + rate * np.maximum(years - (len(logs) - 1), 0)
            found["budget"][:, row] = listed - logs[0] - rate * years
    return found | {"years": years, "limit": _limit(scenario, years)}


def _limit(scenario: Scenario, years: np.ndarray) -> np.ndarray:
    """ln of the most FLOP of one run, by date."""
    limits = scenario.limits
    bounds = [np.full(years.shape, NONE)]
    if limits.run_flops is not None:
        bounds.append(np.full(years.shape, math.log(limits.run_flops)))
    if limits.power_gw is not None:
        joules = limits.power_gw * 1e9 * limits.run_days * DAY
        bounds.append(math.log(joules * limits.flops_per_joule) + years * math.log(limits.power_growth * limits.efficiency_growth))
    if limits.chips_h100e is not None:
        bounds.append(np.full(years.shape, math.log(limits.chips_h100e * H100E_FLOPS * limits.utilisation * limits.run_days * DAY)))
    return np.minimum.reduce(bounds)


def _check_horizon(scenario: Scenario, cast: Cast) -> None:
    """Refuses growth that leads out of the world before the end, and names it."""
    f, years = cast.fields, cast.dates[-1] - cast.dates[0]
    h_rate, a_rate = float(f["rate_h"][0, 0]), float(f["rate_a"][0, 0])
    if a_rate * years > math.log(MOST_ALGORITHMS):
        raise InputError(
            f"trends.algorithms: {math.exp(a_rate):g} a year for {years:g} years is a gain of {math.exp(min(a_rate * years, 700)):.0e}; "
            f"beyond {MOST_ALGORITHMS:.0e} nothing can be said: end sooner or let it grow more slowly"
        )
    for row, party in enumerate(cast.parties):
        budget = float(f["log_budget"][row, 0])
        if budget == NONE:
            continue
        where = f"{'actors' if row in cast.named else 'populations'}.{party.name}"
        last = budget + float(f["rate_budget"][row, 0]) * years + float(cast.paths["budget"][-1, row])
        if last > math.log(MOST_USD):
            raise InputError(
                f"{where}: budget_growth {math.exp(f['rate_budget'][row, 0]):g} a year leads to {math.exp(min(last, 700)):.0e} dollars in {scenario.end:g}; "
                f"beyond {MOST_USD:.0e} nothing can be said: end sooner or let it grow more slowly"
            )
        if last + float(f["log_h"][0, 0]) + h_rate * years > math.log(MOST_FLOPS):
            raise InputError(
                f"{where}: a run of more than {MOST_FLOPS:.0e} FLOP in {scenario.end:g}; lower trends.price_performance or end sooner"
            )
    for name in ("purchases", "domestic", "smuggled", "cloud"):
        last = f[name] * np.exp(np.minimum(f[f"{name}_rate"] * years, 700.0))
        if (last > 1e15).any():
            row = int(np.argmax(last))
            raise InputError(
                f"actors.{cast.names[row]}: {name} grow to {last[row, 0]:.0e} H100 equivalents a year by {scenario.end:g}; let them grow more slowly"
            )
