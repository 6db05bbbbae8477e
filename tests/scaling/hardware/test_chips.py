"""Chips: the table against the figures of its sources, names, grades, and chips of one's own."""

from __future__ import annotations

import pytest

import scaling
from scaling import InputError

TABLE = [chip for chip in scaling.chips() if chip.origin == "table"]


def test_processing_performance_and_density_follow_from_the_rates():
    """The table prints both to four digits or fewer, computed elsewhere."""
    assert len(TABLE) == 44
    for chip in TABLE:
        assert (chip.tpp is None) == (chip.listed_tpp is None), chip.name
        assert (chip.performance_density is None) == (chip.listed_perf_density is None), chip.name
        if chip.tpp is not None:
            assert chip.tpp == pytest.approx(chip.listed_tpp, abs=0.51), chip.name
        if chip.performance_density is not None:
            assert chip.performance_density == pytest.approx(chip.listed_perf_density, abs=0.0051), chip.name


def test_h20_against_h100_as_printed():
    h20, h100 = scaling.chip("H20"), scaling.chip("H100")
    assert h20.tpp == 2368
    assert h20.performance_density == pytest.approx(2.91, abs=0.005)
    assert h100.tpp == pytest.approx(15831, abs=0.5)
    assert h100.performance_density == pytest.approx(19.45, abs=0.005)
    assert h20.ridge() == pytest.approx(37, abs=0.5)
    assert h100.ridge() == pytest.approx(295, abs=0.5)
    ratio = {field: getattr(h20, field) / getattr(h100, field) for field in ("bf16", "mem_bw_gbps")}
    assert ratio == pytest.approx({"bf16": 0.15, "mem_bw_gbps": 1.19}, abs=0.005)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("H100", "H100-SXM-80GB"),
        ("h100 sxm5", "H100-SXM-80GB"),
        ("NVIDIA H100 80GB HBM3", "H100-SXM-80GB"),
        ("A100", "A100-SXM-80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100-SXM-40GB"),
        ("4090", "RTX 4090"),
        ("rtx_4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 D", "RTX 4090D"),
        ("910B", "Ascend-910B"),
        ("MI300X", "MI300X"),
        ("v5p", "TPU-v5p"),
        ("TPU v5 lite", "TPU-v5e"),
        ("Ironwood", "TPU-v7"),
    ],
)
def test_aliases_and_names_that_devices_call_themselves(asked, name):
    assert scaling.chip(asked).name == name


def test_an_unknown_chip_is_answered_with_the_nearest_names():
    with pytest.raises(InputError, match=r"chip 'RTX 4900' is not known; did you mean RTX 4090 or .*isoloss chips"):
        scaling.chip("RTX 4900")
