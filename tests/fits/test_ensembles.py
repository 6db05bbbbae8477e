"""Ensembles of laws: weights follow forecasts, and intervals hold what the members disagree on."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from fits.comparison import ready, roll_forward
from fits.curve import Curve
from fits.ensembles import Ensemble, Mixture, default_laws, ensemble, weigh
from fits.errors import InputError
from fits.laws import law
from tests.fits.test_comparison import LAWS, TIED, TRUTH, isoflops

FOUR = {"E": 1.7, "A": 450.0, "B": 900.0, "alpha": 0.35}


def known(spread: float = 0.0, growth: float = 0.0) -> Ensemble:
    """Two members with constants as given, the first of them TRUTH, fitted up to 1e21 FLOP."""
    reach = {"flops": [1e18, 1e21]}
    members = [Curve(law(name), each, residual_sd=spread, range=reach) for name, each in zip(LAWS, (TRUTH, FOUR), strict=True)]
    return Ensemble(tuple(members), np.array([0.7, 0.3]), np.array([growth, growth]))


def test_weights_sum_to_one_and_find_the_truth():
    several = [ensemble(isoflops(0.001, seed), LAWS) for seed in range(4)]
    for each in several:
        assert each.weights.sum() == pytest.approx(1.0, abs=1e-12)
        assert (each.weights >= 0).all()
    assert np.mean([each.weight["chinchilla"] for each in several]) > 0.8


def test_weights_are_near_equal_where_noise_hides_the_law():
    # Both laws hold the truth, and noise is all of the error.
    shares = [ensemble(isoflops(0.02, seed, TIED), LAWS, min_rows=15).weight["chinchilla-tied"] for seed in range(6)]
    assert 0.3 < np.mean(shares) < 0.95
    assert min(shares) > 0.1


def test_interval_holds_every_member():
    noisy = known(0.004, 0.003)
    for flops in (1e21, 1e23, 1e25):
        params = math.sqrt(flops / 120)
        tokens = flops / (6 * params)
        found = noisy.predict(params=params, tokens=tokens, level=0.99)
        own = [curve.loss(params=params, tokens=tokens) for curve in noisy.members]
        assert found.low < min(own) < max(own) < found.high
        assert min(own) <= found.value <= max(own)
        assert found.value == pytest.approx(noisy.loss(params=params, tokens=tokens))


def test_interval_widens_with_distance_and_draws():
    def width(each: Ensemble, flops: float) -> float:
        params = math.sqrt(flops / 120)
        found = each.predict(params=params, tokens=flops / (6 * params), level=0.9)
        return math.log(found.high / found.low)

    plain, growing = known(0.004), known(0.004, 0.003)
    assert width(growing, 1e20) == width(plain, 1e20)
    assert width(growing, 1e23) > width(plain, 1e23)
    drawn = [dataclasses.replace(curve, draws=curve.vector * np.linspace(0.98, 1.02, 41)[:, None]) for curve in plain.members]
    assert width(dataclasses.replace(plain, members=tuple(drawn)), 1e20) > width(plain, 1e20)
    # One member without scatter is a point; with it, the normal interval.
    alone = Ensemble(plain.members[:1], np.ones(1), np.zeros(1))
    assert width(alone, 1e20) == pytest.approx(2 * norm.ppf(0.95) * 0.004, rel=1e-6)


def test_optimum_and_compute_of_one_member_are_its_own():
    truth = known().members[0]
    alone = Ensemble((truth,), np.ones(1), np.zeros(1))
    for flops in (1e20, 1e24):
        found, own = alone.optimal(flops), truth.optimal(flops)
        assert found.loss == pytest.approx(own.loss, rel=1e-9)
        assert found.params == pytest.approx(own.params, rel=1e-3)
        assert found.flops == pytest.approx(6 * found.params * found.tokens)
        assert alone.compute_for(found.loss) == pytest.approx(flops, rel=1e-4)
    assert alone.compute_for(1.0) == math.inf


def test_optima_lie_between_the_members():
    both = known()
    table = both.optima(1e23).set_index("law")
    assert list(table.index) == [*LAWS, "ensemble"]
    for column in ("params", "tokens", "loss"):
        low, high = sorted(table.loc[LAWS, column])
        pooled = float(table[column].iloc[-1])
        assert low * (1 - 1e-3) <= pooled <= high * (1 + 1e-3)
    needed = both.computes_for(2.0)
    assert min(needed[name] for name in LAWS) < needed["ensemble"] < max(needed[name] for name in LAWS)


def test_arrays_and_inputs():
    both = known()
    params, tokens = np.array([1e8, 1e9]), np.array([1e10, 1e11])
    pooled = both.loss(params=params, tokens=tokens)
    assert pooled.shape == (2,)
    own = [curve.loss(params=1e9, tokens=1e11) for curve in both.members]
    assert pooled[1] == pytest.approx(both.loss(params=1e9, tokens=1e11)) == pytest.approx(own[0] ** 0.7 * own[1] ** 0.3)
    with pytest.raises(InputError, match="'experts' is no input"):
        both.loss(params=1e9, tokens=1e11, experts=8)
    with pytest.raises(InputError, match="tokens is missing"):
        both.loss(params=1e9)
    with pytest.raises(InputError, match="level"):
        both.predict(params=1e9, tokens=1e11, level=1.0)


def test_same_runs_same_ensemble():
    noisy, again = (ensemble(isoflops(0.004, 3), LAWS) for _ in range(2))
    np.testing.assert_array_equal(noisy.weights, again.weights)
    assert noisy.predict(params=1e10, tokens=1e12) == again.predict(params=1e10, tokens=1e12)
    pd.testing.assert_frame_equal(noisy.rolls, again.rolls)


def test_laws_that_cannot_be_fitted_are_left_out():
    found = ensemble(isoflops(0.002), ["chinchilla", "farseer"])
    assert found.weight == {"chinchilla": 1.0}
    assert "non_embedding_params" in found.left_out["farseer"]
    with pytest.raises(InputError, match="no law could be fitted"):
        ensemble(isoflops(0.002), ["farseer"])


def test_weights_know_only_the_budgets_run():
    laws = [law(name) for name in LAWS]
    runs = isoflops(0.004)
    last = runs["flops"] == runs["flops"].max()
    spoiled = runs.assign(loss=np.where(last, 9.0, runs["loss"]))
    plain, odd = (list(roll_forward(ready(frame), laws)) for frame in (runs, spoiled))
    assert weigh(plain, known=4) == weigh(odd, known=4)
    assert weigh(plain) != weigh(odd)


def test_members_of_different_counts_have_no_one_optimum():
    mixed = Ensemble((known().members[0], Curve(law("chinchilla-tied-non-embedding"), FOUR)), np.array([0.5, 0.5]), np.zeros(2))
    assert mixed.loss(params=1e9, non_embedding_params=9e8, tokens=1e11) > 1.5
    with pytest.raises(InputError, match="one count of parameters"):
        mixed.optimal(1e22)


def test_mixture_quantiles():
    one = Mixture(np.array([0.3]), np.array([0.02]), np.array([1.0]))
    assert one.quantile(0.975) == pytest.approx(norm.ppf(0.975, 0.3, 0.02), abs=1e-9)
    two = Mixture(np.array([0.0, 1.0]), np.array([1e-6, 1e-6]), np.array([0.9, 0.1]))
    assert two.quantile(0.5) == pytest.approx(0.0, abs=1e-5)
    assert two.quantile(0.95) == pytest.approx(1.0, abs=1e-5)


def test_default_laws_share_the_count_of_the_table():
    runs = isoflops()
    other = runs.rename(columns={"params": "non_embedding_params"})
    for table, size in ((runs, "params"), (other, "non_embedding_params")):
        laws = [law(each) for each in default_laws(table)]
        assert len(laws) == 3
        assert {each.size for each in laws} == {size}
    repeated = runs.assign(unique_tokens=runs["tokens"] / 3)
    assert default_laws(repeated)[-1] == "data-constrained"
    assert len(default_laws(runs.assign(unique_tokens=runs["tokens"]))) == 3


def test_law_on_another_count_is_the_same_law():
    constants = {"N_c": 8.8e13, "D_c": 5.4e13, "alpha_N": 0.076, "alpha_D": 0.095}
    own, other = Curve(law("kaplan-joint"), constants), Curve(law("kaplan-joint-on-params"), constants)
    assert own.loss(non_embedding_params=1e9, tokens=1e11) == other.loss(params=1e9, tokens=1e11)
    assert own.optimal(1e22).params == other.optimal(1e22).params
    assert law("kaplan-joint-on-params") is law("kaplan-joint-on-params")
