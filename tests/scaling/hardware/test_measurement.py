"""This machine measured as a chip, and the utilisation of runs. No test depends on how fast the machine is."""

from __future__ import annotations

import functools

import jax
import pytest

import scaling
from scaling import Chip, InputError, utilisation
from scaling.devices import processor
from scaling.hardware import library, measurement
from scaling.hardware.chip_file import write_chips

RECORD = {"precision": "bf16", "flops_per_second": 1e12, "device": "NVIDIA A100-SXM4-80GB", "devices": 2, "threads": 16, "emulated": []}


@pytest.fixture(scope="module")
def measured():
    """Real, but on the smallest shape alone: every shape is compiled anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measurement, "STRETCHES", ())
        return measurement.measure(seconds=0.01, sizes=(64,), traffic_bytes=2**20)


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path))


def test_a_cpu_is_measured_in_the_formats_that_it_multiplies(measured):
    chip = measured.chip
    assert chip.formats == ["fp32", "bf16", "int8"]
    assert set(measured.shapes) == {"fp32", "bf16", "int8"}
    assert all(side >= 64 for shape in measured.shapes.values() for side in shape)
    assert set(measured.traffic_gbps) == {"scale", "triad"}
    assert chip.mem_bw_gbps == pytest.approx(max(measured.traffic_gbps.values()), rel=1e-3)
    assert (chip.grade("fp32"), chip.grade("price_usd"), chip.origin) == ("measured", "unknown", "measured")
    assert chip.mem_gb is not None
    assert chip.cores is not None
    assert scaling.export_control(chip, on="2026-02-01").status == "not_controlled"


def test_the_measured_machine_is_a_chip_from_then_on(measured, own_folder):
    with pytest.raises(InputError, match="this-machine"):
        scaling.chip("this-machine")
    measurement.save(measured)
    assert scaling.chip("this-machine") == measured.chip
    assert scaling.chip(processor()) is scaling.chip("this-machine")
    record = RECORD | {
        "device": processor(),
        "devices": 1,
        "threads": measured.chip.cores,
        "flops_per_second": measured.chip.peak("bf16") / 4,
    }
    assert utilisation(record) == pytest.approx(0.25)
    measurement.save(measured)  # a second measurement replaces the first
    assert len([chip for chip in scaling.chips() if chip.origin == "measured"]) == 1


def test_a_product_is_of_operands_in_its_own_format_added_up_in_32_bits():
    key = jax.random.key(0)
    seen = {}
    for name in measurement.OPERANDS:
        x = jax.eval_shape(lambda key, name=name: measurement._random(key, (8, 16), name), key)
        w = jax.eval_shape(lambda key, name=name: measurement._random(key, (16, 4), name), key)
        y = jax.eval_shape(functools.partial(measurement._product, name), x, w)
        assert y.shape == (8, 4)
        assert x.dtype == w.dtype
        seen[name] = (str(x.dtype), str(y.dtype))
    assert seen == {
        "fp32": ("float32", "float32"),
        "tf32": ("float32", "float32"),
        "bf16": ("bfloat16", "float32"),
        "fp16": ("float16", "float32"),
        "fp8": ("float8_e4m3fn", "float32"),
        "int8": ("int8", "int32"),
    }


def test_the_search_takes_the_best_shape_and_stops_in_time(monkeypatch):
    """On a machine that is fastest at 512 and twice as fast again where rows are many."""
    asked = []

    def seconds(name, shape, least):
        asked.append(shape)
        rate = {256: 1e9, 512: 4e9}.get(shape[1], 2e9) * (2 if shape == (2048, 512, 512) else 1)
        return 2 * shape[0] * shape[1] * shape[2] / rate

    monkeypatch.setattr(measurement, "_product_seconds", seconds)
    rate, shape = measurement._best_product("fp32", 10.0, measurement.SIZES, 1e12)
    assert shape == (2048, 512, 512)
    assert rate == pytest.approx(8e9)
    assert max(asked)[0] <= 4096
    asked.clear()
    assert measurement._best_product("fp32", 0.001, measurement.SIZES, 1e12)[0] > 0
    assert asked == [(256, 256, 256)]
    asked.clear()
    measurement._best_product("fp32", 1e9, measurement.SIZES, 12 * 4 * 1024**2)
    assert asked == [(256,) * 3, (512,) * 3, (1024,) * 3, (512, 2048, 512), (2048, 512, 512), (512, 512, 2048)]


def test_a_chip_of_the_table_keeps_what_is_not_measured(monkeypatch):
    class Device:
        platform, device_kind = "gpu", "NVIDIA H100 80GB HBM3"

    monkeypatch.setattr(measurement, "device_name", lambda: Device.device_kind)
    chip = measurement._as_chip(Device(), {"bf16": 7.5e14, "fp8": 1.4e15}, 2900.0, 60e9)
    assert (chip.bf16, chip.fp8, chip.fp32, chip.mem_bw_gbps) == (750, 1400, None, 2900)
    assert (chip.mem_gb, chip.tdp_w, chip.scaleup_unidir_gbps, chip.name) == (80, 700, 450, "this-machine")
    assert chip.cores is None


@pytest.mark.parametrize(
    ("changes", "peak"),
    [
        ({}, 2 * 312e12),
        ({"devices": 1}, 312e12),
        ({"precision": "fp32", "devices": 1}, 19.5e12),
        ({"precision": "fp16", "devices": 1}, 312e12),
        ({"precision": "int4", "devices": 1}, 624e12),  # int4 codes are multiplied as int8
        ({"precision": "int4", "devices": 1, "emulated": ["int4 products"]}, 312e12),  # codes carried in bf16
        ({"precision": "fp8", "devices": 1, "emulated": ["fp8 products"]}, 312e12),
        ({"precision": "w4a8", "devices": 1, "emulated": ["int4 weights", "int8 activations"]}, 19.5e12),
    ],
)
def test_utilisation_is_over_the_peak_of_the_format_that_is_multiplied(changes, peak):
    assert utilisation(RECORD | changes) == pytest.approx(1e12 / peak)


def test_a_run_on_some_threads_of_a_cpu_has_that_share_of_it(own_folder):
    write_chips(library.measured_file(), [Chip("this-machine", bf16=4.0, cores=4, origin="measured")])

    def used(devices, threads):
        return utilisation(RECORD | {"devices": devices, "threads": threads}, "this-machine")

    assert used(1, 4) == used(4, 1) == pytest.approx(0.25)
    assert used(1, 1) == pytest.approx(1.0)
    assert used(8, 4) == used(1, 4)  # virtual devices add no cores


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"device": "cpu: Unheard-of 9000"}, "measure it: isoloss chips --measure"),
        ({"precision": "fp8"}, "the fp8 rate of A100-SXM-80GB is not known; it has fp32, tf32, bf16, int8"),
        ({"flops_per_second": None}, "the record has no flops_per_second"),
    ],
)
def test_what_has_no_utilisation_says_why(changes, says):
    with pytest.raises(InputError) as caught:
        utilisation(RECORD | changes)
    assert says in str(caught.value)
