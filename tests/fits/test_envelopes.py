"""The envelope of training curves finds planted exponents, and says where it cannot."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import fits
from fits.envelopes import envelope
from tests.fits.planted import TRUTH

EXPONENT = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])


def training(sizes=25, checkpoints=60, longest=300.0, truth=TRUTH):
    """Checkpoints of one run a size, 1e7 to 1e10 parameters, from half a token to `longest` tokens a parameter."""
    params = np.repeat(np.geomspace(1e7, 1e10, sizes), checkpoints)
    tokens = params * np.tile(np.geomspace(0.5, longest, checkpoints), sizes)
    loss = truth["E"] + truth["A"] * params ** -truth["alpha"] + truth["B"] * tokens ** -truth["beta"]
    return pd.DataFrame({"params": params, "tokens": tokens, "flops": 6 * params * tokens, "loss": loss})


@pytest.fixture(scope="module")
def found():
    return envelope(training())


def test_planted_exponents_are_found(found):
    assert found.params.constants["a"] == pytest.approx(EXPONENT, abs=0.003)
    assert found.tokens.constants["a"] == pytest.approx(1 - EXPONENT, abs=0.003)
    curve = fits.Curve(law=fits.load("besiroglu2024").law, constants=TRUTH)
    assert found.params.evaluate(flops=1e20) == pytest.approx(curve.optimal(flops=1e20).params, rel=0.02)
    assert found.params.evaluate(flops=1e20) * found.tokens.evaluate(flops=1e20) == pytest.approx(1e20 / 6, rel=1e-6)


def test_another_exponent_is_found_too():
    truth = TRUTH | {"alpha": 0.3, "beta": 0.45, "B": 8000.0}
    other = envelope(training(truth=truth), bootstrap=0)
    assert other.params is not None
    assert other.params.constants["a"] == pytest.approx(0.6, abs=0.005)


def test_a_few_sizes_still_give_the_exponent_within_the_interval():
    few = envelope(training(sizes=9))
    assert few.params is not None
    low, high = few.params.interval()["a"]
    assert low < EXPONENT < high


def test_edges_are_left_out_with_a_reason(found):
    table = found.table
    edge = table["reason"].str.startswith("edge")
    assert (edge == ~table["bracketed"]).all()
    # Below, the smallest run is the best of all; above, the largest, and at the very ends there is one run alone.
    assert table["params"].iloc[0] == pytest.approx(1e7)
    assert table["params"].iloc[-1] == pytest.approx(1e10)
    for size, word in ((1e7, "smallest"), (1e10, "largest")):
        reasons = table.loc[np.isclose(table["params"], size), "reason"]
        assert reasons.str.contains(f"{word}|one params").all()
    kept = found.accepted["params"]
    assert kept.min() > 1.01e7
    assert kept.max() < 0.99e10


def test_the_smallest_run_left_at_a_compute_is_an_edge_too():
    """Short runs: at high compute the small models have ended, and the best is the smallest that still runs."""
    table = envelope(training(longest=4.0), bootstrap=0).table
    assert table["reason"].str.contains("the smallest params that reaches it is the best").sum() > 700


def test_intervals_come_from_redrawn_runs_only(found):
    low, high = found.params.interval(0.95)["a"]
    assert low < EXPONENT < high
    assert 0.005 < high - low < 0.1
    bare = envelope(training(), bootstrap=0).params
    assert bare is not None
    with pytest.raises(fits.InputError, match="no draws"):
        bare.interval()
    again = envelope(training())
    assert again.params is not None
    np.testing.assert_array_equal(again.params.draws, found.params.draws)


def test_runs_of_one_size_are_told_apart():
    bad = training().assign(loss=lambda rows: rows["loss"] * 1.02)
    both = pd.concat([training().assign(learning_rate=1e-3), bad.assign(learning_rate=1e-2)])
    with pytest.raises(fits.InputError, match="tell runs apart"):
        envelope(both)
    table = envelope(both, run=["params", "learning_rate"], bootstrap=0).table
    assert table["run"].str.endswith("0.001").all()
    with pytest.raises(fits.InputError, match="no column 'lr'"):
        envelope(both, run="lr")


def test_two_sizes_have_no_power_law():
    found = envelope(training(sizes=2))
    assert found.params is None
    assert "power law" in found.reason


@pytest.mark.parametrize(
    ("change", "words"), [({"points": 1}, "points"), ({"bootstrap": -1}, "bootstrap"), ({"size": "width"}, "size 'width'")]
)
def test_bad_arguments_are_refused(change, words):
    with pytest.raises(fits.InputError, match=words):
        envelope(training(), **change)


def test_the_checkpoints_of_misfitting(data_folder):
    """Real curves: eight sizes lie on the envelope between its edges, and the smallest survivors at high compute are left out."""
    rows = fits.dataset("misfitting-checkpoints")
    names = ["params", "total_steps", "learning_rate", "sweep", "total_epochs"]
    rows = rows.sort_values("loss", kind="stable").drop_duplicates([*names, "flops"])
    found = envelope(rows, run=names)
    assert found.params is not None
    assert found.accepted["params"].nunique() == 8
    assert found.params.constants["a"] == pytest.approx(0.3914, abs=5e-4)
    low, high = found.params.interval()["a"]
    assert low < 0.3914 < high
    assert found.accepted["flops"].max() < 3e19
