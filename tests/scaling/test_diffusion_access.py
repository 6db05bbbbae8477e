"""Counts of actors and models with access, and the meek model: vectors, sampled and numerical referees, limits."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from scaling import InputError
from scaling.diffusion.access import (
    AllocationForecast,
    ListedBudgets,
    LognormalBudgets,
    ParetoBudgets,
    models_above,
    models_above_growth,
    with_access,
)
from scaling.diffusion.conversion import BoundedScore, LossPower
from scaling.diffusion.meek import MeekModel, sensitivity, tokens_to_tell_apart


def test_models_within_half_a_decade_of_the_largest():
    counts = models_above(1.0, largest=10 ** np.array([0.5, 1.0, 1.5]), largest_share=0.15811)
    np.testing.assert_allclose(counts, [7.281, 14.563, 21.844], rtol=1e-4)


@pytest.mark.parametrize("kappa", [0.9, 1.0, 1.0 + 1e-9, 1.1])
def test_counts_are_the_integral_of_the_density_of_models(kappa):
    share, largest = 0.2, 1e26
    x = np.geomspace(0.01, 1.0, 20001)
    integral = np.trapezoid(kappa / share * x ** (kappa - 2), x)
    assert models_above(1e24, largest=largest, largest_share=share, kappa=kappa) == pytest.approx(integral, rel=1e-6)
    assert models_above(2e26, largest=largest, largest_share=share, kappa=kappa) == 0.0


def test_models_above_a_fixed_capability_grow_with_algorithms_too():
    largest = 1e26 * 4.0 ** np.arange(3)
    fixed_flop = models_above(1e25, largest=largest)
    np.testing.assert_allclose(np.diff(fixed_flop), models_above_growth(threshold_growth=4.0), rtol=1e-12)
    fixed_capability = models_above(1e25 / 3.0 ** np.arange(3), largest=largest)
    np.testing.assert_allclose(np.diff(fixed_capability), models_above_growth(threshold_growth=4.0 * 3.0), rtol=1e-12)


def test_closed_form_replaces_the_published_sampler():
    # Yearly percentiles added up as the published code does, on its counts to 2024: reference, 3.2.
    for threshold, base, expected in ((1e25, 24, (89, 160, 301)), (1e26, 0, (38, 76, 143))):
        yearly = np.quantile(AllocationForecast().draws(range(2025, 2029), threshold), [0.05, 0.5, 0.95], axis=0)
        np.testing.assert_allclose(base + yearly.sum(axis=1), expected, rtol=0.012)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_pareto_counts_grow_by_a_power_until_all_have_access(exponent):
    budgets = ParetoBudgets(1e6, 1e3, exponent)
    counts = with_access(budgets, 1e8, years=np.array([0.0, 1.0, 50.0]), shared=4.11, budget_growth=1.2)
    assert counts[1] / counts[0] == pytest.approx((4.11 * 1.2) ** exponent, rel=1e-9)
    assert counts[2] == 1e6


def test_counts_of_distributions_are_those_of_drawn_budgets():
    rng = np.random.default_rng(0)
    cases = [
        (LognormalBudgets(200_000, 1e6, 1.7), np.exp(rng.normal(math.log(1e6), 1.7, 200_000))),
        (ParetoBudgets(200_000, 1e4, 1.2), 1e4 * rng.uniform(size=200_000) ** (-1 / 1.2)),
    ]
    costs = np.array([1e5, 1e6, 1e7])
    for budgets, drawn in cases:
        expected = budgets.above(costs)
        assert np.all(np.abs(ListedBudgets(tuple(drawn)).above(costs) - expected) < 4 * np.sqrt(expected))
    assert ListedBudgets((1e5, 1e7)).above(1e7) == 1  # a budget of exactly the cost buys it


def test_bad_budgets_are_refused():
    for make in (lambda: ParetoBudgets(1, 0.0, 1), lambda: LognormalBudgets(10, 1e6, math.nan), lambda: ListedBudgets(())):
        with pytest.raises(InputError):
            make()
    with pytest.raises(InputError, match="2023"):
        AllocationForecast().draws([2023], 1e25)


def test_meek_peak_of_the_reference():
    model = MeekModel()
    found = [model.peak_time, model.peak_ratio, model.peak_fraction, model.rho, model.time_of_fraction(0.5), model.time_of_fraction(0.1)]
    np.testing.assert_allclose(found, [3.3375, 69.91, 0.23789, 0.518, 9.2, 17.5], rtol=1e-3, atol=0.02)
    table = sensitivity([1.5, 2.4, 3.57, 5.0, 10.0])
    np.testing.assert_allclose(table["peak_years"], [4.14, 3.65, 3.34, 3.12, 2.77], atol=0.006)
    np.testing.assert_allclose(table["peak_ratio"], [5.3, 24, 70, 152, 586], rtol=0.02)
    np.testing.assert_allclose(table["peak_fraction"], [0.095, 0.180, 0.238, 0.279, 0.349], atol=0.0005)
    assert MeekModel(LossPower(1.8, 1000.0, 0.17830)).peak_ratio == pytest.approx(40, rel=0.01)


@pytest.mark.parametrize("head_start", [1.0, 3.0, 30.0])
def test_meek_peak_is_where_the_gap_is_largest(head_start):
    rng = np.random.default_rng(1)
    for _ in range(5):
        law = LossPower(rng.uniform(1, 2), rng.uniform(10, 2000), rng.uniform(0.05, 0.3))
        growths = {"investment_growth": rng.uniform(2.0, 9), "price_performance": rng.uniform(1.05, 2), "algorithms": rng.uniform(1.1, 5)}
        model = MeekModel(law, start_flops=10 ** rng.uniform(15, 24), head_start=head_start, **growths)
        search = minimize_scalar(lambda t, model=model: -model.loss_gap(t), bounds=(-60, 120), method="bounded", options={"xatol": 1e-9})
        assert model.peak_time == pytest.approx(search.x, abs=1e-5)
        assert model.compute_ratio(model.peak_time) == pytest.approx(model.peak_ratio, rel=1e-9)
        if head_start == 1.0:
            assert model.loss_gap(search.x) == pytest.approx(model.peak_fraction * model.scale, rel=1e-9)


def test_a_head_start_beyond_the_peak_ratio_already_closes():
    model = MeekModel(head_start=71.0)
    assert model.peak_time < 0
    assert np.all(np.diff(model.loss_gap(np.linspace(0, 10, 50))) < 0)


def test_convergence_depends_on_the_measure():
    model, score = MeekModel(), BoundedScore(MeekModel().law, middle=2.2, steepness=6.0)
    table = model.table(np.linspace(0, 60, 61), score)
    assert table["loss_gap"].iloc[-1] < 1e-3 * table["loss_gap"].max()
    assert table["score_gap"].iloc[-1] < 1e-2 * table["score_gap"].max()
    np.testing.assert_allclose(np.diff(table["lag_years"]), 0.93, atol=0.005)
    np.testing.assert_allclose(table["compute_ratio"], 3.57 ** table["years"], rtol=1e-12)
    # The lag is the meek budget's own wait for the frontier's loss of that date.
    frontier, _ = model.log_flops(5.0)
    assert model.log_flops(5.0 + model.lag(5.0))[1] == pytest.approx(frontier, rel=1e-12)


def test_meek_limits_and_bad_input():
    alike = MeekModel(investment_growth=1.0)
    np.testing.assert_array_equal(alike.loss_gap(np.linspace(0, 20, 5)), 0.0)
    assert alike.peak_fraction == 0.0
    for change, message in (
        ({"investment_growth": 0.5}, "investment_growth"),
        ({"algorithms": 1.0, "price_performance": 1.0}, "must grow"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(MeekModel(), **change)
    with pytest.raises(InputError, match="no peak"):
        _ = alike.peak_time


def test_tokens_to_tell_two_models_apart():
    np.testing.assert_allclose(tokens_to_tell_apart(np.array([0.1, 0.01, 0.001])), [26.5, 265, 2650], rtol=1e-3)
