"""What a user can ask of a fit: a law of one's own, other objectives, weights, fixed and bounded constants; and rows that cannot answer."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import linprog

import fits
from fits.laws.base import Law, amplitude, exponent, free, irreducible
from tests.fits.planted import TRUTH, planted


def _saturating(c, x):
    return c["E"] + c["A"] * x.power("tokens", -c["beta"])


def _the_same_with_jax(c, x):
    return c["E"] + c["A"] * jnp.exp(-c["beta"] * jnp.log(x["tokens"]))


def _own(function, **more):
    return Law(
        name="mine",
        formula="E + A * tokens^-beta",
        function=function,
        parameters=(irreducible("E"), amplitude("A"), exponent("beta")),
        inputs=("tokens",),
        **more,
    )


@pytest.fixture(scope="module")
def over_tokens() -> pd.DataFrame:
    tokens = np.geomspace(1e8, 1e12, 30)
    noise = np.exp(np.random.default_rng(0).normal(0, 1e-3, 30))
    return pd.DataFrame({"tokens": tokens, "loss": (2 + 900 * tokens**-0.3) * noise})


@pytest.mark.parametrize(
    "law",
    [pytest.param(_own(_saturating, linear=("E", "A")), marks=pytest.mark.slow), _own(_the_same_with_jax)],
    ids=["linear parts named", "bare jax"],
)
def test_a_law_of_ones_own_gets_everything(law, over_tokens, tmp_path):
    curve = fits.fit(law, over_tokens, bootstrap=50)
    assert curve.certificate is not None
    assert curve.certificate["certified"]
    for name, (low, high) in curve.interval().items():
        assert low < {"E": 2.0, "A": 900.0, "beta": 0.3}[name] < high
    value, low, high = curve.predict(tokens=1e13)
    assert low < value < high
    assert curve.evaluate(tokens=1e12) == pytest.approx(2 + 900 * 1e12**-0.3, rel=2e-3)
    curve.save(tmp_path / "mine.json")
    with pytest.raises(fits.InputError, match="law 'mine' is not known"):
        fits.load(tmp_path / "mine.json")
    assert fits.load(tmp_path / "mine.json", law=law).constants == curve.constants


def test_laws_that_make_no_sense_are_refused():
    with pytest.raises(fits.InputError, match="names of their own"):
        Law("bad", "", _saturating, (irreducible("E"), amplitude("E")), ("tokens",))
    with pytest.raises(fits.InputError, match="'C', which is no constant"):
        _own(_saturating, linear=("C",))
    with pytest.raises(fits.InputError, match="an allocation needs"):
        _own(_saturating, size="params")
    with pytest.raises(fits.InputError, match="low must be below high"):
        free("x", low=1.0, high=0.0)


def test_curves_take_the_inputs_of_their_law_and_no_others():
    curve = fits.load("muennighoff2023")
    assert curve.loss(params=1e9, tokens=2e10, unique_tokens=1e10) > curve.loss(params=1e9, tokens=2e10)
    with pytest.raises(fits.InputError, match="'experts' is not among them"):
        curve.loss(params=1e9, tokens=2e10, experts=8)
    with pytest.raises(fits.InputError, match="params is missing"):
        fits.load("besiroglu2024").loss(tokens=2e10)
    with pytest.raises(fits.InputError, match="has no optimum"):
        fits.load("kaplan2020-size").optimal(1e20)
    with pytest.raises(fits.InputError, match="call evaluate"):
        fits.load("steplaw2025-batch").loss(tokens=1e10)


def test_weights_count_rows():
    """A weight of two is a row twice, a weight of zero no row at all."""
    runs = planted(36, 5e-3)
    weight = np.where(np.arange(36) % 3 == 0, 2.0, 1.0)
    twice = pd.concat([runs, runs[weight == 2]])
    weighted, repeated = fits.fit("chinchilla", runs, weights=weight.tolist()), fits.fit("chinchilla", twice)
    assert weighted.constants == pytest.approx(repeated.constants, rel=1e-7)
    cut, left_out = fits.fit("chinchilla", runs.iloc[:30]), fits.fit("chinchilla", runs.assign(keep=[1.0] * 30 + [0.0] * 6), weights="keep")
    assert left_out.constants == pytest.approx(cut.constants, rel=1e-7)
    assert left_out.residual_sd == pytest.approx(cut.residual_sd, rel=1e-6)
    assert (left_out.about["rows"], left_out.range) == (30, cut.range)
    for wrong, says in (
        ([1.0], "36 finite numbers"),
        ("missing", "no column 'missing'"),
        ([-1.0] * 36, "0 or more"),
        ([0.0] * 36, "not all zero"),
    ):
        with pytest.raises(fits.InputError, match=says):
            fits.fit("chinchilla", runs, weights=wrong)
    with pytest.raises(fits.InputError, match="36 numbers are needed"):
        fits.fit("chinchilla", runs.assign(word="many"), weights="word")


def test_fixed_and_bounded_constants():
    runs = planted(36, 5e-3)
    held = fits.fit("chinchilla", runs, fixed={"alpha": 0.3, "E": 1.7})
    assert (held.constants["alpha"], held.constants["E"]) == pytest.approx((0.3, 1.7), rel=1e-12)
    assert held.certificate is not None
    assert held.certificate["certified"]
    assert held.certificate["active_bounds"] == []
    assert set(held.interval()) == {"A", "B", "beta"}
    bounded = fits.fit("chinchilla", runs, bounds={"beta": (0.4, 0.6)})
    assert bounded.constants["beta"] == pytest.approx(0.4, rel=1e-9)
    assert bounded.certificate is not None
    assert bounded.certificate["active_bounds"] == ["beta"]
    assert "beta ended at the lower bound" in bounded.certificate["reason"]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"fixed": {"gamma": 1}}, "no constant 'gamma'"),
        ({"fixed": {"alpha": -1}}, "outside"),
        ({"bounds": {"E": (5000, 6000)}}, "no value between"),
    ]
    for options, says in cases:
        with pytest.raises(fits.InputError, match=says):
            fits.fit("chinchilla", runs, **options)


def test_absolute_objective_is_the_linear_programs_optimum():
    """For a law that is linear in its constants L1 regression is one linear program, solved here by scipy."""

    def line(c, x):
        return c["a"] + c["b"] * x["x"]

    generator = np.random.default_rng(1)
    x = np.linspace(1, 9, 30)
    y = 3 + 0.5 * x + generator.laplace(0, 0.4, 30)
    law = Law("line", "a + b x", line, (free("a", (-5, 5)), free("b", (-5, 5))), ("x",), output="y")
    for objective, over in (("absolute", 1.0), ("asymmetric", 4.0)):
        curve = fits.fit(law, pd.DataFrame({"x": x, "y": y}), objective=objective, over=over)
        design = np.stack([np.ones(30), x], axis=1)
        equations = np.concatenate([design, np.eye(30), -np.eye(30)], axis=1)
        costs = np.concatenate([[0, 0], np.ones(30), np.full(30, over)])
        referee = linprog(costs, A_eq=equations, b_eq=y, bounds=[(None, None)] * 2 + [(0, None)] * 60)
        assert curve.certificate is not None
        assert curve.certificate["certified"]
        assert curve.certificate["objective"] == pytest.approx(referee.fun, rel=1e-12)
        assert curve.certificate["optimality"] <= 1e-9
        assert list(curve.constants.values()) == pytest.approx(referee.x[:2], rel=1e-8)


@pytest.mark.slow
def test_derivatives_in_closed_form_are_those_of_automatic_differentiation():
    import dataclasses

    import jax

    from fits import derivatives, objectives, sample
    from fits.laws.chinchilla import CHINCHILLA

    generator = np.random.default_rng(2)
    for name in ("log-huber", "asymmetric"):  # a log and a raw objective; delta and sides differ
        goal = objectives.objective(name, delta=3e-3)
        problem = sample.prepare(CHINCHILLA, planted(36, 5e-3), goal).problem
        theta = np.array([0.59, 6.1, 7.6, 0.35, 0.37]) + generator.normal(0, 1e-2, (8, 5))
        with jax.enable_x64(True):
            rows = jax.tree.map(lambda array: array[:36], problem.rows)
            arguments = [
                jnp.asarray(a, jnp.float64)
                for a in (theta, generator.uniform(0, 2, (8, 36)), np.tile(problem.observed, (8, 1)), np.full(8, goal.delta or 1e-3))
            ]
            closed = derivatives.derivatives(CHINCHILLA, goal, rows)(*arguments)
            automatic = derivatives.derivatives(dataclasses.replace(CHINCHILLA, powers=None), goal, rows)(*arguments)
        for ours, referee in zip(closed, automatic, strict=True):
            np.testing.assert_allclose(ours, referee, rtol=1e-9, atol=1e-9 * np.abs(referee).max())


def test_rows_on_one_line_leave_the_terms_open():
    params = np.geomspace(1e7, 1e10, 36)
    loss = (1.8 + 450 * params**-0.35 + 2000 * (20 * params) ** -0.37) * np.exp(np.random.default_rng(0).normal(0, 3e-3, 36))
    curve = fits.fit("chinchilla", pd.DataFrame({"params": params, "tokens": 20 * params, "loss": loss}))
    assert curve.certificate is not None
    assert not curve.certificate["certified"]
    assert "all rows lie on one line, tokens ~ params^1" in curve.certificate["reason"]
    assert all(pair == (0, np.inf) for pair in curve.interval().values())
    assert curve.loss(params=1e9, tokens=2e10) == pytest.approx(1.8 + 450 * 1e9**-0.35 + 2000 * 2e10**-0.37, rel=3e-3)


def test_an_input_without_variety_is_named():
    params = np.geomspace(1e7, 1e10, 36)
    loss = (1.8 + 450 * params**-0.35 + 0.3) * np.exp(np.random.default_rng(0).normal(0, 3e-3, 36))
    curve = fits.fit("chinchilla", pd.DataFrame({"params": params, "tokens": 1e10, "loss": loss}))
    assert curve.certificate is not None
    assert "tokens is the same in every row" in curve.certificate["reason"]
    assert set(curve.certificate["open"]) == {"E", "B", "beta"}
    low, high = curve.interval()["alpha"]
    assert low < 0.35 < high


@pytest.mark.slow
def test_a_large_table_is_searched_on_part_and_fitted_on_all():
    generator = np.random.default_rng(3)
    params, tokens = 10 ** generator.uniform(7, 10, 40_000), 10 ** generator.uniform(9, 12, 40_000)
    loss = (1.8 + 450 * params**-0.35 + 2000 * tokens**-0.37) * np.exp(generator.normal(0, 1e-2, 40_000))
    curve = fits.fit("chinchilla", pd.DataFrame({"params": params, "tokens": tokens, "loss": loss}))
    assert curve.certificate is not None
    assert curve.certificate["certified"]
    assert curve.certificate["searched_rows"] == 5000
    assert curve.about["rows"] == 40_000
    assert curve.constants["alpha"] == pytest.approx(TRUTH["alpha"], rel=0.01)


def test_losses_that_are_not_positive_need_a_raw_objective():
    runs = planted(36, 1e-3)
    law = Law(
        "shifted",
        "loss - 3",
        lambda c, x: c["E"] + c["A"] * x.power("params", -c["alpha"]) - 3.0,
        (irreducible("E"), amplitude("A"), exponent("alpha")),
        ("params",),
        output="excess",
    )
    table = runs.assign(excess=1.0 + 450 * runs["params"] ** -0.35 - 3.0)
    with pytest.raises(fits.InputError, match="have no logarithm; give a raw objective"):
        fits.fit(law, table)
    assert fits.fit(law, table, objective="squared").constants["alpha"] == pytest.approx(0.35, rel=1e-6)
