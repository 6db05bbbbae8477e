"""The simulator: the documented scenario, closed forms and exact limits as special cases, reproducible draws, shares that sum, gradients."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import pytest

import fits
from scaling import InputError, output
from scaling.diffusion import channels, sensitivities, simulate
from scaling.diffusion.access import LognormalBudgets, ParetoBudgets, models_above
from scaling.diffusion.actors import Cast, build, population_budgets
from scaling.diffusion.conversion import LossPower
from scaling.diffusion.effects import Actor, Trends, diffusion_window
from scaling.diffusion.meek import MeekModel
from scaling.diffusion.monte_carlo import Model, model, quasi_random, run
from scaling.diffusion.scenario import Population, read_scenario
from scaling.diffusion.scenario_figure import scenario_table
from scaling.penalty import compute_penalty

CURVE = fits.load("besiroglu2024")
SCENARIO: dict[str, Any] = {
    "name": "mine",
    "start": 2023.0,
    "end": 2032.0,
    "curve": "besiroglu2024",
    "trends": {"price_performance": 1.37, "algorithms": 3.0},
    "actors": [
        {"name": "leader", "budget_usd": 1e9, "budget_growth": 2.4},
        {"name": "laggard", "budget_usd": 2e8, "structure": 2.0, "data": 2.0, "chips": "H20"},
    ],
    "controls": [{"rule": "2023-10-17", "applies_to": ["laggard"]}],
    "capabilities": [{"name": "GPT-4 level", "effective_flops": 2e25}],
}
RICH: dict[str, Any] = {
    "name": "rich",
    "start": 2022.0,
    "end": 2030.0,
    "trends": {"unique_tokens": 1e13, "algorithms": "algorithms-ho2024"},
    "actors": [
        {
            "name": "lead",
            "budget_usd": 1e8,
            "budget_growth": 2.4,
            "stock": {"h100e": 2e4, "purchases_per_year": 3e4, "purchases_growth": 2.0},
        },
        {
            "name": "follow",
            "budget_usd": 5e7,
            "budget_growth": 2.2,
            "structure": 1.5,
            "dissemination": 0.8,
            "algorithm_gap": 3.0,
            "stock": {
                "h100e": 1e4,
                "purchases_per_year": 1e4,
                "purchases_growth": 2.0,
                "domestic_per_year": 1e3,
                "domestic_chip": "Ascend-910B",
            },
            "evasion": {"smuggled_per_year": 2e3, "cloud_h100e": 1e3, "software": 1.2, "stockpile": 1e3},
            "synthetic": {"share": 0.05, "worth": 0.3},
            "distils_from": "lead",
            "distillation": 0.1,
        },
        {
            "name": "open",
            "budget_usd": 1e7,
            "budget_growth": 2.4,
            "data": 2.0,
            "delay_years": 0.5,
            "weights_after": 1.0,
            "inference_factor": 10,
        },
    ],
    "populations": [{"name": "crowd", "distribution": "pareto", "count": 20, "least_usd": 1e5, "exponent": 1.2}],
    "controls": [
        {"rule": "oct2022", "applies_to": ["follow"]},
        {"chips_per_year": 5e3, "date": 2026.0, "applies_to": ["follow"]},
        {"stock_h100e": 4e4, "date": 2027.0, "applies_to": ["follow"]},
    ],
    "capabilities": [{"name": "a", "effective_flops": 3e26}, {"name": "b", "loss": 1.86, "width": 0.5}],
    "limits": {"run_flops": 2e29, "power_gw": 5.0},
    "uncertainty": {
        "draws": 63,
        "parameters": {
            "trends.algorithms": {"low": 1.79, "high": 6.3, "level": 0.95},
            "actors.follow.structure": {"sd": 0.25},
            "actors.follow.stock.purchases_per_year": {"low": 5e3, "high": 2e4},
            "populations.crowd.budget_usd": {"sd": 0.5},
            "capabilities.a": {"sd": 0.3},
        },
    },
}


def two(**more) -> dict:
    """A leader and a follower who differ in what is given."""
    found = copy.deepcopy(SCENARIO) | {"controls": []}
    found["actors"][1] = {"name": "laggard", **more}
    return found


def prepared(source) -> tuple[Model, Cast]:
    scenario = read_scenario(source)
    cast = build(scenario)
    return model(scenario, cast, CURVE), cast


def central(source):
    ready, _ = prepared(source)
    return run(ready, np.zeros((len(ready.parameters), 1)))


PLAIN: dict[str, Any] = {
    "name": "plain",
    "start": 2022.0,
    "end": 2026.0,
    "actors": [
        {"name": "lead", "budget_usd": 1e8, "budget_growth": 2.4},
        {
            "name": "follow",
            "budget_usd": 5e7,
            "budget_growth": 2.2,
            "structure": 1.5,
            "dissemination": 0.8,
            "algorithm_gap": 3.0,
            "evasion": {"cloud_premium": 0.4, "software": 1.2},
        },
    ],
    "populations": [{"name": "crowd", "distribution": "pareto", "count": 20, "least_usd": 1e5, "exponent": 1.2}],
    "controls": [{"rule": "oct2022", "applies_to": ["follow"]}],
    "capabilities": [{"name": "a", "effective_flops": 1e26}],
    "uncertainty": {
        "draws": 63,
        "parameters": {
            "trends.algorithms": {"low": 1.79, "high": 6.3, "level": 0.95},
            "actors.follow.structure": {"sd": 0.25},
            "actors.follow.dissemination": {"low": 0.5, "high": 1.2},
            "populations.crowd.budget_usd": {"sd": 0.5},
        },
    },
}


@pytest.fixture(scope="module", params=["plain", pytest.param("rich", marks=pytest.mark.slow)])
def found(request):
    """Everything at once takes seconds to compile, so the quick suite has fewer things at once."""
    return simulate(PLAIN if request.param == "plain" else RICH)


def test_the_figure_draws_the_bands_of_the_answer(found):
    table = scenario_table(found)
    for each in found.as_dict()["capabilities"]:
        drawn = table[(table["what"] == "with access") & (table["name"] == each["name"])]
        for column in ("low", "high"):
            assert drawn[column].tolist() == [row[column] for row in each["with_access"]]


def test_the_documented_scenario_keeps_its_promises():
    answer = simulate(SCENARIO, draws=0).as_dict()
    assert {"scenario", "capabilities", "actors", "channels", "reading"} <= set(answer)
    (capability,) = answer["capabilities"]
    assert {"name", "first_access", "with_access", "windows"} <= set(capability)
    assert {"actor", "date"} <= set(capability["first_access"])
    assert set(capability["with_access"][0]) == {"date", "median", "low", "high"}
    # 2e8 dollars at 4e17 FLOP each, on chips that give 42% as much a dollar, a fourth of it effective.
    start = 2e8 * 4e17 * (148 / 989.4) * (33750 / 12000) / 4
    assert capability["windows"][0]["years"] == pytest.approx(math.log(2e25 / start) / math.log(1.37 * 3.0), abs=1e-6)


@pytest.mark.parametrize(
    ("budgets", "growths", "m", "k", "delay", "discovery", "expected"),
    [
        ((1e9, 1e8), (2.4, 2.4), 2, 2, 0, 0.5, 1.6116),
        ((1e9, 1e8), (2.4, 1.0), 1, 4, 0.5, 2, 4.2373),
        ((1e9, 1e9), (2.4, 2.4), 4, 1, 0, 1.7, 0.6057),
        ((1e9, 1e5), (2.4, 1.0), 1, 1, 0, 3, 8.3745),
    ],
)
def test_windows_are_those_of_the_closed_form(budgets, growths, m, k, delay, discovery, expected):
    trends = Trends(1.37, 3.0)
    leader = Actor("leader", budgets[0], growths[0])
    source = two(budget_usd=budgets[1], budget_growth=growths[1], structure=m, data=k, delay_years=delay)
    source["actors"][0] = {"name": "leader", "budget_usd": budgets[0], "budget_growth": growths[0]}
    source["capabilities"] = [{"name": "x", "effective_flops": leader.effective_flops(trends, discovery)}]
    source["end"] = 2036.0
    reached = central(source).reached[0, :, 0]
    follower = Actor("laggard", budgets[1], growths[1], penalty=m * k, delay_years=delay)
    assert reached[0] == pytest.approx(discovery, abs=1e-6)
    assert reached[1] - reached[0] == pytest.approx(diffusion_window(leader, follower, trends, discovery), abs=1e-6)
    assert reached[1] - reached[0] == pytest.approx(expected, rel=1e-3)


def test_meek_models_are_those_of_the_closed_form():
    scenario = read_scenario("meek-models").model_copy(update={"step": 0.01, "end": 2032.0})
    curve = fits.load(scenario.curve)
    ready = model(scenario, build(scenario), curve)
    runs = run(ready, np.zeros((len(ready.parameters), 1)))
    exact = MeekModel(LossPower.of(curve), start_flops=1e20)
    years = np.arange(len(runs.run)) / 100
    lead, meek = runs.accessible[:, 0, 0], runs.accessible[:, 1, 0]
    gap = exact.law.reducible(meek) - exact.law.reducible(lead)
    np.testing.assert_allclose(gap, exact.loss_gap(years), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.exp(runs.run[:, 0, 0] - runs.run[:, 1, 0]), exact.compute_ratio(years), rtol=1e-9)
    assert years[gap.argmax()] == pytest.approx(exact.peak_time, abs=0.01)
    assert years[gap.argmax()] == pytest.approx(3.3375, abs=0.02)  # printed, with an exponent rounded to 0.155


def test_dissemination_settles_at_its_steady_gap():
    source = two(budget_usd=1e9, budget_growth=2.4, dissemination=0.79248, algorithm_gap=30.0)
    source["end"] = 2053.0
    source["actors"][0]["budget_growth"] = source["actors"][1]["budget_growth"] = 1.0
    runs = central(source)
    gap = np.exp(runs.own[:, 0, 0] - runs.own[:, 1, 0])
    years = np.arange(len(gap)) / 4
    settled = math.log(3.0) / 0.79248
    exact = np.exp(settled + (math.log(30.0) - settled) * np.exp(-0.79248 * years))
    np.testing.assert_allclose(gap, exact, rtol=1e-9)
    assert gap[-1] == pytest.approx(4.0, rel=1e-4)


def test_without_differences_there_are_no_gaps():
    answer = simulate(two(budget_usd=1e9, budget_growth=2.4), draws=0).as_dict()
    last = answer["actors"][1]["path"][-1]
    assert [last[name]["median"] for name in ("lag_months", "loss_gap", "score_gap")] == [0.0, 0.0, 0.0]
    assert last["compute_ratio"]["median"] == last["effective_ratio"]["median"] == 1.0
    assert answer["channels"] == [{"actor": "laggard", "date": 2032.0, "gap_decades": 0.0, "left_over": 0.0, "shares": []}]
    assert answer["controls"] == []


def test_a_control_that_catches_nothing_changes_nothing():
    free, held = copy.deepcopy(SCENARIO) | {"controls": []}, SCENARIO
    np.testing.assert_array_equal(central(held).own, central(free).own)


def test_data_limits_are_those_of_the_penalty_solver():
    """The run that a k-laggard needs for the leader's loss, by the table of deficits and by the solver of penalties."""
    source = two(budget_usd=4e12, data=2.0, structure=1.5)
    source["trends"] |= {"unique_tokens": 15e12, "algorithms": 1.0, "price_performance": 1.0}
    source["actors"][0] = {"name": "leader", "budget_usd": 2.5e11, "budget_growth": 1.0}  # 1e29 FLOP
    source["actors"][1]["budget_growth"] = 1.0
    penalty = compute_penalty(CURVE, flops=1e29, structure=1.5, data=2.0, unique_tokens=15e12)
    assert penalty.value == pytest.approx(5.057 * 1.5, rel=1e-3)
    source["actors"][1]["budget_usd"] = 2.5e11 * penalty.value
    runs = central(source)
    assert runs.own[0, 0, 0] == pytest.approx(runs.own[0, 1, 0], abs=1e-7)
    assert runs.own[0, 0, 0] < math.log(1e29) - 0.6  # repetition costs the leader as well


def test_stocks_follow_the_reference_illustration():
    """Desired grows 2.3x a year, stock 1, decay 0.2: below half of desired after 0.67, 1.16, 1.78, 2.71 years for inflows of 0, 0.5, 1, 2."""
    for inflow, expected, at_three in ((0.0, 0.67, 0.05), (0.5, 1.16, 0.14), (1.0, 1.78, 0.23), (2.0, 2.71, 0.42)):
        source = two(stock={"h100e": 1e4, "purchases_per_year": 1e4 * inflow, "decay_per_year": 0.2})
        runs = central(source | {"step": 0.01, "end": 2027.0})
        years = np.arange(runs.supplied.shape[0]) / 100
        part = np.exp(runs.supplied[:, 1, 0] - runs.supplied[0, 1, 0]) / 2.3**years
        exact = (np.exp(-0.2 * years) + inflow * -np.expm1(-0.2 * years) / 0.2) / 2.3**years
        np.testing.assert_allclose(part, exact, rtol=1e-9)
        assert years[part < 0.5][0] == pytest.approx(expected, abs=0.02)
        assert part[300] == pytest.approx(at_three, abs=0.01)


def test_numbers_with_access_are_the_survival_function():
    budgets = population_budgets(Population(name="p", distribution="pareto", count=400, least_usd=1e4, exponent=1.5))
    for threshold in (2e4, 1e5, 5e5):
        assert (budgets >= threshold).sum() == pytest.approx(ParetoBudgets(400, 1e4, 1.5).above(threshold), abs=1)
    normal = population_budgets(Population(name="p", distribution="lognormal", count=400, median_usd=1e5, sigma=2.0))
    for threshold in (1e4, 1e6, 1e8):
        assert (normal >= threshold).sum() == pytest.approx(LognormalBudgets(400, 1e5, 2.0).above(threshold), abs=1)
    for kappa in (0.9, 1.0, 1.1):
        largest = population_budgets(Population(name="p", distribution="allocation", count=30, total_usd=1e9, kappa=kappa))
        for decades in (0.5, 1.0):
            threshold = 1e9 * 0.158 * 10**-decades
            expected = models_above(threshold, largest=1e9 * 0.158, largest_share=0.158, kappa=kappa)
            assert (largest >= threshold).sum() == pytest.approx(float(expected), abs=0.51)


def test_same_seed_same_worlds_and_chunks_do_not_matter(found, monkeypatch):
    parameters = found.model.parameters
    z = quasi_random(parameters, 63, 0)
    np.testing.assert_array_equal(z, quasi_random(parameters, 63, 0))
    assert (z != quasi_random(parameters, 63, 1)).all()
    batch = np.concatenate([np.zeros((len(z), 1)), z], axis=1)
    more = np.concatenate([batch, quasi_random(parameters, 50, 2)], axis=1)
    monkeypatch.setattr("scaling.diffusion.monte_carlo.CHUNK_ELEMENTS", 64 * len(found.cast.names))
    for alone, chunked in zip(found.runs, run(found.model, more), strict=True):
        np.testing.assert_array_equal(alone, chunked[..., :64])
        assert chunked.shape[-1] == 114


def test_shares_sum_to_the_gap(found):
    for each in found.answer["channels"]:
        assert sum(share["decades"] for share in each["shares"]) == pytest.approx(each["gap_decades"] - each["left_over"], abs=1e-9)
        assert each["left_over"] == pytest.approx(0.0, abs=1e-9)
    values = np.array([0.0, 1.0, 2.0, 5.0])  # two channels that together add 2 more than apart
    on = (np.arange(4)[None, :] >> np.arange(2)[:, None]) & 1
    np.testing.assert_allclose(channels.shapley(values, on), [2.0, 3.0])


def test_gradients_agree_with_finite_differences(found):
    ready = channels.named_only(found.model)
    rows = sensitivities.gradients(found.scenario, found.cast, found.model)
    step, count = 1e-5, len(ready.parameters)
    moved = run(ready, np.concatenate([step * np.eye(count), -step * np.eye(count)], axis=1))
    values = sensitivities.outputs(moved, ready.spec)
    slopes = (values[:, :count] - values[:, count:]) / (2 * step)
    compared = 0
    for row, slope in zip(rows, slopes, strict=True):
        for each, expected in zip(ready.parameters, slope, strict=True):
            if row[each.path] is not None:
                assert row[each.path] == pytest.approx(expected, rel=1e-4, abs=1e-6)
                compared += abs(expected) > 1e-3
    assert compared > 5


@pytest.mark.slow
def test_sobol_indices_of_a_sum():
    """The window of two equal growers is (ln R + ln m + ln k) / ln g: with unequal spreads of m and k the shares of variance are known."""
    source = two(budget_usd=1e8, budget_growth=2.4)
    source["uncertainty"] = {"parameters": {"actors.laggard.structure": {"sd": 0.1}, "actors.laggard.data": {"sd": 0.2}}}
    ready, cast = prepared(source)
    rows = sensitivities.sobol(read_scenario(source), cast, ready, base=512)
    gap = rows[-1]["indices"]
    assert gap["actors.laggard.structure"] == {"first": pytest.approx(0.2, abs=0.03), "total": pytest.approx(0.2, abs=0.03)}
    assert gap["actors.laggard.data"] == {"first": pytest.approx(0.8, abs=0.03), "total": pytest.approx(0.8, abs=0.03)}


def test_nothing_undefined_reaches_an_output(found):
    text = json.dumps(output.strict(found.as_dict()), allow_nan=False)
    assert "NaN" not in text

    def walk(value):
        if isinstance(value, dict | list):
            for each in value.values() if isinstance(value, dict) else value:
                walk(each)
        elif isinstance(value, float):
            assert not math.isnan(value)

    walk(found.as_dict())
    for array in found.runs:
        assert not np.isnan(array).any()


def bad(**changes) -> dict:
    return copy.deepcopy(SCENARIO) | changes


def laggard(**more) -> dict:
    return {"actors": [SCENARIO["actors"][0], {"name": "laggard", "budget_usd": 1e8} | more]}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (laggard(shares={"deployment": -0.1}), "deployment"),
        (laggard(shares={"deployment": 0.6, "experiments": 0.5}), "leave nothing for final runs"),
        (laggard(shares={"deployment": 0.5, "experiments": 0.2, "final_runs": 0.2}), "must sum to 1, not 0.9"),
        ({"end": 2020.0}, "dates out of order: end 2020"),
        ({"controls": [{"rule": "oct2023", "applies_to": ["laggard"], "until": 2023.0}]}, "dates out of order: until 2023"),
        (laggard(delay_years=1.0, dissemination=0.5), "two models of the same thing"),
        ({"controls": [{"rule": "oct2023", "applies_to": ["lagard"]}]}, "did you mean 'laggard'"),
        ({"controls": [{"rule": "oct2032", "applies_to": ["laggard"]}]}, "controls[0].rule"),
        ({"controls": [{"embargo": True, "date": 2024.0, "applies_to": ["laggard"]}]}, "needs a [stock]"),
        ({"controls": [{"applies_to": ["laggard"]}]}, "give one of rule"),
        (laggard(budget_growth=1e3), "beyond 1e+16 nothing can be said"),
        ({"trends": {"algorithms": 1e6}}, "trends.algorithms: 1e+06 a year"),
        ({"trends": {"algorithms": "catch-up"}}, "catch_up"),
        ({"trends": {"algorithm": 3.0}}, "unknown key 'trends.algorithm'"),
        (laggard(budget_usd=math.nan), "budget_usd"),
        (laggard(distils_from="leader"), "go together"),
        (laggard(chips="H2O"), "did you mean H20"),
        ({"capabilities": [{"name": "x", "loss": 1.0}]}, "reaches a loss of 1.0 at no compute"),
        ({"uncertainty": {"parameters": {"actors.leader.structur": {"sd": 0.1}}}}, "KEY of budget_usd"),
        ({"uncertainty": {"parameters": {"trends.algorithms": {"low": 3.0, "high": 2.0}}}}, "must lie below high"),
        ({"curve": "porian2024"}, "curve"),
    ],
)
def test_bad_scenarios_are_refused_in_one_line_that_says_what(changes, says):
    with pytest.raises(InputError) as caught:
        simulate(bad(**changes), draws=0)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
