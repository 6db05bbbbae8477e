"""Comparing laws: planted laws win, what is held out stays out, and criteria are what the textbooks say."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import laplace, norm

import fits
from fits.comparison import attempt, budget_groups, compare, leave_budget_out, log_likelihood, ready, rolling_extrapolation
from fits.curve import Curve
from fits.errors import InputError
from fits.laws import law
from fits.objectives import objective

TRUTH = {"E": 1.7, "A": 300.0, "B": 30000.0, "alpha": 0.32, "beta": 0.5}
TIED = {"E": 1.7, "A": 450.0, "B": 900.0, "alpha": 0.35, "beta": 0.35}
LAWS = ["chinchilla", "chinchilla-tied"]


def isoflops(noise: float = 0.0, seed: int = 0, truth: dict[str, float] = TRUTH) -> pd.DataFrame:
    """Six budgets of five sizes each, with the loss of `truth` and log-normal noise."""
    budgets, ratios = np.geomspace(1e18, 1e21, 6), np.geomspace(0.2, 5, 5)
    flops, ratio = (axis.ravel() for axis in np.meshgrid(budgets, ratios, indexing="ij"))
    params = np.sqrt(flops / 120) * ratio
    tokens = flops / (6 * params)
    loss = truth["E"] + truth["A"] * params ** -truth["alpha"] + truth["B"] * tokens ** -truth["beta"]
    loss = loss * np.exp(np.random.default_rng(seed).normal(0, noise, loss.size))
    return pd.DataFrame({"params": params, "tokens": tokens, "flops": flops, "loss": loss})


@pytest.mark.slow
def test_generating_law_wins():
    for truth, noise, winner, loser in ((TRUTH, 0.001, *LAWS), (TIED, 0.003, *reversed(LAWS))):
        tables = [compare(isoflops(noise, seed, truth), LAWS, "flops > 3e19") for seed in range(12)]
        means = pd.concat(tables).groupby("law")[["aicc", "bic", "heldout_error"]].mean()
        assert (means.loc[winner] < means.loc[loser]).all(), means
        assert all(table["certified"].all() for table in tables)


@pytest.mark.slow
def test_columns_and_curves():
    runs = isoflops(0.002)
    table = compare(runs, LAWS, "flops > 3e19")
    assert list(table["constants"]) == [5, 4]
    assert list(table["rows"]) == [15, 15]
    assert list(table["heldout_rows"]) == [15, 15]
    curve = table.attrs["curves"]["chinchilla"]
    held = runs[runs["flops"] > 3e19]
    errors = np.log(held["loss"] / curve.loss(params=held["params"].to_numpy(), tokens=held["tokens"].to_numpy()))
    assert table["heldout_error"][0] == pytest.approx(errors.abs().median(), rel=1e-12)
    assert table["heldout_bias"][0] == pytest.approx(errors.mean(), rel=1e-9)
    # The least loss seen is carried forward, or the nearest run's loss, whichever does better.
    carried = np.median(np.abs(np.log(held["loss"] / runs.loc[runs["flops"] < 3e19, "loss"].min())))
    assert 0 < table["baseline_error"][0] <= carried
    again = compare(runs, LAWS, "flops > 3e19")
    pd.testing.assert_frame_equal(table.reset_index(drop=True), again, check_exact=True)
    whole = compare(runs.head(15), ["chinchilla"])  # nothing held out
    assert whole["heldout_rows"][0] == 0
    assert math.isnan(whole["heldout_error"][0])


@pytest.mark.slow
def test_unfit_laws_are_rows():
    runs = isoflops(0.002)
    table = compare(runs, ["chinchilla", "farseer", "data-constrained"], "flops > 3e19")
    assert list(table["law"]) == ["chinchilla", "farseer", "data-constrained"]
    assert "non_embedding_params" in table["reason"][1]
    assert "unique_tokens" in table["reason"][2]
    assert not table["certified"][1]
    assert set(table.attrs["curves"]) == {"chinchilla"}
    few = compare(runs.iloc[::6], LAWS)
    assert "at least 6 are needed" in few["reason"][0]
    rolled = rolling_extrapolation(runs, ["farseer"])
    assert len(rolled) == 3
    assert rolled["error"].isna().all()


@pytest.mark.slow
def test_noise_free_extrapolation_is_exact():
    table = rolling_extrapolation(isoflops(), LAWS)
    true, tied = (table[table["law"] == name] for name in LAWS)
    assert list(true["rows_fitted"]) == [15, 20, 25]
    assert list(true["rows_predicted"]) == [15, 10, 5]
    np.testing.assert_allclose(true["decades_ahead"], [1.8, 1.2, 0.6], atol=1e-9)
    assert (true[["error", "error_of_farthest", "rms"]] < 1e-8).all(axis=None)
    assert (tied["error"] > 1e-4).all()
    assert (true["baseline_error"] > 0.03).all()


def test_cuts_given():
    table = rolling_extrapolation(isoflops(0.002), ["chinchilla"], cuts=[1e17, 2e19, 1e25])
    assert list(table["cut"]) == [2e19]
    assert list(table["rows_fitted"]) == [15]
    with pytest.raises(InputError, match="no cut of flops has 8 of the 30 rows below it"):
        rolling_extrapolation(isoflops(), ["chinchilla"], cuts=[1e17])


def test_held_out_rows_have_no_influence():
    runs = isoflops(0.002)
    table = ready(runs)
    held = table["flops"].to_numpy() > 3e19
    spoiled = table.assign(loss=np.where(held, 50.0, table["loss"]), params=np.where(held, 1e3, table["params"]))
    for quick in (True, False):
        trials = [
            attempt(law("chinchilla"), frame, ~held, held, objective="log-huber", delta=1e-3, quick=quick) for frame in (table, spoiled)
        ]
        first, second = (trial.curve for trial in trials)
        assert first is not None
        assert second is not None
        assert first.constants == second.constants
        assert first.residual_sd == second.residual_sd
        assert first.certificate == second.certificate


def test_quick_fit_finds_the_same_optimum():
    runs = isoflops(0.003).head(15)
    everything = np.ones(len(runs), bool)
    for name in LAWS:
        slow = fits.fit(name, runs)
        quick = attempt(law(name), ready(runs), everything, ~everything, objective="log-huber", delta=1e-3).curve
        assert quick is not None
        assert quick.certificate is not None
        assert slow.certificate is not None
        assert quick.certificate["objective"] == pytest.approx(slow.certificate["objective"], rel=1e-9)
        assert quick.residual_sd == pytest.approx(slow.residual_sd, rel=1e-4)


def test_leave_budget_out_shows_the_odd_budget():
    runs = isoflops(0.001)
    odd = runs["flops"] == runs["flops"].unique()[2]
    table = leave_budget_out(runs.assign(loss=runs["loss"] * np.where(odd, 1.05, 1.0)), "chinchilla")
    np.testing.assert_allclose(table["budget"], runs["flops"].unique())
    assert table["bias"][2] == pytest.approx(math.log(1.05), abs=0.01)
    assert table["error"].idxmax() == 2
    named = runs.assign(arm=np.repeat([*"abc"], 10))
    assert len(leave_budget_out(named, "chinchilla", "arm")) == 3
    with pytest.raises(InputError, match="one budget"):
        leave_budget_out(runs.head(5), "chinchilla")


def test_budget_groups():
    runs = isoflops()
    jittered = runs.assign(flops=runs["flops"] * np.random.default_rng(0).uniform(0.97, 1.03, len(runs)))
    np.testing.assert_array_equal(budget_groups(jittered), np.repeat(np.arange(6), 5))
    # Continuous compute: eighths, and equal values are never parted.
    continuous = pd.DataFrame({"flops": np.repeat(np.geomspace(1e18, 1e21, 40), 2)})
    groups = budget_groups(continuous.sample(frac=1, random_state=0))
    assert groups.max() == 7
    assert pd.Series(budget_groups(continuous)).groupby(continuous["flops"]).nunique().eq(1).all()
    # A column of budgets is ordered by compute, whatever its names.
    named = runs.assign(budget=np.repeat([*"fedcba"], 5))
    np.testing.assert_array_equal(budget_groups(named), np.repeat(np.arange(6), 5))


def test_likelihood_is_the_textbook_one():
    residual = np.random.default_rng(1).normal(0, 0.01, 40)
    normal = norm.logpdf(residual, scale=np.sqrt(np.mean(residual**2))).sum()
    assert log_likelihood(objective("log-squared"), 0.5 * np.sum(residual**2), 40) == pytest.approx(normal, rel=1e-9)
    absolute = np.abs(residual)
    two_sided = laplace.logpdf(residual, scale=absolute.mean()).sum()
    assert log_likelihood(objective("log-absolute"), absolute.sum(), 40) == pytest.approx(two_sided, rel=1e-9)
    # Huber's density goes over into either.
    for delta, limit in ((1e-7, two_sided), (10.0, normal)):
        inside = np.minimum(absolute, delta)
        value = np.sum(0.5 * inside**2 + delta * (absolute - inside))
        assert log_likelihood(objective("log-huber", delta), value, 40) == pytest.approx(limit, rel=1e-4)


def test_criteria_count_the_scale_as_a_constant():
    row = compare(isoflops(0.003), ["chinchilla"], "flops > 3e19").iloc[0]
    n, k = 15, 6
    twice = 2 * log_likelihood(objective("log-huber", 1e-3), row["objective"], n)
    assert row["aicc"] == pytest.approx(2 * k - twice + 2 * k * (k + 1) / (n - k - 1), rel=1e-12)
    assert row["bic"] == pytest.approx(k * math.log(n) - twice, rel=1e-12)


@pytest.mark.slow
def test_aicc_of_least_squares():
    row = compare(isoflops(0.003), ["chinchilla"], objective="log-squared").iloc[0]
    n, k = 30, 6
    expected = n * math.log(2 * math.pi * row["rms_log"] ** 2) + n + 2 * k + 2 * k * (k + 1) / (n - k - 1)
    assert row["aicc"] == pytest.approx(expected, rel=1e-9)


def test_bad_arguments():
    runs = isoflops()
    for holdout, word in (("flops > 1e30", "none"), ("flops > 1", "all"), ("flop > 1", "no column")):
        with pytest.raises(InputError, match=word):
            compare(runs, LAWS, holdout)
    with pytest.raises(InputError, match="list of laws"):
        compare(runs, "chinchilla")
    with pytest.raises(InputError, match="did you mean"):
        compare(runs, ["chinchila"])
    with pytest.raises(InputError, match="different things"):
        compare(runs, ["chinchilla", "error-from-loss"])
    with pytest.raises(InputError, match="no column 'budgets'"):
        leave_budget_out(runs, "chinchilla", "budgets")


@pytest.mark.slow
def test_public_table(data_folder):
    from fits.datasets import dataset

    runs = dataset("chinchilla-epoch", recipe=True)
    table = rolling_extrapolation(runs, LAWS, cuts=[8.5e19])
    assert (table["error"] < 0.01).all()
    assert (table["baseline_error"] > 0.05).all()


def test_figures():
    from scaling.fit_plots import extrapolation_figure, residual_figure

    runs = isoflops(0.002)
    curve = Curve(law("chinchilla"), TRUTH)
    (axis, bar) = residual_figure(curve, runs).axes
    shown = np.asarray(axis.collections[0].get_offsets())
    np.testing.assert_allclose(shown[:, 0], runs["flops"])
    expected = 100 * np.log(runs["loss"] / curve.loss(params=runs["params"].to_numpy(), tokens=runs["tokens"].to_numpy()))
    np.testing.assert_allclose(shown[:, 1], expected, rtol=1e-9)
    assert "parameters" in bar.get_ylabel()
    table = rolling_extrapolation(runs, LAWS)
    (axis,) = extrapolation_figure(table).axes
    assert axis.get_legend_handles_labels()[1] == [*LAWS, "no law"]
    worse = table.assign(table="b", error=2 * table["baseline_error"])  # a law that loses to none at all, at every cut of a second table
    panels = extrapolation_figure(pd.concat([table.assign(table="a"), worse])).axes
    assert [panel.get_title("left") for panel in panels if panel.get_visible()] == list(LAWS)
    for panel, (_, part) in zip(panels, table.groupby("law", sort=False), strict=False):
        better = (part["error"] < part["baseline_error"]).sum()
        assert panel.texts[0].get_text() == f"better than no law at {better} of {2 * len(part)} cuts"
    with pytest.raises(InputError, match="no row has an error above zero"):
        extrapolation_figure(table.assign(error=np.nan))
