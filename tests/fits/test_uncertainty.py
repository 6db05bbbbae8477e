"""Intervals are what theory says they are where theory is exact, and agree with each other where it is not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

import fits
from fits.laws.base import Law, free
from tests.fits.planted import TRUTH, planted


def _line(c, x):
    return c["a"] + c["b"] * x["x"]


LINE = Law("line", "a + b x", _line, (free("a", (-5, 5)), free("b", (-5, 5))), ("x",), output="y")


@pytest.fixture(scope="module")
def noisy() -> fits.Curve:
    return fits.fit("chinchilla", planted(36, 4e-3, seed=2), objective="log-squared", bootstrap=400)


def test_profile_of_a_straight_line_is_the_textbook_interval():
    """With squares and a linear law the profile is exact: estimate +- t * standard error."""
    generator = np.random.default_rng(0)
    x = np.linspace(1, 5, 12)
    y = 2 - 0.5 * x + generator.normal(0, 0.3, 12)
    curve = fits.fit(LINE, pd.DataFrame({"x": x, "y": y}), objective="squared")
    design = np.stack([np.ones(12), x], axis=1)
    best, squares, _, _ = np.linalg.lstsq(design, y, rcond=None)
    error = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * squares[0] / 10)
    for index, name in enumerate(("a", "b")):
        half = t.ppf(0.95, 10) * error[index]
        assert curve.constants[name] == pytest.approx(best[index], rel=1e-9)
        assert curve.interval(0.90)[name] == pytest.approx((best[index] - half, best[index] + half), rel=1e-6)


def test_profile_and_bootstraps_agree_on_a_table_with_even_noise(noisy):
    profile, percentiles = noisy.interval(0.95, "profile"), noisy.interval(0.95, "bootstrap")
    wild = fits.fit("chinchilla", planted(36, 4e-3, seed=2), objective="log-squared", bootstrap=400, resample="wild").interval(
        0.95, "bootstrap"
    )
    for name in ("E", "alpha", "beta"):
        width = np.ptp(profile[name])
        assert profile[name][0] < TRUTH[name] < profile[name][1]
        for other in (percentiles, wild):
            assert np.ptp(other[name]) == pytest.approx(width, rel=0.35), name
            assert np.mean(other[name]) == pytest.approx(np.mean(profile[name]), abs=0.35 * width), name


def test_a_profile_end_is_where_the_objective_has_risen_as_much_as_t_allows(noisy):
    """Refitted with alpha held at the end of its interval the squares rise by t^2 times the residual variance."""
    low, high = noisy.interval(0.95, "profile")["alpha"]
    assert noisy.certificate is not None
    assert noisy.residual_sd is not None
    floor = noisy.certificate["objective"]
    for end in (low, high):
        held = fits.fit("chinchilla", planted(36, 4e-3, seed=2), objective="log-squared", fixed={"alpha": end})
        assert held.constants["alpha"] == pytest.approx(end, rel=1e-12)
        assert held.certificate is not None
        rise = 2 * (held.certificate["objective"] - floor) / noisy.residual_sd**2
        assert rise == pytest.approx(t.ppf(0.975, 31) ** 2, rel=1e-3)


@pytest.mark.slow
def test_profile_ends_beside_a_constant_at_its_bound_are_such_places_too():
    """Runs that show no irreducible loss: its logarithm ends far from all that the runs say, and its interval and the others' are still found."""
    generator = np.random.default_rng(2)
    size, tokens = np.repeat(np.geomspace(1.5e4, 2e5, 5), 4), np.tile(np.geomspace(5e5, 8e6, 4), 5)
    loss = (1366 * size**-0.58 + 993 * tokens**-0.42) ** 0.35 * np.exp(generator.normal(0, 0.015, 20))
    runs = pd.DataFrame({"params": size, "tokens": tokens, "loss": loss})
    curve = fits.fit("outer-exponent", runs, objective="log-squared")
    assert curve.certificate is not None
    assert curve.residual_sd is not None
    assert curve.constants["E"] == pytest.approx(1e-6)
    found = curve.interval(0.95, "profile")
    assert found["E"][0] == 0
    for name, end in (("E", found["E"][1]), ("A", found["A"][0]), ("k", found["k"][1])):
        held = fits.fit("outer-exponent", runs, objective="log-squared", fixed={name: end})
        assert held.certificate is not None
        rise = 2 * (held.certificate["objective"] - curve.certificate["objective"]) / curve.residual_sd**2
        assert rise == pytest.approx(t.ppf(0.975, 14) ** 2, rel=0.01), name


@pytest.mark.slow
def test_derived_quantities_agree_with_the_curve_and_between_methods(noisy):
    flops = 1e23
    loss = noisy.optimal(flops).loss
    expected = {
        ("optimal_params", "flops"): (flops, noisy.optimal(flops).params),
        ("optimal_tokens", "flops"): (flops, noisy.optimal(flops).tokens),
        ("optimal_loss", "flops"): (flops, loss),
        ("compute_for", "loss"): (loss, flops),
    }
    for (what, argument), (at, value) in expected.items():
        found = {method: noisy.derived(what, method=method, **{argument: at}) for method in ("profile", "bootstrap")}
        for prediction in found.values():
            assert prediction.value == pytest.approx(value, rel=1e-8), what
            assert prediction.low < value < prediction.high, what
        logs = {method: np.log(prediction[1:]) for method, prediction in found.items()}
        assert np.ptp(logs["bootstrap"]) == pytest.approx(np.ptp(logs["profile"]), rel=0.4), what
    share = noisy.derived("allocation_exponent")
    assert share.value == pytest.approx(noisy.constants["beta"] / (noisy.constants["alpha"] + noisy.constants["beta"]), rel=1e-12)
    assert share.low < TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"]) < share.high


@pytest.mark.slow
def test_more_noise_and_fewer_rows_give_wider_profiles():
    def width(rows, noise):
        low, high = fits.fit("chinchilla", planted(rows, noise, seed=1)).interval()["beta"]
        return high - low

    assert width(36, 8e-3) > 2.5 * width(36, 2e-3)
    assert width(25, 2e-3) > 1.1 * width(100, 2e-3)


@pytest.mark.slow
def test_nine_runs_leave_a_constant_open_rather_than_claim_it():
    """Without irreducible loss the profile of E falls without end towards zero."""
    curve = fits.fit("chinchilla", planted(9, 3e-2, seed=5, truth=TRUTH | {"E": 1e-3}), objective="log-squared")
    low, high = curve.interval()["E"]
    assert low == 0
    assert high > 0


@pytest.mark.slow
def test_clusters_are_resampled_whole():
    """Rows copied within clusters carry no news: their interval by clusters is that of the single rows, by rows it is falsely narrow."""
    single = planted(25, 4e-3, seed=3).assign(run=np.arange(25))
    copied = pd.concat([single] * 4, ignore_index=True)
    options: dict[str, Any] = {"objective": "log-squared", "bootstrap": 300}
    alone = fits.fit("chinchilla", single, **options).interval(method="bootstrap")["alpha"]
    whole = fits.fit("chinchilla", copied, resample="clusters", cluster="run", **options).interval(method="bootstrap")["alpha"]
    naive = fits.fit("chinchilla", copied, **options).interval(method="bootstrap")["alpha"]
    assert np.ptp(whole) == pytest.approx(np.ptp(alone), rel=0.25)
    assert np.ptp(naive) < 0.7 * np.ptp(alone)


def test_multiplier_of_a_planted_gap():
    """A variant whose parameters count double has a multiplier of two, and the interval holds it."""
    better = TRUTH | {"A": TRUTH["A"] * 2 ** -TRUTH["alpha"]}
    baseline, variant = (fits.fit("chinchilla", planted(36, 1e-3, seed=s, truth=c), bootstrap=300) for s, c in ((1, TRUTH), (2, better)))
    found = fits.multiplier(variant, baseline, flops=1e21)
    assert found.low < 2 < found.high
    assert found.value == pytest.approx(2, rel=0.15)


def test_methods_that_cannot_be_had_say_what_is_missing(noisy, tmp_path):
    noisy.save(tmp_path / "mine.json")
    loaded = fits.load(tmp_path / "mine.json")
    assert loaded.interval() == noisy.interval()
    assert loaded.interval(method="bootstrap") == noisy.interval(method="bootstrap")
    with pytest.raises(fits.InputError, match="a profile needs the runs"):
        loaded.interval(method="profile")
    with pytest.raises(fits.InputError, match="method 'guess'"):
        noisy.interval(method="guess")
    with pytest.raises(fits.InputError, match="needs flops"):
        noisy.derived("optimal_loss")
    with pytest.raises(fits.InputError, match="'speed' is not known"):
        noisy.derived("speed")
    with pytest.raises(fits.InputError, match="clusters need cluster"):
        fits.fit("chinchilla", planted(), bootstrap=10, resample="clusters")
    with pytest.raises(fits.InputError, match="resample: 'jackknife'"):
        fits.fit("chinchilla", planted(), bootstrap=10, resample="jackknife")


def test_an_exact_fit_has_no_width():
    curve = fits.fit("chinchilla", planted(36))
    for name, (low, high) in curve.interval().items():
        assert low == pytest.approx(TRUTH[name], rel=1e-6)
        assert high == pytest.approx(TRUTH[name], rel=1e-6)


def test_questions_without_an_answer_are_refused(noisy):
    for level in (0.0, 2.0):
        with pytest.raises(fits.InputError, match="level"):
            noisy.derived("optimal_loss", level, flops=1e21)
    for loss, says in ((1.5, "no compute suffices"), (1e9, "above every loss")):
        with pytest.raises(fits.InputError, match=says):
            noisy.derived("compute_for", loss=loss)
    with pytest.raises(fits.InputError, match="takes no experts"):
        noisy.derived("allocation_exponent", experts=8)
    skewed = fits.fit("chinchilla", planted(36, 4e-3, seed=2), objective="log-asymmetric", over=4)
    with pytest.raises(fits.InputError, match="asymmetric objective"):
        skewed.interval()


def test_a_saved_fit_keeps_its_interval(noisy, tmp_path):
    fits.fit("chinchilla", planted(36, 4e-3, seed=2)).save(tmp_path / "mine.json")
    found = fits.fit("chinchilla", planted(36, 4e-3, seed=2)).interval()
    assert fits.load(tmp_path / "mine.json").interval() == found
    before = (tmp_path / "mine.json").read_bytes()
    fits.fit("chinchilla", planted(36, 4e-3, seed=2)).save(tmp_path / "mine.json")
    assert (tmp_path / "mine.json").read_bytes() == before


def test_published_intervals_are_at_their_level_only():
    names = [name for name in fits.published() if fits.load(name).draws is None and fits.load(name).about.get("intervals")]
    assert names
    for name in names:
        curve = fits.load(name)
        level = curve.about["intervals"]["level"]
        for constant, (low, high) in curve.interval(level).items():
            assert low <= curve.constants[constant] * (1 + 1e-2), (name, constant)
            assert curve.constants[constant] * (1 - 1e-2) <= high, (name, constant)
        with pytest.raises(fits.InputError, match="at level"):
            curve.interval(0.123)


@pytest.mark.slow
@pytest.mark.parametrize("goal", ["log-squared", "log-huber"])
@pytest.mark.parametrize(("rows", "least", "most"), [(9, 0.90, 1.0), (25, 0.93, 0.97), (240, 0.93, 0.97)])
def test_profiles_hold_the_truth_as_often_as_they_say(rows, goal, least, most):
    """2,000 planted tables with normal noise of 0.5% of the loss: 95% intervals of alpha, beta, E and the log compute for 1.9 nats."""
    from benchmarks.coverage import coverage

    table = coverage(rows, goal, "normal", 2000, methods=("profile",))
    assert table["holds"].between(least, most).all(), table
    assert math.isclose(table["open"].max(), 0.0) or rows == 9
