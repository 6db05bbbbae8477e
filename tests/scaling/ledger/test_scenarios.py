"""Scenario files: the built-in ones and what they must say, and bad input in one line."""

from __future__ import annotations

import copy
import itertools
import json
import math
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

import scaling
from scaling.cli import app
from scaling.ledger import ledger, read_scenario, scenarios

BUILT_IN = ["a100", "ascend-910b", "hunyuan-h20", "rtx4090"]
GOOD = {
    "name": "mine",
    "baseline": {"chip": "H100", "chips": 8, "model": "llama-3.1-8b", "tokens": 1e11, "network_gbps": 100, "zero": 0},
    "steps": [{"change": "chip", "to": "H20"}, {"change": "format", "to": "fp8", "assumed": [0.9, 1.0]}],
}
MIXTURE = {"change": "architecture", "model": "mixtral-8x7b", "tokens": 1e11, "assumed": 2.0}


@pytest.fixture(scope="module")
def hunyuan():
    return ledger("hunyuan-h20", draws=4000)


def test_hunyuan_on_h20(hunyuan):
    """The rates alone say 1 / 0.15 = 6.7; an H20 keeps them busier. Every factor multiplies up, and what contradicts the press is said."""
    assert (hunyuan.baseline.chip, hunyuan.baseline.format, hunyuan.end.model) == ("H100-SXM-80GB", "bf16", "hunyuan-large")
    for what in ("time", "usd"):
        total = getattr(hunyuan, what)
        assert math.prod(getattr(line, what).value for line in hunyuan.lines) == pytest.approx(total.value)
        assert math.prod(getattr(line, f"sequence_{what}") for line in hunyuan.lines) == pytest.approx(total.value)
        assert total.low < total.value < total.high
        need = hunyuan.needed[what]
        assert need.gain_needed.value / need.gain.value == pytest.approx(total.value)
        assert need.both_sides.low > 1.0  # with the same software on both sides an H100 leads
    chip = hunyuan.lines[0]
    assert 3.0 < chip.time.value < 1 / 0.15
    said = " ".join(hunyuan.notes)
    assert "15% of an H100's dense bf16 rate" in said
    assert "pre-trained on H20 is claimed" in said
    assert "decades below its use" in said
    assert {line.evidence for line in hunyuan.lines} <= {"measured here", "published", "estimated", "assumed"}


def test_the_waterfall_and_its_table(hunyuan):
    from scaling.ledger.figure import waterfall

    figure, table = waterfall(hunyuan)
    assert list(table["step"]) == [line.name for line in hunyuan.lines] + ["total"]
    assert table["time"][:-1].prod() == pytest.approx(table["time"].iloc[-1])
    assert list(table["hours_after"][:-2]) == pytest.approx(list(table["hours_before"][1:-1]))
    texts = {text.get_text() for axis in figure.axes for text in axis.texts}
    assert f"{hunyuan.usd.value:.2f}x ({hunyuan.usd.low:.2f}-{hunyuan.usd.high:.2f})" in texts
    # Bars of a waterfall: each begins where the one before it ends, and the last spans the whole.
    bars: Any = figure.axes[0].patches
    ends = [sorted((bar.get_x(), bar.get_x() + bar.get_width())) for bar in bars]
    assert ends[-1][0] == pytest.approx(1.0)
    assert ends[-1][1] == pytest.approx(hunyuan.time.value)
    for one, after in itertools.pairwise(ends[:-1]):
        assert any(math.isclose(x, y, rel_tol=1e-9) for x in one for y in after)


def test_built_in_scenarios_are_read():
    assert scenarios() == BUILT_IN
    for name in BUILT_IN:
        assert read_scenario(name).name == name


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BUILT_IN if name != "hunyuan-h20"])
def test_built_in_scenarios_answer(name):
    found: Any = ledger(name, draws=1000)
    assert found.feasible
    assert math.prod(line.time.value for line in found.lines) == pytest.approx(found.time.value)
    assert found.lines[0].time.value > 1.5
    assert "at equal loss" in found.reading.lower()


def broken(path: str, value: object) -> dict:
    """GOOD with one thing changed: a key by its path, a step appended, or a key added."""
    fields = copy.deepcopy(GOOD)
    at: Any = fields
    *way, last = path.split(".")
    for key in way:
        at = at[int(key)] if key.isdigit() else at[key]
    if last == "+":
        at.append(value)
    elif value is None:
        at.pop(last)
    else:
        at[int(last) if last.isdigit() else last] = value
    return fields


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("steps.0.to", "H2000", "chip 'H2000' is not known; did you mean"),
        ("baseline.chip", "Hopper", "chip 'Hopper' is not known"),
        ("steps.+", {"change": "chip", "to": "A100"}, "chip is changed twice"),
        ("steps.+", MIXTURE, "baseline.model and tokens contradict the step architecture"),
        ("steps.1.assumed", [-0.5, 1.0], "a number must be positive and finite"),
        ("steps.1.assumed", [1.0, 0.5], "a range rises from low to high"),
        ("steps.1.assumed", [1.0], "a range is \\[low, high\\] or \\[low, middle, high\\]"),
        ("steps.1.assumed", float("nan"), "positive and finite"),
        ("steps.1.laws", ["kumar2024"], "laws and assumed contradict each other"),
        ("steps.1", {"change": "format", "to": "fp8", "laws": ["kumar2042"]}, "no published curve 'kumar2042'; nearest: kumar2024"),
        ("steps.1", {"change": "format", "to": "fp8", "laws": ["hoffmann2022"]}, "says nothing of number formats"),
        ("steps.1", {"change": "format", "to": "fp8", "measured": "fp7"}, "no multiplier 'fp7' was measured here"),
        ("steps.1.to", "fp7", "steps.1"),
        ("steps.1.change", "speed", "change"),
        ("steps.1.factor", 2.0, "unknown key 'steps.1.format.factor'"),
        ("baseline.chips", 0, "baseline.chips"),
        ("baseline.tokens", None, "model and tokens are needed"),
        ("baseline.model", "llama-9", "no model 'llama-9'"),
        ("steps", [], "steps"),
        ("steps.0", {"change": "memory"}, "memory opens the memory of another chip"),
        ("steps.+", {"change": "zero", "stage": 4}, "stage"),
        ("prices", {"A100": 1e4}, "neither the baseline's chip nor the step's"),
        ("prices", {"H20": [2e4, 1e4]}, "a range rises"),
        ("wrong", 1, "unknown key 'wrong'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(path, value, says):
    with pytest.raises(scaling.InputError, match=says) as caught:
        read_scenario(broken(path, value))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("scenario: ")


def test_steps_that_need_a_before_ask_for_it():
    for key, step in (("network_gbps", {"change": "rdma", "gbps": 400}), ("zero", {"change": "zero", "stage": 3})):
        fields = broken(f"baseline.{key}", None)
        fields["steps"].append(step)
        with pytest.raises(scaling.InputError, match=f"baseline.{key} is needed with the step"):
            read_scenario(fields)


def test_the_command(tmp_path):
    run = CliRunner().invoke
    listed = json.loads(run(app, ["ledger", "--json"]).stdout)["scenarios"]
    assert [each["name"] for each in listed] == BUILT_IN
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\n[baseline]\nchip = "H100"\nchips = 8\nmodel = "llama-3.1-8b"\ntokens = 1e11\n'
        '[[steps]]\nchange = "chip"\nto = "H20"\n[[steps]]\nchange = "format"\nto = "fp8"\nassumed = [0.9, 1.0]\n'
    )
    arguments = ["ledger", str(path), "--draws", "500"]
    answer = json.loads(run(app, [*arguments, "--json", "--csv", str(tmp_path / "t.csv"), "--plot", str(tmp_path / "t.png")]).stdout)
    assert {"scenario", "time", "usd", "lines", "needed", "shares", "not_measured", "reading", "notes", "level"} <= set(answer)
    table = pd.read_csv(tmp_path / "t.csv")
    assert table["time"].iloc[-1] == pytest.approx(answer["time"]["value"])
    assert (tmp_path / "t.png").stat().st_size > 10_000
    shown = run(app, arguments)
    assert "all steps" in shown.stdout
    assert answer["reading"] in shown.stdout
    for wrong, says in (
        (["ledger", "hunyuan-h2"], "did you mean hunyuan-h20"),
        (["ledger", str(tmp_path / "none.toml")], "no such file"),
        ([*arguments[:2], "--draws", "5"], "draws must be"),
        (["ledger", "--csv", "t.csv"], "need a scenario"),
    ):
        failed = run(app, wrong)
        assert isinstance(failed.exception, scaling.InputError)
        assert says in str(failed.exception)
