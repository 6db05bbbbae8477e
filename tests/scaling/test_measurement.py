"""A planted penalty is recovered from runs of disjoint grids and seeds, with intervals that cover as often as they say, and what cannot be compared is refused."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import least_squares

from scaling import InputError, joint_fit, measure_multiplier
from scaling.joint_fit import OUTER
from scaling.measurement import _Bands, _Interval, _scale
from scaling.two_sides import TWO_SIDES, Side, constants_of, sides
from tests.scaling.test_cli import answer, called

LEADER = Side(loss=3.0, irreducible=1.8, size=1.5e8, tokens=3.5e9, alpha=0.35, beta=0.37)
GRIDS = ((np.geomspace(1e18, 1e20, 5), (0.4, 1.0, 2.5)), (np.geomspace(2e18, 3e20, 5), (0.5, 1.3, 2.8)))  # 15 runs a side, disjoint


def follower(m: float = 2.0, k: float = 2.0, growth: float = 1.0) -> Side:
    """The leader's law with handicaps m and k at the leader's anchor, from which its compute at equal loss grows as the leader's to the power `growth`."""
    powers = {name: getattr(LEADER, name) / growth for name in ("alpha", "beta")}
    return dataclasses.replace(LEADER, size=m * LEADER.size, tokens=k * LEADER.tokens, **powers)


def runs(side: Side, grid: tuple, noise: float, seed: int, seeds: int = 1, cell_noise: float = 0.0) -> pd.DataFrame:
    """Runs of a side at computes and at multiples of its optimal size; log-normal noise of a run, and of a cell as a law's misfit would be."""
    rng, rows, curve = np.random.default_rng(seed), [], side.curve("", 6.0, {})
    for compute, ratio in itertools.product(*grid):
        params = curve.optimal(compute).params * ratio
        tokens = compute / (6 * params)
        shift = rng.normal(0, cell_noise)
        for number in range(seeds):
            loss = curve.loss(params=params, tokens=tokens) * np.exp(shift + rng.normal(0, noise))
            rows.append({"params": params, "tokens": tokens, "flops": compute, "loss": loss, "seed": 100 * seed + number})
    return pd.DataFrame(rows).assign(corpus="web@1", status="done")


def both(noise: float = 5e-3, other: Side | None = None, **options) -> tuple[pd.DataFrame, pd.DataFrame]:
    return runs(LEADER, GRIDS[0], noise, 1, **options), runs(other or follower(), GRIDS[1], noise, 2, **options)


def referee(baseline: pd.DataFrame, variant: pd.DataFrame) -> tuple[float, float, float]:
    """m, k and half the sum of squares by scipy, in the law's own constants E, A, B, alpha, beta, m, k."""
    table = pd.concat([baseline.assign(side=0.0), variant.assign(side=1.0)])
    n, d, side, loss = (table[name].to_numpy(float) for name in ("params", "tokens", "side", "loss"))

    def residuals(x: np.ndarray) -> np.ndarray:
        e, a, b, alpha, beta, m, k = x
        terms = np.exp(a - alpha * (np.log(n) - m * side)), np.exp(b - beta * (np.log(d) - k * side))
        return np.log(loss) - np.log(np.exp(e) + terms[0] + terms[1])

    begins = [[0.5, 5.0, 6.0, alpha, beta, 0.1, 0.1] for alpha, beta in itertools.product((0.2, 0.5), (0.2, 0.5))]
    tight = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "max_nfev": 5000, "x_scale": "jac"}
    best = min((least_squares(residuals, begin, **tight) for begin in begins), key=lambda found: found.cost)
    return math.exp(best.x[5]), math.exp(best.x[6]), best.cost


def test_sides_and_constants_are_inverse_and_any_anchor_is_the_same_law():
    pair = LEADER, dataclasses.replace(follower(3.0, 1.5, 1.2), irreducible=1.7, alpha=0.4)
    inputs = {"size": [1e7, 1e9, 1e8], "tokens": [1e9, 1e11, 3e9]}
    for loss, split in itertools.product((2.4, 3.0, 4.0), (0.0, 0.5, 1.0)):
        constants = constants_of(*(side.at(loss) for side in pair), split)
        for number, (side, back) in enumerate(zip(pair, sides(constants, loss, split), strict=True)):
            curve = side.curve("", 6.0, {})
            assert back.curve("", 6.0, {}).constants == pytest.approx(curve.constants, rel=1e-9)
            predicted = loss * TWO_SIDES.evaluate(constants, inputs | {"variant": number, "split": split})
            np.testing.assert_allclose(predicted, curve.loss(np.array(inputs["size"]), np.array(inputs["tokens"])), rtol=1e-12)
        computes = [side.curve("", 6.0, {}).compute_for(loss) for side in pair]
        penalty = constants[TWO_SIDES.constants.index("penalty")]
        assert penalty == pytest.approx(computes[1] / computes[0], rel=1e-9)


def test_the_command_finds_planted_factors_as_scipy_does_and_draws_them(tmp_path):
    tables = both()
    paths = tmp_path / "b.csv", tmp_path / "v.csv"
    for table, path in zip(tables, paths, strict=True):
        table.to_csv(path, index=False)
    found = answer("multiplier", *paths, "--at-loss", 2.2, "--bootstrap", 100, "--plot", tmp_path / "isoloss.png")
    m, k, squares = referee(*tables)
    models = {row["model"]: row for row in found["tests"]}
    assert models["two factors"]["residual_sd"] == pytest.approx(math.sqrt(2 * squares / (30 - 7)), rel=1e-6)
    assert found["model"] == "two factors"
    for name, fitted, truth in (("penalty", m * k, 4.0), ("structure", m, 2.0), ("data", k, 2.0)):
        assert found[name]["value"] == pytest.approx(fitted, rel=1e-4)
        assert found[name]["low"] < truth < found[name]["high"] < 1.25**2 * found[name]["low"]
    assert found["scale"]["low"] < 0 < found["scale"]["high"]
    assert max(models[name]["p_against_two_factors"] for name in ("equal", "structure alone", "data alone")) < 1e-6
    *inside, asked = found["levels"]
    assert all(row["decades_outside"] < 0.2 for row in inside)
    # The leader's frontier at 2.2 nats, by its own law, against its largest run.
    assert asked["decades_outside"] == pytest.approx(math.log10(6 * LEADER.at(2.2).product / 1e20), abs=0.2)
    assert (tmp_path / "isoloss.png").stat().st_size > 20_000
    run = called("multiplier", *paths, "--at-loss", 1.5, "--bootstrap", 100)
    assert run.returncode == 2
    assert "1.5 is not above the irreducible loss" in run.stderr


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    baseline, variant = both()
    with pytest.raises(InputError, match=r"different corpus \(web@1, web@2\)"):
        measure_multiplier(baseline, variant.assign(corpus="web@2"))
    with pytest.raises(InputError, match="different vocab_size"):
        measure_multiplier(baseline.assign(vocab_size=256), variant.assign(vocab_size=1024))
    with pytest.raises(InputError, match=r"2 distinct runs of the baseline and 3 of the variant are too few"):
        measure_multiplier(baseline[:2], variant[:3])
    with pytest.raises(InputError, match="no finished runs"):
        measure_multiplier(baseline, variant.assign(status="diverged"))
    with pytest.raises(InputError, match="model 'three factors' is not known; it is one of one factor, "):
        measure_multiplier(baseline, variant, model="three factors")
    with pytest.raises(InputError, match="pairs answer where the pairs are"):
        measure_multiplier(baseline, variant, pairs=True, at_loss=[2.5])
    table = tmp_path / "runs.csv"
    pd.concat([baseline.assign(arm="dense"), variant.assign(arm="moe8")]).to_csv(table, index=False)
    for arguments, says in (
        ([table], "needs --baseline ARM and --variant ARM"),
        ([table, table, "--variant", "moe8"], "either two tables"),
        ([table, "--baseline", "dense", "--variant", "moe"], "no finished run of arm 'moe'; there are dense, moe8"),
        ([table, tmp_path / "none.csv"], "no such file"),
        ([table, "--baseline", "dense", "--variant", "moe8", "--level", "1"], "level must lie between 0 and 1"),
    ):
        run = called("multiplier", *arguments)
        assert run.returncode == 2, run.stderr
        assert len(run.stderr.strip().splitlines()) == 1, run.stderr
        assert says in run.stderr


@pytest.mark.slow
def test_forced_comparison_says_so_and_no_overlap_is_an_extrapolation():
    baseline, variant = both()
    forced = measure_multiplier(baseline, variant.assign(corpus="web@2"), force=True, draws=100)
    assert any("forced" in note for note in forced.notes)
    far = runs(follower(), (np.geomspace(1e22, 1e23, 5), GRIDS[1][1]), 5e-3, 2)
    apart = measure_multiplier(baseline, far, at_loss=[2.6], draws=100)
    assert apart.overlap is None
    assert any("extrapolates" in note for note in apart.notes)
    assert apart.levels["decades_outside"].iloc[0] > 1
    assert apart.penalty.low < 4 < apart.penalty.high


@pytest.mark.slow
def test_a_penalty_that_grows_with_scale_is_seen_and_followed():
    other = follower(growth=1.15)
    found = measure_multiplier(*both(3e-3, other), at_loss=[2.15], draws=300)
    assert found.scale_p < 1e-3
    assert found.scale.low < -0.15 * math.log(10) < found.scale.high
    assert found.model.removesuffix(OUTER) in ("scale-dependent", "own exponents", "own laws")
    for _, row in found.levels.iterrows():
        truth = LEADER.at(row["loss"]).product / other.at(row["loss"]).product
        assert row["low"] < truth < row["high"], row["loss"]


@pytest.mark.slow
def test_a_loss_below_the_variants_irreducible_one_is_out_of_its_reach():
    hopeless = dataclasses.replace(LEADER, irreducible=2.2, size=4e8, tokens=9e9)
    found = measure_multiplier(*both(1e-3, hopeless), at_loss=[2.1], model="own laws", draws=300)
    assert found.fit is not None
    assert found.fit.joint.sides[1].irreducible == pytest.approx(2.2, abs=0.1)
    asked = found.levels.iloc[-1]
    assert (asked["feasible"], asked["multiplier"]) == (False, 0.0)
    assert "no compute brings the variant" in asked["reason"]


@pytest.mark.slow
def test_seeds_of_a_cell_are_one_error():
    """A misfit that all seeds of a cell share makes runs look more certain than they are."""
    tables = both(1e-4, seeds=3, cell_noise=5e-3)
    by_cell, by_run = (measure_multiplier(*tables, cluster=cluster, draws=300) for cluster in ("cell", "run"))
    means = [table.assign(loss=np.log(table["loss"])).groupby(["params", "tokens", "flops"])["loss"].mean() for table in tables]
    averaged = [pd.DataFrame({"loss": np.exp(each)}).reset_index() for each in means]
    assert by_cell.penalty.value == pytest.approx(measure_multiplier(averaged[0], averaged[1], draws=100).penalty.value, rel=1e-6)
    widths = [math.log(each.penalty.high / each.penalty.low) for each in (by_cell, by_run)]
    assert widths[0] > 1.4 * widths[1]


@pytest.mark.slow
def test_intervals_cover_as_often_as_they_say_and_the_test_of_scale_has_its_size():
    """Nominal 95%, 15 runs a side, 400 replicates of even and 400 of uneven noise: 90 to 98% cover; about 5% are called scale-dependent at 5%."""
    tables = [table.assign(size=table["params"]) for table in both(0.0)]
    fitted = joint_fit.fit_models(joint_fit.cells(tables[0], tables[1]), ["two factors", "scale-dependent"], 3.0)
    rng, covered, called_sloped = np.random.default_rng(0), [], []
    for noise in (np.full(30, 5e-3), np.tile(np.geomspace(1e-2, 3e-3, 15), 2)):
        drawn = rng.normal(0, noise, (400, 30))
        plain, sloped = (_refitted(joint, drawn) for joint in fitted.values())
        for number in range(400):
            how = _Interval("bootstrap", 0.95, 128, number)
            band = _Bands(plain[number], how).of("penalty", 3.0, 0.5)
            covered.append(band.low < 4.0 < band.high)
            if number < 200:
                called_sloped.append(_scale(plain[number], _Bands(sloped[number], how))[1] < 0.05)
    assert 0.90 <= np.mean(covered) <= 0.98
    assert 0.015 <= np.mean(called_sloped) <= 0.085


def _refitted(joint: joint_fit.Joint, drawn: np.ndarray) -> list[joint_fit.Joint]:
    """The model fitted to its own predictions with noise, a replicate a row."""
    observed = joint.problem.observed + drawn
    count = len(drawn)
    bounds = np.tile(joint.problem.low, (count, 1)), np.tile(joint.problem.high, (count, 1))
    thetas = joint_fit.refit(joint.problem, np.tile(joint.theta, (count, 1)), observed, bounds)
    squares = joint_fit.half_squares(joint.problem, thetas, observed)
    return [
        dataclasses.replace(joint, problem=dataclasses.replace(joint.problem, target=np.exp(y)), theta=theta, squares=float(q))
        for y, theta, q in zip(observed, thetas, squares, strict=True)
    ]
