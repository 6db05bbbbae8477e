"""A planted compute multiplier is found from pairs of runs, and no difference gives one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import fits
from scaling import InputError
from scaling.multipliers import measure_pairs

CURVE = fits.load("besiroglu2024")


def runs(multiplier: float, noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Runs of a lab whose compute is worth `multiplier` times as much: losses at N sqrt(s), D sqrt(s)."""
    rows = []
    for budget in (1e20, 1e21, 1e22):
        best = CURVE.optimal(budget)
        for width, ratio in enumerate((0.5, 1, 2)):
            params, tokens = best.params * ratio, best.tokens / ratio
            loss = CURVE.loss(params=params * multiplier**0.5, tokens=tokens * multiplier**0.5)
            rows.append(
                {
                    "width": width,
                    "budget": budget,
                    "seed": 0,
                    "params": params,
                    "tokens": tokens,
                    "flops": budget,
                    "loss": loss,
                    "status": "done",
                }
            )
    frame = pd.DataFrame(rows)
    return frame.assign(loss=frame["loss"] * np.exp(np.random.default_rng(seed).normal(0, noise, len(frame))))


@pytest.mark.parametrize("planted", [0.5, 1.0, 2.0, 4.0])
def test_planted_multiplier_is_found(planted):
    found = measure_pairs(runs(1.0), runs(planted), curve=CURVE)
    assert found.multiplier.value == pytest.approx(planted, rel=1e-6)
    assert found.multiplier.low <= planted * (1 + 1e-6)
    assert found.multiplier.high >= planted * (1 - 1e-6)
    assert len(found.pairs) == found.levels["pairs"].sum() == 9


@pytest.mark.parametrize("rate", [1e-3, 3e-3])
def test_a_sweep_of_rates_makes_no_more_pairs(rate):
    """The baseline's rate of the pair is the variant's own, or where it has none the best."""
    tuned, untuned = runs(1.0).assign(learning_rate=1e-3), runs(0.5).assign(learning_rate=4e-3)
    found = measure_pairs(pd.concat([untuned, tuned]), runs(2.0).assign(learning_rate=rate), curve=CURVE)
    assert len(found.pairs) == found.levels["pairs"].sum() == 9
    assert found.multiplier.value == pytest.approx(2.0, rel=1e-6)
    assert "of 18 possible pairs 9 are kept" in found.notes[0]
    untuned_too = measure_pairs(pd.concat([tuned, untuned]), runs(1.0).assign(learning_rate=4e-3), curve=CURVE)
    assert untuned_too.multiplier == measure_pairs(untuned, runs(1.0), curve=CURVE).multiplier


def test_interval_covers_under_noise_about_as_often_as_it_says():
    covered = 0
    for seed in range(60):
        found = measure_pairs(runs(1.0, 3e-3, seed), runs(2.0, 3e-3, 1000 + seed), curve=CURVE, seed=seed)
        covered += found.multiplier.low < 2.0 < found.multiplier.high
    assert covered >= 53  # nominal 57


def test_what_a_run_costs_more_is_taken_off():
    dearer = runs(2.0)
    dearer["flops"] *= 1.25
    assert measure_pairs(runs(1.0), dearer, curve=CURVE).multiplier.value == pytest.approx(2.0 / 1.25, rel=1e-6)


def test_what_is_beyond_the_law_is_infinite():
    beyond = runs(1.0).assign(loss=0.9 * CURVE.constants["E"])
    assert np.isinf(measure_pairs(runs(1.0), beyond, curve=CURVE).multiplier.value)


def test_without_pairs_there_is_no_multiplier():
    with pytest.raises(InputError, match="no run of the variant"):
        measure_pairs(runs(1.0), runs(2.0).assign(seed=7), curve=CURVE)


def test_a_pair_out_of_reach_is_said_without_a_warning():
    worse = runs(1.0)
    worse["loss"] *= np.where(worse.index == 0, 5.0, 1.0)
    found = measure_pairs(runs(1.0), worse, curve=CURVE)
    assert found.multiplier.value == 0
    assert found.notes == ["1 of 9 pairs differ by more than a factor 1097 of compute, and so does the mean: leave them out by --where"]
