"""The simulator: what the scenario file of the documentation gives, and closed forms as special cases."""

from __future__ import annotations

import math

import pytest

from scaling.diffusion import simulate

SCENARIO = {
    "name": "mine",
    "start": 2023.0,
    "end": 2032.0,
    "curve": "besiroglu2024",
    "trends": {"price_performance": 1.37, "algorithms": 3.0},
    "actors": [
        {"name": "leader", "budget_usd": 1e9, "budget_growth": 2.4},
        {"name": "laggard", "budget_usd": 2e8, "structure": 2.0, "data": 2.0, "chips": "H20"},
    ],
    "controls": [{"rule": "2023-10-17", "applies_to": ["laggard"]}],
    "capabilities": [{"name": "GPT-4 level", "effective_flops": 2e25}],
}


def test_the_documented_scenario():
    answer = simulate(SCENARIO).as_dict()
    assert {"scenario", "capabilities", "actors", "channels", "reading"} <= set(answer)
    (capability,) = answer["capabilities"]
    assert {"name", "first_access", "with_access", "windows"} <= set(capability)
    # 2e8 dollars at 4e17 FLOP each, on chips that give 42% as much a dollar, a fourth of it effective: 8.4e24 at the start.
    rate = math.log(1.37 * 3.0)
    start = 2e8 * 4e17 * (148 / 989.4) * (33750 / 12000) / 4
    assert capability["windows"][0]["years"] == pytest.approx(math.log(2e25 / start) / rate, abs=1e-6)
