"""IsoFLOP profiles: planted minima are found, doubtful ones are left out with a reason, and noise shows in the intervals as it should."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import fits
from fits.isoflops import isoflop
from tests.fits.planted import TRUTH

EXPONENT = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
BUDGETS = np.geomspace(1e18, 1e21, 7)


def best_size(flops):
    """The optimum of TRUTH with C = 6 N D."""
    alpha, beta = TRUTH["alpha"], TRUTH["beta"]
    return (alpha * TRUTH["A"] / (beta * TRUTH["B"])) ** (1 / (alpha + beta)) * (flops / 6) ** EXPONENT


def profiles(budgets=BUDGETS, off=1.0, wide=4.0, sizes=7, noise=0.0, seed=0):
    """Sizes spread by factors of `wide` around `off` times the optimum of every budget."""
    flops = np.repeat(budgets, sizes)
    params = best_size(flops) * np.tile(off * np.geomspace(1 / wide, wide, sizes), len(budgets))
    tokens = flops / (6 * params)
    loss = TRUTH["E"] + TRUTH["A"] * params ** -TRUTH["alpha"] + TRUTH["B"] * tokens ** -TRUTH["beta"]
    loss = loss + np.random.default_rng(seed).normal(0, noise, loss.size)
    return pd.DataFrame({"params": params, "tokens": tokens, "flops": flops, "loss": loss})


@pytest.mark.parametrize("method", ["parabola", "akima"])
def test_planted_optima_and_exponents_are_found(method):
    found = isoflop(profiles(), method=method)
    assert found.table["bracketed"].all()
    # A profile of equal shape at every budget has an equal bias, which the exponent does not see.
    np.testing.assert_allclose(found.table["params"], best_size(found.table["flops"]), rtol=0.006)
    assert found.params is not None
    assert found.tokens is not None
    assert found.params.constants["a"] == pytest.approx(EXPONENT, abs=1e-5)
    assert found.tokens.constants["a"] == pytest.approx(1 - EXPONENT, abs=1e-5)
    np.testing.assert_allclose(6 * found.table["params"] * found.table["tokens"], found.table["flops"], rtol=1e-9)
    exact = fits.Curve(law=fits.load("besiroglu2024").law, constants=TRUTH)
    assert found.table["loss"].to_numpy() == pytest.approx([exact.optimal(flops=c).loss for c in found.table["flops"]], abs=2e-3)
    assert found.params.law.name == "params-for-flops"
    assert found.params.certificate is not None
    assert found.params.certificate["certified"]


@pytest.mark.parametrize("grid", [{"wide": 32.0, "sizes": 11}, {"off": 3.0, "wide": 8.0, "sizes": 9}])
def test_akima_is_less_biased_than_a_parabola_on_a_wide_or_an_off_centre_grid(grid):
    apart = {}
    for method in ("parabola", "akima"):
        table = isoflop(profiles(**grid), method=method).table
        apart[method] = np.abs(np.log(table["params"] / best_size(table["flops"]))).max()
    assert apart["parabola"] > 0.02
    assert apart["akima"] < 0.35 * apart["parabola"]


def test_doubtful_budgets_are_left_out_with_a_reason():
    good = profiles(BUDGETS[:4])
    runs = pd.concat(
        [
            good,
            profiles(BUDGETS[4:5], off=8.0, wide=2.0),  # all sizes above the optimum
            profiles(BUDGETS[5:6], off=0.1, wide=2.0),
            profiles(BUDGETS[6:7], sizes=2),
            profiles([1e22]).assign(loss=lambda rows: 5 - rows["loss"]),
        ],
        ignore_index=True,
    )
    found = isoflop(runs)
    reasons = found.table["reason"].to_list()
    assert reasons[:4] == [""] * 4
    assert reasons[4].startswith("unbracketed")
    assert "below the smallest" in reasons[4]
    assert reasons[5].startswith("unbracketed")
    assert "above the largest" in reasons[5]
    assert reasons[6].startswith("too few sizes: 2")
    assert reasons[7].startswith("opens downward")
    assert found.table["params"].isna().to_list() == [False] * 4 + [True] * 4
    alone = isoflop(good)
    assert found.params is not None
    assert alone.params is not None
    assert found.params.constants == pytest.approx(alone.params.constants)
    assert len(found.accepted) == 4


def test_akima_leaves_out_a_minimum_at_the_end():
    table = isoflop(pd.concat([profiles(BUDGETS[:3]), profiles(BUDGETS[4:5], off=8.0, wide=2.0)]), method="akima").table
    assert table["bracketed"].to_list() == [True] * 3 + [False]
    assert "below the smallest size" in table["reason"].iloc[3]


def test_too_few_budgets_give_a_table_and_a_reason():
    found = isoflop(profiles(BUDGETS[:2]))
    assert found.params is None
    assert found.tokens is None
    assert "2 of 2 budgets" in found.reason
    assert len(found.table) == 2


def test_budgets_are_clusters_of_near_equal_flops_or_a_column():
    runs = profiles()
    near = runs.assign(flops=runs["flops"] * np.random.default_rng(1).uniform(0.96, 1.04, len(runs)))
    assert len(isoflop(near).table) == len(BUDGETS)
    named = near.assign(plan=np.repeat(list("gfedcba"), 7))
    table = isoflop(named, budgets="plan").table
    assert table["flops"].is_monotonic_increasing
    assert (table["rows"] == 7).all()
    mixed = runs.assign(plan=np.repeat([1, 1, 2, 3, 4, 5, 6], 7))
    table = isoflop(mixed, budgets="plan").table
    assert "factor of 3.16" in table["reason"].iloc[0]
    assert table["bracketed"].sum() == 5


@pytest.mark.parametrize("method", ["parabola", "akima"])
def test_standard_errors_are_the_scatter_of_the_optima(method):
    """Over 200 samples of noise: the reported error of an optimum, and redraws of the exponent, against the scatter seen."""
    seen = [isoflop_places(profiles(noise=0.002, seed=seed), method) for seed in range(200)]
    places, exponents = np.array([each[0] for each in seen]), np.array([each[1] for each in seen])
    found = isoflop(profiles(noise=0.002, seed=0), method=method, noise=0.002, bootstrap=1000)
    assert found.params is not None
    assert found.params.draws is not None
    if method == "parabola":
        np.testing.assert_allclose(found.table["se_log_params"], places.std(axis=0), rtol=0.3)
    else:
        assert (found.table["se_log_params"] > 0.6 * places.std(axis=0)).all()
    assert found.params.draws[:, 1].std() == pytest.approx(exponents.std(), rel=0.35)
    low, high = found.params.interval(0.95, method="bootstrap")["a"]
    assert low < EXPONENT < high


def isoflop_places(runs, method):
    """Log optima and their exponent, without the fits of the power laws."""
    from fits import isoflops as module

    frame = module._ready(runs, "params")
    kept = [module._profile(rows, "params", method) for _, rows in frame.groupby(module._budgets(frame, None))]
    places = np.array([profile.place for profile in kept])
    return places, np.polyfit(np.log([profile.flops for profile in kept]), places, 1)[0]


def test_t_interval_of_the_exponent_covers():
    """The line through seven noisy optima has the t interval of textbooks."""
    found = isoflop(profiles(noise=0.002, seed=3))
    assert found.params is not None
    log_flops, log_params = np.log(found.table["flops"]), np.log(found.table["params"])
    (slope, _), covariance = np.polyfit(log_flops, log_params, 1, cov=True)
    half = 2.570582 * np.sqrt(covariance[0, 0])  # t at 5 degrees of freedom
    assert found.params.interval(0.95)["a"] == pytest.approx((slope - half, slope + half), abs=2e-4)


def test_weights_are_inverse_variances():
    found = isoflop(profiles(noise=0.002, seed=4), weighted=True)
    assert found.params is not None
    table = found.table
    slope = np.polyfit(np.log(table["flops"]), np.log(table["params"]), 1, w=1 / table["se_log_params"])[0]
    assert found.params.constants["a"] == pytest.approx(slope, rel=1e-9)


def test_repeats_of_a_size_are_averaged_by_akima():
    runs = profiles()
    twice = pd.concat([runs.assign(loss=runs["loss"] + 0.01), runs.assign(loss=runs["loss"] - 0.01)])
    once, both = (isoflop(each, method="akima").table for each in (runs, twice))
    np.testing.assert_allclose(both["params"], once["params"], rtol=1e-9)
    assert (both["rows"] == 14).all()
    assert (both["sizes"] == 7).all()


def test_optima_are_runs_that_a_law_of_the_loss_can_be_fitted_to():
    """Along the frontier the loss is E + A C^-gamma with the gamma of the planted law."""
    curve = fits.fit("saturating-compute", isoflop(profiles(), method="akima").accepted, objective="log-squared")
    gamma = TRUTH["alpha"] * TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
    assert curve.constants["alpha"] == pytest.approx(gamma, rel=1e-3)
    assert curve.constants["E"] == pytest.approx(TRUTH["E"], rel=1e-3)


def test_active_parameters_have_their_own_law():
    found = isoflop(profiles().rename(columns={"params": "active_params"}), size="active_params")
    assert found.params is not None
    assert found.params.law.name == "active-params-for-flops"
    assert found.params.constants["a"] == pytest.approx(EXPONENT, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "spline"}, "method 'spline'"),
        ({"size": "layers"}, "size 'layers'"),
        ({"noise": -1.0}, "noise must be"),
        ({"budgets": "plan"}, "no column 'plan'"),
        ({"method": "akima", "bootstrap": 10}, "give noise"),
        ({"method": "akima", "weighted": True}, "standard error"),
    ],
)
def test_bad_arguments_are_refused(change, words):
    with pytest.raises(fits.InputError, match=words):
        isoflop(profiles(), **change)


def test_corpora_are_not_mixed():
    with pytest.raises(fits.InputError, match="2 corpora"):
        isoflop(profiles().assign(corpus=["a", "b"] * 24 + ["a"]))
