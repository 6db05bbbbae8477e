"""The ledger on small jobs: by hand, identities, what cannot be run, what would have to be true, bands and their shares."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fits
import scaling
from scaling.hardware.architecture import preset
from scaling.ledger import ledger, read_scenario
from scaling.ledger.by_law import active_params, expansion, of_format, of_mixture
from scaling.ledger.draws import Draws
from scaling.ledger.effects import EVIDENCE
from scaling.ledger.measured import measured
from scaling.ledger.sets import sets
from scaling.ledger.setups import usd_per_chip_hour

DENSE = {
    "chip": "H100",
    "chips": 8,
    "model": "llama-3.1-8b",
    "tokens": 1e11,
    "sequence": 4096,
    "batch": 64,
    "framework": "Megatron-Core 2024",
}
MIXED = {"chip": "H100", "chips": 16, "sequence": 4096, "batch": 64}


def scenario(baseline: dict[str, Any], *steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "mine", "baseline": baseline, "steps": list(steps)} | more


def answer(fields: dict[str, Any], **options: Any) -> Any:
    """The Ledger, whose bands the tests read without asking whether there are any."""
    return ledger(fields, **options)


@pytest.fixture(scope="module")
def by_hand():
    """Chip and format, the format costing half as much compute again; and what the hardware model says of the four set-ups."""
    steps = ({"change": "chip", "to": "H20"}, {"change": "format", "to": "fp8", "assumed": 1 / 1.5})
    found = answer(scenario(DENSE, *steps, prices={"H100": 30000, "H20": 10000}), draws=20_000)
    options: dict[str, Any] = {key: value for key, value in DENSE.items() if key not in ("chip", "model")}
    hours = {
        (chip, format): scaling.estimate_training("llama-3.1-8b", chip=chip, format=format, **options)
        for chip in ("H100", "H20")
        for format in ("bf16", "fp8")
    }
    return found, hours


def test_a_case_by_hand(by_hand):
    found, estimates = by_hand
    hours = {key: each.hours * (1.5 if key[1] == "fp8" else 1.0) for key, each in estimates.items()}
    v00, v10, v01, v11 = (math.log(hours[key]) for key in (("H100", "bf16"), ("H20", "bf16"), ("H100", "fp8"), ("H20", "fp8")))
    chip, format = found.lines
    assert chip.time.value == pytest.approx(math.exp(((v10 - v00) + (v11 - v01)) / 2), rel=1e-9)
    assert format.time.value == pytest.approx(math.exp(((v01 - v00) + (v11 - v10)) / 2), rel=1e-9)
    assert (chip.sequence_time, format.sequence_time) == pytest.approx((math.exp(v10 - v00), math.exp(v11 - v10)), rel=1e-9)
    assert found.time.value == pytest.approx(math.exp(v11 - v00), rel=1e-9)
    assert found.baseline.hours == pytest.approx(hours["H100", "bf16"])
    # 1.5 times the chip's price over four years of which 80% are used, and electricity.
    watts = {"H100": 700, "H20": 400}
    rate = {
        name: 1.5 * price / (4 * 8766 * 0.8) + watts[name] / 1000 * 0.8 * 1.4 * 1.2 * 0.08 for name, price in (("H100", 3e4), ("H20", 1e4))
    }
    assert found.usd.value == pytest.approx(math.exp(v11 - v00) * rate["H20"] / rate["H100"], rel=1e-9)
    assert found.baseline.usd == pytest.approx(hours["H100", "bf16"] * 8 * rate["H100"], rel=1e-9)


def test_the_total_has_the_independent_errors_of_both_ends(by_hand):
    """The band of a ratio of two estimates that differ in everything: half-widths of both 80% bands in quadrature."""
    found, estimates = by_hand
    width = math.log(found.time.high / found.time.low) / 2
    both = [math.log(each.high / each.low) / 2 for each in (estimates["H100", "bf16"], estimates["H20", "fp8"])]
    assert width == pytest.approx(math.hypot(*both), rel=0.05)


def test_steps_that_change_nothing_have_factor_one_and_no_band():
    found = answer(scenario(DENSE, {"change": "chip", "to": "H100"}, {"change": "format", "to": "bf16"}), draws=200)
    for each in (found.time, found.usd, *(line.time for line in found.lines)):
        assert (each.value, each.low, each.high) == pytest.approx((1.0, 1.0, 1.0), abs=1e-12)
    assert found.needed["time"].chance == 1.0


def test_a_measured_step_is_all_there_is_to_measure():
    found = answer(scenario(DENSE, {"change": "format", "to": "bf16", "measured": "bf16"}), draws=20_000)
    record = measured("bf16")
    assert found.lines[0].evidence == "measured here"
    assert found.time.value == pytest.approx(1 / record.value)
    assert found.not_measured["time"] == pytest.approx({"log_factors": 0.0, "variance": 0.0}, abs=1e-9)
    draws = Draws(sets(read_scenario(scenario(DENSE, {"change": "format", "to": "bf16", "measured": "bf16"}))), 20_000, 0).log_hours()
    low, high = np.exp(np.quantile(draws[0] - draws[1], [0.025, 0.975]))
    assert (low, high) == pytest.approx((record.low, record.high), abs=0.002)  # its 95% interval
    decades = math.log10(6 * active_params(preset("llama-3.1-8b")) * 1e11 / record.flops[1])
    assert any(f"{decades:.1f} decades beyond" in note for note in found.notes)


def test_what_does_not_fit_is_explained_and_left_out_of_the_orders():
    """8 billion parameters of 16 bytes on four chips of 24 GB: only with smaller optimizer states, which must come first."""
    base = DENSE | {"chips": 4, "zero": 0}
    steps = ({"change": "chip", "to": "RTX 4090"}, {"change": "quantisation", "optimizer_bytes": 2}, {"change": "format", "to": "fp8"})
    found = answer(scenario(base, *steps), draws=200)
    assert found.feasible
    assert found.combinations == 8
    assert len(found.impossible) == 2  # the chip alone, and with fp8
    assert all("chip" in text and "quantisation" not in text and "GB a chip of 24 GB" in text for text in found.impossible)
    chip, quantisation, _ = found.lines
    assert chip.sequence_time is None
    assert "GB a chip" in chip.reason
    assert quantisation.before == found.baseline  # it carries the factor of both
    assert math.prod(line.sequence_time or 1.0 for line in found.lines) == pytest.approx(found.time.value)
    assert math.prod(line.time.value for line in found.lines) == pytest.approx(found.time.value)
    assert not found.needed["time"].alone


def test_a_ledger_whose_end_cannot_be_run_says_so():
    found = answer(scenario(DENSE | {"chips": 4, "zero": 0}, {"change": "chip", "to": "RTX 4090"}), draws=200)
    assert not found.feasible
    assert found.time is None
    assert found.baseline is not None
    assert "GB a chip of 24 GB" in found.reason
    assert found.reason in found.reading


def mixed(multiplier: float | list[float], **more: Any) -> dict[str, Any]:
    architecture = {"change": "architecture", "model": "mixtral-8x7b", "tokens": 1e12, "assumed": multiplier}
    return scenario(MIXED, {"change": "chip", "to": "A100"}, architecture | more)


def test_the_multiplier_that_would_do_does():
    found = answer(mixed(3.0), draws=200)
    need = found.needed["time"]
    assert need.gain_needed.value / need.gain.value == pytest.approx(found.time.value)
    assert need.gain.value < need.gain_needed.value
    again = answer(mixed(need.multiplier_needed), draws=200)
    assert again.time.value == pytest.approx(1.0, abs=0.1)  # the larger dense model runs at a speed of its own
    assert need.both_sides.value == pytest.approx(found.lines[0].time.value, rel=0.2)
    assert need.both_sides.value > 1.5  # the same software on H100 leaves the chip's gap


def test_bands_follow_what_is_assumed():
    """A range drawn evenly in its logarithm adds ln(high / low)^2 / 12 to the variance of the total."""
    low, high = 2.0, 8.0
    range_of = mixed([low, high])
    found, drawn = answer(range_of, draws=20_000), Draws(sets(read_scenario(range_of)), 20_000, 0)
    variance = {}
    for kind in ("assumed", "estimated"):
        hours = drawn.log_hours((kind,))
        variance[kind] = np.var(hours[-1] - hours[0])
    assert variance["assumed"] == pytest.approx(math.log(high / low) ** 2 / 12, rel=0.05)
    both = drawn.log_hours()
    assert np.var(both[-1] - both[0]) == pytest.approx(sum(variance.values()), rel=0.05)
    for shares in found.shares["time"].values():
        assert sum(shares.values()) == pytest.approx(1.0)
    assert found.shares["time"]["variance"]["assumed"] == pytest.approx(variance["assumed"] / sum(variance.values()))
    assert found.not_measured["time"] == pytest.approx({"log_factors": 1.0, "variance": 1.0})


def test_the_dense_model_of_equal_loss_costs_what_the_multiplier_says():
    found = sets(read_scenario(mixed(3.0)))
    dense, mixture = found.setups[0], found.setups[2]
    cost = [active_params(each.model) * each.tokens for each in (dense, mixture)]
    assert cost[0] / cost[1] == pytest.approx(3.0)
    assert dense.tokens == pytest.approx(mixture.tokens, rel=0.1)


def test_the_same_seed_gives_the_same_bands_and_another_moves_them_little():
    one, same, other = (answer(mixed([2.0, 4.0]), draws=4000, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.time != other.time
    assert (one.time.low, one.time.high) == pytest.approx((other.time.low, other.time.high), rel=0.05)


def test_multipliers_of_laws():
    arch = preset("hunyuan-large")
    assert expansion(arch) == 8.5
    law = fits.load("ludziejewski2025")
    dense = of_mixture("ludziejewski2025", arch, 7e12).multiplier * active_params(arch)
    inputs = {"tokens": 7e12}
    assert law.evaluate(active_params=dense, experts=1, **inputs) == pytest.approx(
        law.evaluate(active_params=active_params(arch), experts=8.5, **inputs), rel=1e-10
    )
    # The size of a law of precision is multiplied by (1 - e^(-P/gamma)) for weights and activations, and so is compute on the frontier.
    c = fits.load("kumar2024").constants
    kept = {bits: (1 - math.exp(-bits / c["gamma_w"])) * (1 - math.exp(-bits / c["gamma_a"])) for bits in (8, 16)}
    assert of_format("kumar2024", "fp8", 1e24).multiplier == pytest.approx(kept[8] / kept[16], rel=1e-6)
    assert of_format("castro2025-quartet", "mxfp4", 1e22).multiplier == pytest.approx(0.6175)
    with pytest.raises(scaling.InputError, match="no experts"):
        of_mixture("ludziejewski2025", preset("llama-3.1-8b"), 1e12)


def test_wide_formats_are_slower_and_less_sure():
    found = answer(scenario(DENSE | {"format": "tf32"}, {"change": "format", "to": "bf16", "measured": "bf16"}), draws=2000)
    assert 0.4 < found.time.value < 0.7  # half the rate, twice the bytes
    assert any("tf32" in note for note in found.notes)
    missing = answer(scenario(DENSE | {"format": "tf32"}, {"change": "chip", "to": "Ascend 910B"}), draws=200)
    assert "no tf32" in missing.reason


def test_rent_that_nobody_knows_is_asked_for():
    rent = scenario(DENSE | {"dollars": "rent"}, {"change": "chip", "to": "H20"})
    with pytest.raises(scaling.InputError, match=r"no rent of H20 is known; give it in \[prices\]"):
        answer(rent, draws=200)
    found = answer(rent | {"prices": {"H20": [1.0, 2.0]}}, draws=200)
    assert found.usd.value == pytest.approx(found.time.value * math.sqrt(2) / scaling.chip("H100").rent_usd_per_h)
    assert usd_per_chip_hour(scaling.chip("H100"), "rent") == pytest.approx(3.95)
    assert set(found.shares["usd"]["variance"]) == set(EVIDENCE)
