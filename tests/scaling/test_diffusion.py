"""Access and performance effects: closed forms, their identity, and published test vectors."""

from __future__ import annotations

import math

import pytest

import fits
from scaling import InputError
from scaling.diffusion import Actor, Trends, access_cost, diffusion_window, performance

CURVE, TRENDS = fits.load("besiroglu2024"), Trends(1.37, 3.0)


@pytest.mark.parametrize(
    ("budgets", "growths", "penalty", "delay", "discovery", "expected"),
    [
        ((1e9, 1e8), (2.4, 2.4), 4, 0, 0, 1.6116),
        ((1e9, 1e8), (2.4, 1.0), 4, 0.5, 2, 4.2373),
        ((1e9, 1e9), (2.4, 2.4), 4, 0, 0, 0.6057),
        ((1e9, 1e5), (2.4, 1.0), 1, 0, 3, 8.3745),
    ],
)
def test_diffusion_window(budgets, growths, penalty, delay, discovery, expected):
    leader = Actor("leader", budgets[0], growths[0])
    follower = Actor("follower", budgets[1], growths[1], penalty=penalty, delay_years=delay)
    assert diffusion_window(leader, follower, TRENDS, discovery) == pytest.approx(expected, rel=1e-3)


def test_both_effects_are_one_shift_of_the_curve():
    before = performance(CURVE, 1e8, TRENDS, 0.0)
    cheaper = access_cost(CURVE, before, TRENDS, 2.0)
    assert 1e8 / cheaper == pytest.approx(TRENDS.shared**2, rel=1e-9)
    # The dollars saved are worth the same effective compute: spending them later gives the loss of before.
    assert performance(CURVE, cheaper, TRENDS, 2.0) == pytest.approx(before, rel=1e-12)
    assert performance(CURVE, 1e8, TRENDS, 2.0) < before


def test_access_cost_falls_at_the_same_rate_for_every_loss():
    for loss in (1.9, 2.2, 3.0):
        assert access_cost(CURVE, loss, TRENDS, 0.0) / access_cost(CURVE, loss, TRENDS, 1.0) == pytest.approx(TRENDS.shared, rel=1e-12)
    assert math.isinf(access_cost(CURVE, 1.5, TRENDS, 10.0))


def test_a_fixed_budget_follows_ever_later():
    leader, follower = Actor("leader", 1e9, 2.4), Actor("follower", 1e8)
    windows = [diffusion_window(leader, follower, TRENDS, t) for t in (0.0, 1.0, 2.0)]
    growth = math.log(2.4) / math.log(TRENDS.shared)
    assert windows[1] - windows[0] == pytest.approx(growth, rel=1e-9)
    assert windows[2] - windows[1] == pytest.approx(growth, rel=1e-9)


def test_bad_actors_are_refused():
    with pytest.raises(InputError, match="budget_usd"):
        Actor("none", 0.0)
    with pytest.raises(InputError, match="algorithms"):
        Trends(algorithms=math.nan)
