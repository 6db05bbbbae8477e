"""Chips, controls and rebound: printed figures, what the rules leave to buy, and the vectors of Jevons' paradox."""

from __future__ import annotations

import numpy as np
import pytest

from scaling import InputError
from scaling.diffusion.actors import build
from scaling.diffusion.chip_quality import quality
from scaling.diffusion.rebound import rebound
from scaling.diffusion.scenario import read_scenario


def test_the_h20_is_no_training_chip_but_a_serving_chip():
    h20, h800 = quality("H20"), quality("H800")
    assert (h20.flops, h20.memory, h20.links) == pytest.approx((0.150, 1.19, 1.0), abs=0.005)
    assert h20.training == pytest.approx(0.150, abs=0.001)
    assert h20.serving > 1
    assert 0.26 <= h20.flops * 26_300 / 12_500 <= 0.39  # FLOP a dollar at the prices of 2024
    assert h800.training == pytest.approx(1.0, abs=0.02)


def test_the_rules_leave_the_a800_then_the_h800_then_the_h20():
    scenario = read_scenario("export-controls-2022")
    cast = build(scenario)
    assert [(each.before, each.after) for each in cast.events] == [("H100-SXM-80GB", "A800-SXM-80GB"), ("A800-SXM-80GB", "H20")]
    bought = {date: cast.paths["training_held"][row, 1] for row, date in enumerate(cast.dates)}
    assert bought[2022.75] == 1.0
    assert bought[2023.0] == pytest.approx(quality("A800").training)
    assert bought[2023.5] == pytest.approx(quality("H800").training)
    assert bought[2024.0] == bought[2029.0] == pytest.approx(quality("H20").training)
    assert (cast.paths["training_held"][:, 0] == 1).all()  # nobody keeps chips from the other


def test_caps_licences_and_ends():
    source = {
        "name": "caps",
        "start": 2023.0,
        "end": 2028.0,
        "actors": [{"name": "one", "stock": {"h100e": 1.0}}],
        "controls": [
            {"chips_per_year": 50.0, "date": 2024.0, "until": 2026.0, "applies_to": ["one"]},
            {"embargo": True, "date": 2026.0, "lag_years": 0.5, "licensed_share": 0.25, "applies_to": ["one"]},
        ],
        "capabilities": [{"name": "x", "effective_flops": 1e25}],
    }
    scenario = read_scenario(source)
    paths = build(scenario).paths
    years = paths["years"]
    np.testing.assert_array_equal(paths["flow_cap"][:, 0] < 1e29, (years >= 1) & (years < 3))
    np.testing.assert_array_equal(paths["allowed"][:, 0], np.where(years >= 3.5, 0.25, 1.0))


@pytest.mark.parametrize(
    ("elasticity", "compute", "fraction"), [(0.5, 0.5, 1 / 3), (1.0, 1.0, 1.0), (1.11, 1.1647, 1.220), (1.5, 2.0, 2.333)]
)
def test_rebound(elasticity, compute, fraction):
    found = rebound(4.0, elasticity)
    assert found.compute == pytest.approx(compute, rel=1e-3)
    assert found.fraction == pytest.approx(fraction, rel=1e-3)
    assert found.backfire == (elasticity > 1)
    assert found.usage == pytest.approx(4.0**elasticity)
    assert found.price_at_capacity**-elasticity == pytest.approx(4.0)  # usage rises by the gain, compute stays
    assert rebound(1 + 1e-12, elasticity).fraction == pytest.approx(elasticity)
    with pytest.raises(InputError, match="gain"):
        rebound(0.0, elasticity)
