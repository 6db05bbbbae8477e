"""Penalties against the theorem, closed forms, published-law test vectors and a brute-force search."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

import fits
from scaling import InputError, compute_penalty
from scaling.repetition import effective_tokens, tokens_with_effect

BES, HOF = fits.load("besiroglu2024"), fits.load("hoffmann2022")


@pytest.mark.parametrize("curve", [BES, HOF])
@pytest.mark.parametrize("flops", [1e21, 1e24, 1e27, 1e29])
@pytest.mark.parametrize(("m", "k"), [(2, 2), (2, 1), (1, 2), (3, 1.5), (0.5, 1)])
def test_free_penalty_is_the_product_of_the_gaps(curve, flops, m, k):
    penalty = compute_penalty(curve, flops=flops, structure=m, data=k)
    assert penalty.value == pytest.approx(m * k, rel=1e-9)
    assert penalty.follower.params == pytest.approx(m * penalty.leader.params, rel=1e-4)
    assert penalty.follower.loss == pytest.approx(penalty.leader.loss, rel=1e-12)


@pytest.mark.parametrize(("curve", "tokens", "params"), [(BES, 5.0299, 5.0374), (HOF, 4.8578, 4.8408)])
def test_fixed_tokens_and_fixed_size(curve, tokens, params):
    assert compute_penalty(curve, flops=1e24, structure=2, data=2, fixed="tokens").value == pytest.approx(tokens, rel=1e-3)
    assert compute_penalty(curve, flops=1e24, structure=2, data=2, fixed="params").value == pytest.approx(params, rel=1e-3)
    # A closed form: tokens fixed, m [1 - (k^beta - 1) alpha / beta]^(-1 / alpha), at any scale.
    alpha, beta = curve.constants["alpha"], curve.constants["beta"]
    closed = 3 * (1 - (1.5**beta - 1) * alpha / beta) ** (-1 / alpha)
    assert compute_penalty(curve, flops=1e27, structure=3, data=1.5, fixed="tokens").value == pytest.approx(closed, rel=1e-9)


@pytest.mark.parametrize(
    ("unique", "flops", "data_gap", "both"),
    [
        (15e12, 1e25, 2.000, 4.000),
        (15e12, 1e26, 2.039, 4.078),
        (15e12, 1e27, 2.208, 4.416),
        (15e12, 1e28, 2.731, 5.462),
        (15e12, 1e29, 5.057, 10.11),
        (15e12, 1e30, 44.3, 88.7),
        (300e12, 1e28, 2.000, 4.000),
        (300e12, 1e29, 2.079, 4.159),
        (300e12, 1e30, 2.316, 4.631),
    ],
)
def test_limited_unique_data(unique, flops, data_gap, both):
    def ask(m, k):
        return compute_penalty(BES, flops=flops, structure=m, data=k, unique_tokens=unique).value

    assert ask(1, 2) == pytest.approx(data_gap, rel=1e-3)
    assert ask(2, 2) == pytest.approx(both, rel=1e-3)
    assert ask(2, 1) == pytest.approx(2, rel=1e-6)
    assert ask(2, 2) == pytest.approx(2 * ask(1, 2), rel=1e-6)


def test_half_the_unique_data_for_the_follower():
    values = [
        compute_penalty(BES, flops=c, structure=2, data=2, unique_tokens=15e12, follower_unique_tokens=7.5e12).value
        for c in (1e25, 1e26, 1e27)
    ]
    np.testing.assert_allclose(values, [4.015, 4.335, 5.467], rtol=1e-3)


@pytest.mark.parametrize(("served", "expected"), [(0, 4.0), (1e13, 3.51), (1e14, 2.825), (1e15, 2.40), (1e20, 2.016), (1e25, 2.0007)])
def test_serving_dilutes_the_data_gap(served, expected):
    assert compute_penalty(BES, flops=2e25, structure=2, data=2, served_tokens=served).value == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(("params", "flops", "bes", "hof"), [(175e9, 3.15e23, 1.6427, 2.4067), (280e9, 5.76e23, 1.8859, 2.9186)])
def test_misallocation_of_gpt3_and_gopher(params, flops, bes, hof):
    for curve, expected in ((BES, bes), (HOF, hof)):
        error = params / curve.optimal(flops).params
        assert compute_penalty(curve, flops=flops, allocation_error=error).value == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("factor", "bes", "hof"), [(3, 9.05, 7.50), (10, 35.9, 17.0), (30, 1.9e4, 74.7), (100, math.inf, 3.24e4)])
def test_overtrained_leader_with_the_size_fixed(factor, bes, hof):
    for curve, expected in ((BES, bes), (HOF, hof)):
        assert compute_penalty(curve, flops=1e24, structure=2, data=2, fixed="params", overtraining=factor).value == pytest.approx(
            expected, rel=0.03
        )


def test_irreducible_gap():
    worse = dataclasses.replace(BES, constants=BES.constants | {"E": BES.constants["E"] + 0.02})
    for flops, expected in ((1e21, 1.26), (1e24, 2.34), (1e27, 39.7)):
        assert compute_penalty(BES, flops=flops, follower=worse).value == pytest.approx(expected, rel=5e-3)
    hopeless = dataclasses.replace(BES, constants=BES.constants | {"E": 2.2})
    penalty = compute_penalty(BES, flops=1e24, follower=hopeless)
    assert math.isinf(penalty.value)
    assert "irreducible" in penalty.reason


def test_tokens_per_param_rule():
    assert compute_penalty(BES, flops=1e24, structure=2, data=2, fixed="tokens_per_param").value == pytest.approx(4, rel=1e-9)
    ratio = BES.optimal(1e21)
    to_20 = 20 / (ratio.tokens / ratio.params)
    assert compute_penalty(BES, flops=1e21, structure=4, fixed="tokens_per_param", overtraining=to_20).value == pytest.approx(
        4.66, abs=0.05
    )


def test_agreement_with_a_brute_force_search():
    """Random laws, gaps and data supplies: the least cost over a fine grid of sizes, tokens by bisection, to 1e-5."""
    generator = np.random.default_rng(0)
    for _ in range(40):
        alpha, beta = generator.uniform(0.2, 0.6, 2)
        constants = {
            "E": generator.uniform(1, 2),
            "A": 10 ** generator.uniform(1, 4),
            "B": 10 ** generator.uniform(1, 4),
            "alpha": alpha,
            "beta": beta,
        }
        curve = dataclasses.replace(BES, constants=constants, draws=None)
        m, k = generator.uniform(1, 4, 2)
        flops = 10 ** generator.uniform(19, 27)
        unique = curve.optimal(flops).tokens * 10 ** generator.uniform(-0.5, 1)
        penalty = compute_penalty(curve, flops=flops, structure=m, data=k, unique_tokens=unique)
        if not penalty.feasible:
            continue
        leader_tokens = flops / 6 / (sizes := penalty.leader.params * np.geomspace(0.2, 5, 20001))
        losses = (
            constants["E"]
            + constants["A"] * sizes**-alpha
            + constants["B"] * np.array([effective_tokens(d, unique) for d in leader_tokens]) ** -beta
        )
        assert penalty.leader.loss == pytest.approx(losses.min(), rel=1e-9)
        sizes = penalty.follower.params * np.geomspace(0.2, 5, 20001)
        left = losses.min() - constants["E"] - constants["A"] * (sizes / m) ** -alpha
        tokens = np.array([tokens_with_effect(k * (constants["B"] / x) ** (1 / beta), unique) if x > 0 else math.inf for x in left])
        assert penalty.follower.flops == pytest.approx((6 * sizes * tokens).min(), rel=1e-5)


def test_effective_tokens_and_back():
    for epochs in (0.5, 1, 2, 4, 16, 40):
        assert tokens_with_effect(effective_tokens(epochs * 7e9, 7e9), 7e9) == pytest.approx(epochs * 7e9, rel=1e-9)
    assert [round(effective_tokens(e, 1.0), 2) for e in (2, 4, 8, 16, 40, 100)] == [1.97, 3.73, 6.62, 10.58, 15.17, 16.36]
    assert math.isinf(tokens_with_effect(16.5, 1.0))


def test_impossible_answers_say_why():
    penalty = compute_penalty(BES, flops=1e24, data=8, fixed="tokens")
    assert (penalty.feasible, math.isinf(penalty.value)) == (False, True)
    assert "data term" in penalty.reason
    penalty = compute_penalty(BES, flops=1e31, data=2, unique_tokens=1e12)
    assert not penalty.feasible
    assert "unique tokens" in penalty.reason


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"flops": -1.0}, "flops must be positive"),
        ({"flops": math.nan}, "flops must be positive"),
        ({"structure": 0.0}, "structure"),
        ({"data": math.inf}, "data must be positive and finite"),
        ({"fixed": "size"}, "fixed must be"),
        ({"allocation_error": 2.0, "fixed": "tokens"}, "allocation_error"),
        ({"served_tokens": 1e12, "overtraining": 3.0}, "served_tokens"),
        ({"unique_tokens": -5.0}, "unique_tokens must be positive"),
    ],
)
def test_bad_settings_are_refused(arguments, says):
    with pytest.raises(InputError, match=says):
        compute_penalty(BES, **({"flops": 1e24} | arguments))
