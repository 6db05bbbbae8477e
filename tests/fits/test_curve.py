"""A curve's optimum, its inverse, its intervals, and its file."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import fits
from fits.laws import law
from fits.laws.base import to_constants, to_theta
from tests.fits.planted import TRUTH, planted


@pytest.fixture(scope="module")
def curve() -> fits.Curve:
    return fits.fit("chinchilla", planted(36, 2e-3), bootstrap=100)


def test_draws_of_besiroglu2024_reproduce_its_printed_intervals():
    """95% intervals of the paper's 4,000 resamples; ours are 400 of our own fits, so they agree to a tenth of their width."""
    interval = fits.load("besiroglu2024").interval(0.95)
    printed = {"A": (286, 744), "B": (1042, 5810), "E": (1.769, 1.871), "alpha": (0.317, 0.373), "beta": (0.331, 0.415)}
    for name, (low, high) in printed.items():
        assert interval[name][0] == pytest.approx(low, abs=0.15 * (high - low)), name
        assert interval[name][1] == pytest.approx(high, abs=0.15 * (high - low)), name


@pytest.mark.parametrize("flops", [1e18, 1e24, 1e29])
def test_optimum_beats_every_other_size(flops):
    found = fits.load("besiroglu2024")
    best = found.optimal(flops)
    sizes = best.params * np.geomspace(0.1, 10, 2001)
    losses = found.loss(params=sizes, tokens=flops / 6 / sizes)
    assert best.loss <= losses.min() * (1 + 1e-14)
    assert sizes[np.argmin(losses)] == pytest.approx(best.params, rel=3e-3)


@pytest.mark.parametrize("flops", [1e15, 1e21, 1e29])
def test_compute_for_inverts_optimal(flops, curve):
    for found in (curve, fits.load("hoffmann2022")):
        assert found.compute_for(found.optimal(flops).loss) == pytest.approx(flops, rel=1e-6)


def test_no_compute_suffices_at_the_irreducible_loss(curve):
    assert math.isinf(curve.compute_for(curve.constants["E"]))
    assert math.isinf(curve.compute_for(0.5 * curve.constants["E"]))


def test_prediction_interval_holds_new_runs():
    """Of fresh noisy runs at the fitted points, 95% intervals hold 85% at least: they include the residual noise."""
    found = fits.fit("chinchilla", planted(36, 5e-3, seed=3), bootstrap=200)
    fresh = planted(36, 5e-3, seed=4)
    held = []
    for params, tokens, loss in fresh[["params", "tokens", "loss"]].to_numpy():
        _, low, high = found.predict(params=params, tokens=tokens)
        held.append(low < loss < high)
    assert np.mean(held) > 0.85


def test_decades_outside():
    found = fits.load("besiroglu2024")
    high = found.range["flops"][1]
    assert found.decades_outside(flops=high / 2) == 0
    assert found.decades_outside(flops=100 * high) == pytest.approx(2)
    assert found.decades_outside(flops=found.range["flops"][0] / 10) == pytest.approx(1)


def test_a_saved_curve_comes_back_whole(curve, tmp_path):
    curve.save(tmp_path / "mine.json")
    back = fits.load(tmp_path / "mine.json")
    assert back.constants == curve.constants
    assert back.certificate == curve.certificate
    assert back.range == curve.range
    np.testing.assert_array_equal(back.draws, curve.draws)
    assert back.predict(params=1e9, tokens=1e11) == curve.predict(params=1e9, tokens=1e11)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda fields: fields["constants"].update(E=1.0), "checksum"),
        (lambda fields: (fields.pop("checksum"), fields.update(law="nolaw")), "law 'nolaw'"),
        (lambda fields: (fields.pop("checksum"), fields["constants"].pop("E")), "has constants"),
        (lambda fields: (fields.pop("checksum"), fields["constants"].update(E=math.inf)), "Infinity is not a number"),
        (lambda fields: (fields.pop("checksum"), fields["constants"].update(E="high")), "object of numbers"),
        (lambda fields: (fields.pop("checksum"), fields.update(colour="red")), "unknown key 'colour'"),
        (lambda fields: fields.update(format=99), "format 99"),
        (lambda fields: (fields.pop("checksum"), fields.update(draws=[1, 2, 3])), "draws"),
        (lambda fields: (fields.pop("checksum"), fields.update(draws=[[1.0, 2.0]])), "draws"),
        (lambda fields: (fields.pop("checksum"), fields.update(flops_per_param_token="6")), "flops_per_param_token"),
        (lambda fields: (fields.pop("checksum"), fields.update(range={"flops": [1]})), "range"),
        (lambda fields: (fields.pop("checksum"), fields.update(about=[])), "about"),
        (lambda fields: (fields.pop("checksum"), fields["constants"].update(beta=-0.1)), "beta = -0.1 must be positive"),
        (lambda fields: (fields.pop("checksum"), fields.update(law=["chinchilla"])), "law"),
    ],
)
def test_a_spoiled_curve_file_is_refused(curve, tmp_path, edit, says):
    path = tmp_path / "mine.json"
    curve.save(path)
    fields = json.loads(path.read_text())
    edit(fields)
    path.write_text(json.dumps(fields))
    with pytest.raises(fits.InputError, match=says):
        fits.load(path)


def test_unknown_curves_and_impossible_questions(curve):
    with pytest.raises(fits.InputError, match="did you mean 'besiroglu2024'"):
        fits.load("besiroglou2024")
    with pytest.raises(fits.InputError, match="no draws"):
        fits.load("hoffmann2022").interval()
    with pytest.raises(fits.InputError, match="params must be positive"):
        curve.loss(params=-1.0, tokens=1e9)
    with pytest.raises(fits.InputError, match="level"):
        curve.interval(1.5)


def test_theta_and_constants_are_inverse():
    chinchilla = law("chinchilla")
    constants = np.array(list(TRUTH.values()))
    np.testing.assert_allclose(to_constants(chinchilla, to_theta(chinchilla, constants)), constants, rtol=1e-14)
