"""Conversion curves, windows and growth paths: the reference's vectors, closed forms against the general solver, exact limits."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fits
from scaling import InputError
from scaling.diffusion import windows
from scaling.diffusion.conversion import AnyMonotone, BoundedScore, Ceiling, Conversion, IndexLinear, LossPower, loss_performance
from scaling.diffusion.effects import Trends
from scaling.diffusion.solver import invert

LAW = LossPower.of(fits.load("besiroglu2024"))
SCORE = BoundedScore(LAW, middle=2.1, steepness=9.0, span=0.75, floor=0.25)
CEILING = Ceiling(LAW, -1.9)
CURVES = {"index": IndexLinear(0.7, 3.0), "loss": LAW, "score": SCORE, "ceiling": CEILING}
TRENDS = Trends(1.37, 3.0)
X = np.linspace(44.0, 64.0, 41)


@pytest.mark.parametrize("name", CURVES)
def test_closed_forms_agree_with_the_general_solver(name):
    closed, general = CURVES[name], AnyMonotone(CURVES[name].performance)
    levels = closed.performance(X)
    below = levels < (CEILING.ceiling if name == "ceiling" else math.inf)
    assert below.sum() > 10
    np.testing.assert_allclose(closed.inverse(levels)[below], X[below], rtol=1e-9)
    np.testing.assert_allclose(closed.inverse(levels)[below], general.inverse(levels)[below], rtol=1e-9)
    np.testing.assert_allclose(closed.slope(X)[below], general.slope(X)[below], rtol=1e-6)
    # The same questions of the composition, dollars in and dollars out.
    exact, solved = Conversion(closed, TRENDS), Conversion(general, TRENDS)
    usd = np.geomspace(1e4, 1e8, 9)
    p = exact.performance(usd, 0.0)
    p = p[p < (CEILING.ceiling if name == "ceiling" else math.inf)]
    np.testing.assert_allclose(exact.usd_for(p, 2.5), solved.usd_for(p, 2.5), rtol=1e-6)
    np.testing.assert_allclose(exact.access_effect(p, 0.0, 2.5), TRENDS.shared**-2.5, rtol=1e-9)


def test_the_loss_curve_is_the_frontier_of_its_law():
    for name in ("besiroglu2024", "hoffmann2022"):
        curve = fits.load(name)
        losses = [curve.optimal(flops).loss for flops in (1e19, 1e24, 1e28)]
        np.testing.assert_allclose(LossPower.of(curve).loss(np.log([1e19, 1e24, 1e28])), losses, rtol=1e-12)
    assert LAW.exponent == pytest.approx(0.17830, rel=1e-4)
    assert float(LAW.reducible(math.log(1e24))) == pytest.approx(0.1424, rel=1e-3)


def test_any_law_with_an_optimum_has_a_performance():
    other = fits.load("beck2025-xlstm")
    found = loss_performance(other)
    x = np.log([1e21, 1e23])
    np.testing.assert_allclose(found.performance(x), [-other.optimal(flops).loss for flops in (1e21, 1e23)], rtol=1e-9)
    np.testing.assert_allclose(found.inverse(found.performance(x)), x, rtol=1e-6)
    with pytest.raises(InputError, match="no single power"):
        LossPower.of(other)


def test_both_effects_are_one_displacement():
    conversion, usd, years = Conversion(SCORE, TRENDS), np.geomspace(1e5, 1e9, 9), 1.5
    later = conversion.performance(usd, years)
    np.testing.assert_allclose(later, conversion.performance(usd * TRENDS.shared**years, 0.0), rtol=1e-12)
    # Over a short time the vertical displacement is the slope times the horizontal one.
    short, x = 1e-5, np.log(usd * TRENDS.flops_per_usd)
    np.testing.assert_allclose(conversion.performance_effect(usd, 0.0, short), SCORE.slope(x) * math.log(TRENDS.shared) * short, rtol=1e-3)


def test_gains_that_depend_on_scale_leave_small_budgets_behind():
    flat, tilted = Conversion(IndexLinear(), TRENDS), Conversion(IndexLinear(), TRENDS, scale_slope=0.03, scale_reference=1e24)
    usd = np.array([1e5, 1e24 / TRENDS.flops_per_usd / TRENDS.price_performance**2, 1e9])
    gain = tilted.performance_effect(usd, 0.0, 2.0) - flat.performance_effect(usd, 0.0, 2.0)
    assert gain[0] < 0 < gain[2]
    assert gain[1] == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(tilted.usd_for(tilted.performance(usd, 2.0), 2.0), usd, rtol=1e-9)
    effect = tilted.access_effect(tilted.performance(usd, 0.0), 0.0, 2.0)
    assert effect[0] > effect[2]
    with pytest.raises(InputError, match="worth less"):
        tilted.performance(1e6, -40.0)


def test_bounds_are_out_of_reach():
    conversion = Conversion(CEILING, TRENDS)
    assert np.isinf(conversion.usd_for(-1.85, 3.0))
    assert np.isinf(Conversion(LAW, TRENDS).usd_for(-LAW.irreducible, 3.0))
    assert np.isinf(SCORE.inverse(1.0))
    assert SCORE.inverse(0.25) == -math.inf
    assert conversion.performance_effect(1e15, 0.0, 5.0) == 0.0


WINDOWS = [
    ((1e9, 1e8, 2.4, 2.4), 4, 0, 0, 1.6116),
    ((1e9, 1e8, 2.4, 1.0), 4, 0.5, 2, 4.2373),
    ((1e9, 1e9, 2.4, 2.4), 4, 0, 0, 0.6057),
    ((1e9, 1e5, 2.4, 1.0), 1, 0, 3, 8.3745),
]


def test_windows_of_the_reference_in_one_call():
    budgets, penalty, delay, discovery, expected = (np.array(each, float) for each in zip(*WINDOWS, strict=True))
    leader, follower, leader_growth, follower_growth = budgets.T
    found = windows.window(
        leader_usd=leader,
        follower_usd=follower,
        leader_growth=leader_growth,
        follower_growth=follower_growth,
        price_performance=1.37,
        algorithms=3.0,
        penalty=penalty,
        delay=delay,
        discovery=discovery,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_window_agrees_with_the_general_solver_on_random_actors():
    rng = np.random.default_rng(3)
    for _ in range(40):
        hardware, algorithms = rng.uniform(1.1, 2.0), rng.uniform(1.2, 6.0)
        usd, growth = np.exp(rng.uniform(10, 25, 2)), rng.uniform(0.95, 4.0, 2)
        penalty, delay, discovery = rng.uniform(0.5, 20), rng.uniform(0, 2), rng.uniform(-3, 8)
        tech = windows.GrowthPath(4e17, (hardware,)), windows.GrowthPath(1.0, (algorithms,))
        leader = windows.Path(windows.GrowthPath(usd[0], (growth[0],)), *tech)
        follower = windows.Path(windows.GrowthPath(usd[1], (growth[1],)), *tech, penalty=penalty, delay=delay)
        closed = windows.window(
            leader_usd=usd[0],
            follower_usd=usd[1],
            leader_growth=growth[0],
            follower_growth=growth[1],
            price_performance=hardware,
            algorithms=algorithms,
            penalty=penalty,
            delay=delay,
            discovery=discovery,
        )
        assert closed == pytest.approx(float(windows.general_window(leader, follower, discovery)), abs=1e-6)
        reached = windows.discovery_time(
            effective_flops=np.exp(leader(discovery)), flops=usd[0] * 4e17, growth=growth[0], shared=hardware * algorithms
        )
        assert reached == pytest.approx(discovery, abs=1e-9)


def test_exact_limits():
    alike = {
        "leader_usd": 1e9,
        "follower_usd": 1e9,
        "leader_growth": 2.4,
        "follower_growth": 2.4,
        "price_performance": 1.37,
        "algorithms": 3.0,
    }
    times = np.array([0.0, 3.0, 9.0])
    np.testing.assert_array_equal(windows.window(**alike, discovery=times), 0.0)
    constant = windows.window(**(alike | {"follower_usd": 1e8}), penalty=4.0, discovery=times)
    assert np.ptp(constant) == 0.0
    # Reaching finds the follower at the leader's growth: the lag at a date is the window.
    assert constant[0] == pytest.approx(windows.lag(compute_ratio=10.0, penalty=4.0, growth=2.4 * 1.37 * 3.0), rel=1e-12)
    still = windows.window(**(alike | {"follower_growth": 1.0}), discovery=times)
    slope = windows.window_growth(leader_growth=2.4, follower_growth=1.0, shared=1.37 * 3.0)
    np.testing.assert_allclose(np.diff(still) / np.diff(times), slope, rtol=1e-12)
    assert slope == pytest.approx(math.log(2.4) / math.log(4.11), rel=1e-12)
    # A follower that never grows never arrives, unless it is there already.
    shrinking = windows.window(**(alike | {"follower_usd": np.array([1e8, 1e10]), "follower_growth": 1 / 4.11}))
    np.testing.assert_array_equal(shrinking, [math.inf, -math.inf])


def test_growth_that_bends_and_ceilings():
    path = windows.GrowthPath(1e8, (3.0, 1.5), (4.0,))
    np.testing.assert_allclose(np.exp(path.log(np.array([-1.0, 0.0, 4.0, 6.0]))), [1e8 / 3, 1e8, 1e8 * 81, 1e8 * 81 * 2.25], rtol=1e-12)
    shifted = windows.GrowthPath(1e8, (3.0, 1.5), (-2.0,))  # a bend in the past: 1.5x since
    np.testing.assert_allclose(np.exp(shifted.log(np.array([0.0, 1.0]))), [1e8, 1.5e8], rtol=1e-12)
    # A follower whose algorithms stop growing after it has started arrives later than the closed form without the bend says.
    tech = windows.GrowthPath(4e17, (1.37,))
    leader = windows.Path(windows.GrowthPath(1e9, (2.4,)), tech, windows.GrowthPath(1.0, (3.0,)))
    bent = windows.Path(windows.GrowthPath(1e8, (2.4,)), tech, windows.GrowthPath(1.0, (3.0, 1.2), (1.0,)), penalty=4.0)
    found = float(windows.general_window(leader, bent, 0.0))
    by_hand = 1.0 + (math.log(40) - math.log(2.4 * 1.37 * 3.0)) / math.log(2.4 * 1.37 * 1.2)
    assert found == pytest.approx(by_hand, abs=1e-9)
    # Behind a ceiling of 1e28 the follower is level with everyone after a finite time.
    ceiling = Ceiling(IndexLinear(1 / math.log(10)), 28.0)
    assert ceiling.reached(26 * math.log(10), math.log(10.0)) == pytest.approx(2.0, rel=1e-12)


def test_lag_and_the_penalty_it_implies():
    growth = 4.6 * 3.0
    months = 12 * windows.lag(compute_ratio=np.array([[5.0], [10.0]]), penalty=np.array([[1.0, 2.0, 4.0]]), growth=growth)
    np.testing.assert_allclose(months, [[7.4, 10.5, 13.7], [10.5, 13.7, 16.9]], atol=0.05)
    implied = windows.implied_penalty(lag_years=7 / 12, compute_ratio=np.array([5.0, 10.0]), growth=growth)
    np.testing.assert_allclose(implied, [0.92, 0.46], atol=0.005)
    np.testing.assert_allclose(windows.lag(compute_ratio=np.array([5.0, 10.0]), penalty=implied, growth=growth), 7 / 12, rtol=1e-12)


def test_closed_forms_run_and_differentiate_in_jax():
    import jax

    with jax.enable_x64(True):
        fixed = {"leader_usd": 1e9, "follower_usd": 1e8, "leader_growth": 2.4, "follower_growth": 1.5, "algorithms": 3.0}
        value, slope = jax.value_and_grad(lambda p: windows.window(**fixed, price_performance=1.37, penalty=p, discovery=2.0))(4.0)
        assert float(value) == pytest.approx(float(windows.window(**fixed, price_performance=1.37, penalty=4.0, discovery=2.0)), rel=1e-12)
        assert float(slope) == pytest.approx(1 / (4 * math.log(1.5 * 1.37 * 3.0)), rel=1e-12)
        levels = jax.numpy.asarray(SCORE.performance(X))
        np.testing.assert_allclose(jax.jit(SCORE.inverse)(levels), X, rtol=1e-9)


def test_imagenet_component_product():
    # Reference vector 8: hardware doubling in two years, vision algorithms halving the need in nine months, four years.
    components = Trends(price_performance=2**0.5, algorithms=2 ** (12 / 9))
    assert components.shared**4 == pytest.approx(161.27, rel=1e-4)
    assert Trends.named("price-performance-accelerators", "algorithms-vision").shared ** 4 == pytest.approx(161.27, rel=0.025)


def test_bad_input_is_named():
    with pytest.raises(InputError, match="must increase"):
        invert(lambda x: -x, 0.0, -1.0, 1.0)
    with pytest.raises(InputError, match="dates must increase"):
        windows.GrowthPath(1.0, (1.0, 2.0, 3.0), (2.0, 1.0))
    with pytest.raises(InputError, match="2 dates part 3 growths"):
        windows.GrowthPath(1.0, (1.0, 2.0), (1.0, 2.0))
    with pytest.raises(InputError, match="coefficient"):
        LossPower(1.7, -1.0, 0.15)
    for make in (lambda: Ceiling(LAW, math.nan), lambda: IndexLinear(1.0, math.inf), lambda: Conversion(LAW, TRENDS, scale_slope=math.nan)):
        with pytest.raises(InputError, match="must be finite"):
            make()
    with pytest.raises(InputError, match="catch_up"):
        Trends.named("price-performance", "catch-up")
