"""Chips: the table against the figures of its sources, names, grades, comparison, and chips of one's own."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest

import scaling
from scaling import Chip, InputError
from scaling.hardware.chip_file import read_chips, write_chips
from scaling.hardware.chips import FIELDS
from scaling.hardware.comparison import compare

TABLE = [chip for chip in scaling.chips() if chip.origin == "table"]
OWN = '[[chips]]\nname = "my card"\nlike = "RTX 5090"\nprice_usd = 1200\nmem_gb = 48\n[[chips]]\nname = "new thing"\nbf16 = 300\nmem_bw_gbps = 2000\n'


def test_processing_performance_and_density_follow_from_the_rates():
    """The table prints both, rounded, as computed elsewhere."""
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
    ratio = {name: value for name, (*_, value) in compare(h20, h100).items()}
    printed = {"bf16": 0.15, "mem_bw_gbps": 1.19, "mem_gb": 1.2, "scaleup_unidir_gbps": 1.0, "tpp": 0.15}
    assert {name: ratio[name] for name in printed} == pytest.approx(printed, abs=0.006)
    backwards = {name: value for name, (*_, value) in compare(h100, h20).items() if value}
    assert backwards == pytest.approx({name: 1 / value for name, value in ratio.items() if value})


def test_products_reach_the_shares_of_the_peak_that_were_published():
    """stas00/ml-engineering prints whole percents; FP8 of the H100 likewise."""
    shares = {"A100": 87, "A100 PCIe": 81, "H100": 80, "Gaudi2": 97, "MI300X": 51, "B200": 78, "GB200": 73}
    found = {name: 100 * chip.mamf_bf16 / chip.bf16 for name in shares if (chip := scaling.chip(name)).mamf_bf16 and chip.bf16}
    assert found == pytest.approx(shares, abs=0.6)


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


def test_every_name_of_the_table_leads_to_its_chip():
    assert all(scaling.chip(name) is chip for chip in TABLE for name in (chip.name, chip.name.casefold(), *chip.aliases))


def test_an_unknown_chip_is_answered_with_the_nearest_names():
    with pytest.raises(InputError, match=r"chip 'RTX 4900' is not known; did you mean RTX 4090 or .*isoloss chips"):
        scaling.chip("RTX 4900")


def test_grades_tell_what_was_seen_in_a_source():
    h20, h100_96, v5p = scaling.chip("H20"), scaling.chip("H100 96GB"), scaling.chip("v5p")
    assert (h20.grade("bf16"), h20.grade("nic_gbps_per_chip"), h20.grade("die_area_mm2")) == ("source", "memory", "memory")
    assert (h20.grade("tpp"), h20.grade("fp4"), h20.grade("rent_usd_per_h")) == ("computed", "unknown", "unknown")
    assert (h100_96.grade("bf16"), h100_96.grade("mem_gb"), v5p.grade("price_usd")) == ("estimated", "source", "estimated")
    assert "scaling-book" in v5p.sources_of("rent_usd_per_h")[0]
    for chip in TABLE:
        assert chip.sources, chip.name
        assert {*chip.memory, *chip.estimated, *chip.figure_sources} <= {*FIELDS}, chip.name
        assert all(chip.grade(field) in ("source", "memory", "estimated", "unknown") for field in FIELDS), chip.name
    with pytest.raises(InputError, match="no figure 'bandwidth'"):
        h20.grade("bandwidth")


def test_peak_is_in_flops_and_by_the_format_that_is_multiplied():
    h100 = scaling.chip("H100")
    assert h100.peak("bf16") == h100.peak("fp16") == 989.4e12
    assert h100.peak("mxfp8") == h100.peak("fp8") == 1978.9e12
    assert scaling.chip("A100").peak("fp8") is None
    with pytest.raises(InputError, match="format 'fp7' is not known"):
        h100.peak("fp7")


def test_own_chips_in_a_file_take_what_is_missing_from_the_chip_they_are_like(tmp_path, monkeypatch):
    path = tmp_path / "mine.toml"
    path.write_text(OWN)
    mine, base = scaling.chip("My Card", extra=path), scaling.chip("RTX 5090")
    assert (mine.mem_gb, mine.price_usd, mine.fp8, mine.p2p) == (48, 1200, base.fp8, base.p2p)
    assert (base.grade("price_usd"), base.grade("die_area_mm2")) == ("memory", "memory")
    assert (mine.grade("price_usd"), mine.grade("die_area_mm2"), mine.origin) == ("given", "memory", "given")
    assert scaling.chip("new thing", extra=path).ridge() == 150
    assert len(scaling.chips(path)) == len(scaling.chips()) + 2
    with pytest.raises(InputError, match="my card"):
        scaling.chip("my card")
    monkeypatch.setenv("ISOLOSS_CHIPS", str(path))
    assert scaling.chip("my card") == mine
    path.write_text(OWN.replace("48", "49"))  # a file that changed is read again
    os.utime(path, (1, 1))
    assert scaling.chip("my card").mem_gb == 49


def test_a_chip_is_written_and_read_as_it_was(tmp_path):
    path = tmp_path / "written.toml"
    odd = dataclasses.replace(scaling.chip("MI300X"), name='a "quoted"\tname', note="line\nbreak, é", origin="given")
    write_chips(path, [odd, *(dataclasses.replace(chip, origin="given") for chip in TABLE)])
    assert read_chips(path)[0] == odd
    assert read_chips(path, origin="table")[1:] == TABLE


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[chips]]\nname = "x"\nbf16_tflops = 3\n', "chip 1 (x): unknown key 'bf16_tflops'"),
        ('[[chip]]\nname = "x"\n', "unknown key 'chip'"),
        ("", "no [[chips]] table"),
        ("[[chips]]\nbf16 = 3\n", "name must be given"),
        ('[[chips]]\nname = "x"\nbf16 = -3\n', "bf16 must be a positive finite number, got -3"),
        ('[[chips]]\nname = "x"\nbf16 = nan\n', "bf16 must be a positive finite number, got nan"),
        ('[[chips]]\nname = "x"\nbf16 = "fast"\n', "got 'fast'"),
        ('[[chips]]\nname = "x"\nscaleup_domain = 1.5\n', "scaleup_domain must be a whole number of 1 or more"),
        ('[[chips]]\nname = "x"\np2p = "maybe"\n', "p2p must be one of yes, bridge"),
        ('[[chips]]\nname = "x"\nrelease_date = "soon"\n', "release_date must be a date"),
        ('[[chips]]\nname = "x"\nus_item = 1\n', "us_item must be true or false"),
        ('[[chips]]\nname = "x"\naliases = "y"\n', "aliases must be a list of texts"),
        ('[[chips]]\nname = "x"\nlisted = {bf16 = 3}\n', "listed must be a table of texts"),
        ('[[chips]]\nname = "x"\nlike = "RTX 4900"\n', "did you mean RTX 4090"),
        ('[[chips]]\nname = "h-100"\n', "the name 'h-100' is taken by H100-SXM-80GB"),
        ('[[chips]]\nname = "x"\n[[chips]]\nname = "X"\n', "is taken by x"),
        ("[[chips]\n", "cannot be read as TOML"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, text, says):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(InputError) as caught:
        scaling.chips(tmp_path / "mine.toml")
    assert says in str(caught.value)
    assert str(tmp_path / "mine.toml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_and_a_chip_without_a_name():
    with pytest.raises(InputError, match="no such file"):
        scaling.chips("none.toml")
    with pytest.raises(InputError, match="name must be text"):
        Chip("")


def test_chips_need_neither_jax_nor_pandas():
    code = "import scaling, sys; scaling.export_control('H20', on='2023-11-17'); assert not {'jax', 'pandas', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
