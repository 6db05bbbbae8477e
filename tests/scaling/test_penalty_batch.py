"""Batched penalties: against the solver of single ones, a brute-force search, the theorem for every law, and finite differences."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

import fits
from scaling import InputError, compute_penalty, penalties
from scaling.repetition import REPETITION_HALF_LIFE

BES, HOF = fits.load("besiroglu2024"), fits.load("hoffmann2022")
DEPARTURES: list[dict[str, Any]] = [
    {},
    {"fixed": "tokens"},
    {"fixed": "params"},
    {"fixed": "tokens_per_param", "overtraining": 7.0},
    {"overtraining": 0.2},
    {"allocation_error": 3.0, "unique_tokens": 15e12},
    {"unique_tokens": 15e12, "follower_unique_tokens": 7.5e12},
    {"served_tokens": 1e14, "unique_tokens": 15e12},
    {"follower": HOF},
]


def said(departure: dict[str, Any]) -> str:
    return " ".join(f"{name}={value.name if name == 'follower' else value}" for name, value in departure.items()) or "free"


@pytest.mark.parametrize("departure", DEPARTURES, ids=said)
def test_a_batch_is_its_members_alone(departure):
    flops = np.geomspace(1e21, 1e29, 5)
    # A single one finds its optimum to 1e-8 of the size, which off the optimum shows in first order.
    rounding = 1e-6 if "allocation_error" in departure else 1e-9
    batch = penalties(BES, flops=flops[:, None], structure=[2.0, 0.6], data=[1.7, 3.0], **departure)
    for i, each in enumerate(flops):
        for j, (m, k) in enumerate([(2.0, 1.7), (0.6, 3.0)]):
            alone = compute_penalty(BES, flops=float(each), structure=m, data=k, **departure)
            assert batch.feasible[i, j] == alone.feasible
            assert batch.value[i, j] == pytest.approx(alone.value, rel=rounding)
            assert batch.leader_params[i, j] == pytest.approx(alone.leader.params, rel=1e-5)
            if alone.feasible:
                assert batch.follower_tokens[i, j] == pytest.approx(alone.follower.tokens, rel=1e-5)


def _supplied(tokens: np.ndarray, unique: np.ndarray) -> np.ndarray:
    repeats = np.maximum(tokens / unique - 1, 0)
    return np.minimum(tokens, unique) + unique * REPETITION_HALF_LIFE * -np.expm1(-repeats / REPETITION_HALF_LIFE)


def test_agreement_with_a_brute_force_minimiser():
    """A thousand random laws, gaps, supplies of data and amounts served. The minimiser knows nothing of slopes: it closes in on the best of a grid."""
    generator = np.random.default_rng(0)
    count = 1000
    law = {name: generator.uniform(*ends, count) for name, ends in {"E": (1, 2), "alpha": (0.2, 0.6), "beta": (0.2, 0.6)}.items()}
    law |= {name: 10 ** generator.uniform(1, 4, count) for name in ("A", "B")}
    flops, (m, k) = 10 ** generator.uniform(19, 27, count), generator.uniform(0.5, 4, (2, count))
    scarce = generator.uniform(size=count) < 0.6
    g = (law["alpha"] * law["A"] / (law["beta"] * law["B"])) ** (1 / (law["alpha"] + law["beta"]))
    fresh = flops / 6 / (g * (flops / 6) ** (law["beta"] / (law["alpha"] + law["beta"])))
    unique = np.where(scarce, fresh * 10 ** generator.uniform(-0.5, 1, count), 1e40)
    served = np.where(generator.uniform(size=count) < 0.5, fresh * 10 ** generator.uniform(-1, 2, count), 0.0)
    vector = np.stack([law[name] for name in BES.law.constants], axis=-1)
    curve = dataclasses.replace(BES, draws=vector)
    found = _diagonal(curve, flops=flops, structure=m, data=k, unique_tokens=unique, served_tokens=served)

    def loss(n, d, m, k):
        return law["A"] * (n / m) ** -law["alpha"] + law["B"] * (_supplied(d, unique) / k) ** -law["beta"]

    target = _lowest(lambda n: loss(n, flops / 6 / n, 1, 1), found.leader_params, span=1e3)  # serving moves the leader's size

    def cost(n, m, k):  # with the tokens that reach the target found by halving
        low, high = np.zeros_like(n), np.full_like(n, 120.0)
        for _ in range(70):
            middle = (low + high) / 2
            above = loss(n, np.exp(middle), m, k) > target
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return np.where(high < 119, n * (6 * np.exp(high) + 2 * served), np.inf)

    leader, follower = _lowest(lambda n: cost(n, 1, 1), found.leader_params), _lowest(lambda n: cost(n, m, k), found.follower_params)
    reached = found.feasible
    assert 0.9 < reached.mean() <= 1
    np.testing.assert_allclose(found.value[reached], (follower / leader)[reached], rtol=1e-6)
    assert np.isinf(_lowest(lambda n: cost(n, m, k), np.full(count, 1e12), span=1e12)[~reached]).all()


def _diagonal(curve, **settings):
    """Penalties where setting i belongs to draw i of the curve."""
    rows = [
        penalties(dataclasses.replace(curve, constants=dict(zip(curve.law.constants, map(float, row), strict=True)), draws=None), **one)
        for row, one in ((curve.draws[i], {name: value[i] for name, value in settings.items()}) for i in range(len(curve.draws)))
    ]
    fields = [field.name for field in dataclasses.fields(rows[0]) if field.name != "elasticities"]
    return type(rows[0])(**{name: np.array([getattr(row, name) for row in rows]) for name in fields}, elasticities={})


def _lowest(f, near, span=3.0):
    """The least value of f within a factor `span` of `near`, by grids of 33 that close in."""
    centre, half = np.log(np.where(np.isfinite(near), near, 1e12)), math.log(span)
    for _ in range(8):
        grid = centre + half * np.linspace(-1, 1, 33)[:, None]
        values = np.stack([f(np.exp(row)) for row in grid])
        centre = np.take_along_axis(grid, values.argmin(axis=0)[None], axis=0)[0]
        half /= 8
    return values.min(axis=0)


CURVES = [fits.load(name) for name in fits.published()]
LAWS = {curve.law.name: curve for curve in CURVES if curve.law.size and curve.law.output == "loss"}
INPUTS = {"experts": 8.0, "granularity": 2.0, "teacher_loss": 1.9}


@pytest.mark.parametrize(
    "name", [name if name in ("chinchilla", "moe-joint") else pytest.param(name, marks=pytest.mark.slow) for name in LAWS]
)
def test_gaps_multiply_for_every_law(name):
    """The theorem: with size and tokens free the penalty is structure x data, for any law and at any scale."""
    curve = LAWS[name]
    inputs = {each: INPUTS.get(each, 6.0) for each in curve.law.inputs if each not in (curve.law.size, "tokens", "unique_tokens")}
    found = penalties(curve, flops=[1e19, 1e20, 1e21], structure=2, data=1.5, inputs=inputs, elasticities=True)
    np.testing.assert_allclose(found.value, 3, rtol=1e-8)
    np.testing.assert_allclose(found.elasticities["structure"], 1, rtol=1e-6)
    np.testing.assert_allclose(found.elasticities["data"], 1, rtol=1e-6)
    alone = compute_penalty(curve, flops=1e20, structure=2, data=1.5, inputs=inputs)
    assert alone.value == pytest.approx(3, rel=1e-8)
    assert alone.follower.loss == pytest.approx(alone.leader.loss, rel=1e-9)


QUICK = ({"fixed": "tokens", "overtraining": 3.0}, {"served_tokens": 1e14, "unique_tokens": 15e12})


@pytest.mark.parametrize(
    "departure", [*QUICK, *(pytest.param(each, marks=pytest.mark.slow) for each in DEPARTURES if each not in QUICK)], ids=said
)
def test_elasticities_are_those_of_finite_differences(departure):
    settings: dict[str, Any] = {"flops": 1e26, "structure": 2.0, "data": 1.7} | {
        key: value for key, value in departure.items() if key not in ("fixed", "follower")
    }
    other = {key: value for key, value in departure.items() if key in ("fixed", "follower")}
    found = penalties(BES, **settings, **other, elasticities=True).elasticities
    step = 1e-5
    for name in settings:
        ends = [float(penalties(BES, **(settings | {name: settings[name] * math.exp(s)}), **other).value) for s in (step, -step)]
        total = found[name]
        if name == "unique_tokens" and "follower_unique_tokens" not in settings:  # then it is the follower's too
            total = total + found["follower_unique_tokens"]
        assert float(total) == pytest.approx(math.log(ends[0] / ends[1]) / (2 * step), abs=2e-5), name
    for name in ("E", "B", "beta"):
        ends = []
        for s in (step, -step):
            moved = dataclasses.replace(BES, constants=BES.constants | {name: BES.constants[name] * math.exp(s)})
            ends.append(float(penalties(moved, **settings, **({"follower": BES} | other)).value))
        assert float(found[f"leader.{name}"]) == pytest.approx(math.log(ends[0] / ends[1]) / (2 * step), abs=2e-3, rel=1e-4), name


def test_coefficient_gaps_exponents_and_floors():
    """Rows A, H and G: a gap in a coefficient of the loss, in an exponent, in the irreducible loss."""
    c = BES.constants
    gamma = c["alpha"] * c["beta"] / (c["alpha"] + c["beta"])
    doubled = dataclasses.replace(BES, constants=c | {"A": 2 * c["A"], "B": 2 * c["B"]})
    np.testing.assert_allclose(penalties(BES, flops=[1e20, 1e27], follower=doubled).value, 2 ** (1 / gamma), rtol=1e-9)
    flatter = dataclasses.replace(BES, constants=c | {"alpha": 0.3, "beta": 0.3})
    values = penalties(BES, flops=[1e21, 1e24, 1e27], follower=flatter).value
    slope = np.diff(np.log(values)) / math.log(1e3)
    np.testing.assert_allclose(slope, gamma / 0.15 - 1, rtol=1e-9)
    higher = dataclasses.replace(BES, constants=c | {"E": c["E"] + 0.02})
    reducible = BES.optimal(1e24).loss - c["E"]
    assert float(penalties(BES, flops=1e24, follower=higher).value) == pytest.approx((1 - 0.02 / reducible) ** (-1 / gamma), rel=1e-7)


def test_draws_lead_and_a_gap_of_the_whole_law_does_not_spread():
    assert BES.draws is not None
    free = penalties(BES, flops=[1e24, 1e27], structure=2, data=2, draws=True)
    assert free.value.shape == (len(BES.draws), 2)
    np.testing.assert_allclose(free.value, 4, rtol=1e-9)
    fixed = penalties(BES, flops=1e24, structure=2, data=2, fixed="tokens", draws=True).value
    assert np.quantile(fixed, 0.05) < 5.03 < np.quantile(fixed, 0.95)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"flops": [1e24, -1.0]}, "flops must be positive and finite, got -1.0"),
        ({"structure": [1.0, 0.0]}, "structure"),
        ({"fixed": "size"}, "fixed must be"),
        ({"inputs": {"experts": 8.0}}, "no further input of law chinchilla"),
        ({"allocation_error": 2.0, "fixed": "tokens"}, "allocation_error"),
        ({"served_tokens": [0.0, math.inf]}, "served_tokens"),
    ],
)
def test_bad_settings_are_refused(arguments: dict[str, Any], says):
    settings: dict[str, Any] = {"flops": 1e24, **arguments}
    with pytest.raises(InputError, match=says):
        penalties(BES, **settings)
    with pytest.raises(InputError, match="needs"):
        penalties(fits.load("ludziejewski2025"), flops=1e20)
