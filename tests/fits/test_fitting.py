"""The solver finds planted truth and published optima, says so, and does not claim what it has not found."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.optimize

import fits
from fits.objectives import huber
from tests.fits.planted import TRUTH, planted


@pytest.mark.parametrize("objective", ["log-huber", "log-squared"])
@pytest.mark.parametrize(
    "truth",
    [TRUTH, {"E": 0.9, "A": 12.0, "B": 30.0, "alpha": 0.2, "beta": 0.28}, {"E": 1.5, "A": 5000.0, "B": 300.0, "alpha": 0.55, "beta": 0.25}],
)
def test_noise_free_law_is_recovered(objective, truth):
    curve = fits.fit("chinchilla", planted(truth=truth), objective=objective)
    for name, value in truth.items():
        assert curve.constants[name] == pytest.approx(value, rel=1e-6), name
    assert curve.certificate is not None
    assert curve.certificate["certified"]


def test_optimum_agrees_with_scipy_on_a_smooth_objective():
    """scipy's least squares, started at our optimum and at the truth, cannot do better and ends at the same constants."""
    runs = planted(49, noise=0.01)
    curve = fits.fit("chinchilla", runs, objective="log-squared")
    log_n, log_d, log_l = (np.log(runs[name].to_numpy()) for name in ("params", "tokens", "loss"))

    def residuals(theta):
        e, a, b, alpha, beta = theta
        return log_l - np.logaddexp(np.logaddexp(a - alpha * log_n, b - beta * log_d), e)

    truth = [*np.log([TRUTH["E"], TRUTH["A"], TRUTH["B"]]), TRUTH["alpha"], TRUTH["beta"]]
    referee = scipy.optimize.least_squares(residuals, truth, xtol=1e-15, ftol=1e-15, gtol=1e-15)
    assert curve.certificate is not None
    assert curve.certificate["objective"] <= referee.cost * (1 + 1e-12)
    np.testing.assert_allclose([curve.constants["alpha"], curve.constants["beta"]], referee.x[3:], rtol=1e-5)


def test_published_optimum_on_the_240_points(data_folder):
    runs = fits.read_runs(
        data_folder / "chinchilla-epoch.csv", columns={"params": "Model Size", "flops": "Training FLOP"}, where="loss < 3.43"
    )
    assert len(runs) == 240
    curve = fits.fit("chinchilla", runs, objective="log-huber", delta=1e-3)
    expected = {"A": 477.825868, "B": 2143.417363, "E": 1.817218099, "alpha": 0.347310499, "beta": 0.367172433}
    for name, value in expected.items():
        assert curve.constants[name] == pytest.approx(value, rel=1e-6), name
    assert curve.certificate is not None
    assert curve.certificate["objective"] == pytest.approx(0.0010182740178006, rel=1e-9)
    assert curve.certificate["certified"]
    assert curve.certificate["starts_at_optimum"] >= 0.9 * curve.certificate["starts_total"]


def test_bootstrap_is_reproducible_covers_and_grows_with_the_noise():
    quiet, loud = (fits.fit("chinchilla", planted(36, noise), bootstrap=200, seed=1) for noise in (1e-3, 4e-3))
    again = fits.fit("chinchilla", planted(36, 1e-3), bootstrap=200, seed=1)
    assert quiet.draws is not None
    assert again.draws is not None
    np.testing.assert_array_equal(quiet.draws, again.draws)
    assert quiet.about["bootstrap_converged"] >= 198
    for curve in (quiet, loud):
        for name, (low, high) in curve.interval(0.99).items():
            assert low < TRUTH[name] < high, name
    width = {id(curve): np.ptp(curve.interval(0.95)["alpha"]) for curve in (quiet, loud)}
    assert 2 < width[id(loud)] / width[id(quiet)] < 8


@pytest.mark.slow
def test_bootstrap_intervals_cover_the_truth_about_as_often_as_they_say():
    """200 planted tables of 36 runs: 95% intervals of alpha and E cover in 88-99% (percentile bootstrap of a small sample)."""
    hits = np.zeros(2)
    for seed in range(200):
        interval = fits.fit("chinchilla", planted(36, 3e-3, seed=seed), objective="log-squared", bootstrap=300, seed=seed).interval(0.95)
        hits += [interval[name][0] < TRUTH[name] < interval[name][1] for name in ("alpha", "E")]
    assert (hits >= 176).all(), hits
    assert (hits <= 198).all(), hits


def test_float64_stays_inside_fits():
    import jax.numpy as jnp

    fits.fit("chinchilla", planted())
    assert jnp.ones(1).dtype == jnp.float32


def test_an_undetermined_direction_is_not_certified():
    """With one token count for all runs, B and beta are one number: the certificate must say so."""
    runs = pd.concat([planted().assign(tokens=1e10 * (1 + 1e-9 * i)) for i in range(2)]).iloc[:40]
    loss = 2.0 + 450 * runs["params"] ** -0.35
    curve = fits.fit("chinchilla", runs.assign(loss=loss * np.exp(np.random.default_rng(0).normal(0, 1e-3, len(runs)))))
    assert curve.certificate is not None
    assert not curve.certificate["certified"] or curve.certificate["condition"] > 1e10
    assert curve.certificate["reason"] or curve.certificate["condition"] > 1e10


def test_a_term_that_the_runs_do_not_show_ends_at_its_bound_and_is_named():
    """Planted without irreducible loss: E goes to its bound in about half of all tables and resamples, and that is an optimum too."""
    at_bound = 0
    for seed in range(4):
        curve = fits.fit("chinchilla", planted(36, 2e-2, seed=seed, truth=TRUTH | {"E": 1e-9}), bootstrap=100)
        assert curve.certificate is not None
        assert curve.certificate["certified"]
        assert curve.about["bootstrap_converged"] >= 97
        assert curve.draws is not None
        assert (curve.draws[:, 0] < 1e-4).any()
        if curve.certificate["active_bounds"]:
            at_bound += 1
            assert curve.certificate["active_bounds"] == ["E"]
            assert "E ended at the lower bound" in curve.certificate["reason"]
            assert curve.constants["E"] == pytest.approx(curve.law.parameter("E").low, rel=1e-6)
    assert at_bound


def test_runs_that_contradict_the_law_are_not_certified():
    worse_with_tokens = planted().assign(loss=lambda frame: 2 + 0.1 * np.log(frame["tokens"] / 1e9))
    curve = fits.fit("chinchilla", worse_with_tokens)
    assert curve.certificate is not None
    assert curve.certificate["reason"]
    assert curve.constants["beta"] > 0


def test_mixed_arms_are_noted():
    curve = fits.fit("chinchilla", planted().assign(arm=["dense", "moe"] * 18))
    assert "'arm'" in curve.about["warnings"][0]
    assert fits.fit("chinchilla", planted()).about["warnings"] == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"loss": -1.0}, "row 0, column 'loss'"),
        ({"params": np.nan}, "row 0, column 'params'"),
        ({"tokens": np.inf}, "row 0, column 'tokens'"),
    ],
)
def test_values_that_are_not_positive_and_finite_are_refused(change, says):
    runs = planted()
    for name, value in change.items():
        runs.loc[0, name] = value
    with pytest.raises(fits.InputError, match=says):
        fits.fit("chinchilla", runs)


def test_too_few_points_mixed_corpora_and_unknown_names_are_refused():
    with pytest.raises(fits.InputError, match="5 distinct points"):
        fits.fit("chinchilla", pd.concat([planted().iloc[:5]] * 3))
    with pytest.raises(fits.InputError, match="2 corpora"):
        fits.fit("chinchilla", planted().assign(corpus=["a", "b"] * 18))
    with pytest.raises(fits.InputError, match="did you mean 'chinchilla'"):
        fits.fit("chinchila", planted())
    with pytest.raises(fits.InputError, match="objective 'mse'"):
        fits.fit("chinchilla", planted(), objective="mse")
    with pytest.raises(fits.InputError, match="delta"):
        fits.fit("chinchilla", planted(), delta=0.0)
    with pytest.raises(fits.InputError, match="bootstrap and seed"):
        fits.fit("chinchilla", planted(), bootstrap=-1)


def test_huber_is_continuous_and_quadratic_then_linear():
    import jax.numpy as jnp

    r = jnp.array([0.0, 0.5, 1.0, 1.0001, 3.0])
    np.testing.assert_allclose(huber(r, jnp.array(1.0)), [0, 0.125, 0.5, 0.5001, 2.5], rtol=1e-5)
    np.testing.assert_allclose(huber(r, jnp.array(jnp.inf)), r**2 / 2, rtol=1e-6)
