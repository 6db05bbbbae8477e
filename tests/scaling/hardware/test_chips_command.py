"""`isoloss chips`: strict JSON, tables, and one line for bad input."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

import scaling
from fits.errors import InputError
from scaling import Chip
from scaling.chips_command import chips
from scaling.hardware import measurement

app = typer.Typer(rich_markup_mode=None)
app.command()(chips)


def run(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments])


def refuse(word):
    raise AssertionError(f"{word} is not strict JSON")


def answer(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout, parse_constant=refuse)


def test_the_list_and_one_chip_as_json():
    rows = answer("--on", "2023-11-17")["chips"]
    assert len(rows) >= 44
    h20 = next(row for row in rows if row["name"] == "H20")
    assert (h20["bf16"], h20["tpp"], h20["release_date"]) == (148, 2368, "2023-11-09")
    assert h20["export_control"]["status"] == "not_controlled"
    one = answer("h20", "--on", "apr2025")
    assert one["grades"]["nic_gbps_per_chip"] == "memory"
    assert one["ridge"]["bf16"] == 37
    assert one["export_control"]["status"] == "licence"
    assert [each["on"] for each in one["verdicts"]][:3] == ["aug2022", "oct2022", "oct2023"]
    assert answer("MI308X")["bf16"] is None


def test_comparison_and_rules_as_json():
    found = answer("--compare", "H20", "H100")
    assert (found["first"], found["second"]) == ("H20", "H100-SXM-80GB")
    assert found["figures"]["bf16"]["ratio"] == pytest.approx(0.15, abs=0.001)
    assert found["figures"]["mem_bw_gbps"] == {"first": 4000, "second": 3350, "ratio": pytest.approx(1.194, abs=0.001)}
    rules = {each["name"]: each for each in answer("--rules")["rules"]}
    assert rules["oct2023"]["in_force"] == "2023-11-17"
    assert {near["chip"] for near in rules["oct2022"]["answers"]} == {"A800-SXM-80GB", "H800-SXM"}


def test_what_a_person_reads():
    shown = run("H20", "--on", "2023-11-17").stdout
    assert "2023-11-17: not_controlled, by oct2023 (below every line: TPP 2368 < 2400 and performance density 2.909 < 3.2)" in shown
    assert "not seen in a source" in shown
    compared = run("--compare", "H20", "H100").stdout
    assert "15%" in compared
    assert "119%" in compared
    assert "RTX 4090D" in run("--rules").stdout
    assert "not_applicable" in run("--on", "oct2023").stdout


def test_own_chips_are_listed_shown_and_judged(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[[chips]]\nname = "mine"\nbf16 = 299\nmem_bw_gbps = 1000\nscaleup_bidir_gbps = 0\ndie_area_mm2 = 800\n')
    found = answer("mine", "--file", path, "--on", "oct2023")
    assert found["export_control"]["tier"] == "3A090.a"  # TPP 4784, density 5.98
    assert found["grades"]["bf16"] == "given"
    assert "mine" in {row["name"] for row in answer("--file", path)["chips"]}


def test_this_machine_is_measured_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path))
    chip = Chip("this-machine", fp32=0.2, mem_bw_gbps=20.5, cores=2, origin="measured", sources=("isoloss chips --measure on cpu: some",))
    found = measurement.Measurement(chip, {"fp32": (512, 512, 2048)}, {"scale": 20.5}, 3.0)
    monkeypatch.setattr(measurement, "measure", lambda **options: found)
    shown = answer("--measure")
    assert (shown["fp32"], shown["shapes"], shown["traffic_gbps"]) == (0.2, {"fp32": [512, 512, 2048]}, {"scale": 20.5})
    assert scaling.chip("this-machine") == chip
    assert answer("this-machine")["cores"] == 2
    assert "512x512x2048" in run("--measure").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["H21"], "chip 'H21' is not known; did you mean H2"),
        (["--compare", "H20", "H1OO"], "chip 'H1OO' is not known"),
        (["H20", "--rules"], "are different questions"),
        (["--rules", "--on", "oct2023"], "--on goes with the list"),
        (["H20", "--on", "yesterday"], "neither a date"),
        (["H20", "--destination", "Mars"], "destination 'Mars'"),
        (["H20", "--file", "none.toml"], "none.toml: no such file"),
    ],
)
def test_bad_input_is_an_input_error_of_one_line(arguments, says):
    result = run(*arguments)
    assert isinstance(result.exception, InputError), result.output
    assert says in str(result.exception)
    assert "\n" not in str(result.exception)
