"""`isoloss plan`: strict JSON, a table and a reading, and one line for bad input."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from fits.errors import InputError
from scaling.plan_command import plan
from tests.fits.planted import planted

app = typer.Typer(rich_markup_mode=None)
app.command()(plan)


def run(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments])


def refuse(word):
    raise AssertionError(f"{word} is not strict JSON")


@pytest.fixture
def table(tmp_path):
    planted(25, 2e-3).rename(columns={"params": "Model Size"}).to_csv(tmp_path / "runs.csv", index=False)
    return tmp_path / "runs.csv"


def test_json_and_the_table_of_runs(table, tmp_path):
    out = tmp_path / "next" / "plan.csv"
    options = ["--budget", 1e22, "--for", "loss", "--at-flops", 1e24, "--columns", "params=Model Size", "--where", "loss < 9", "--out", out]
    result = run(table, *options, "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout, parse_constant=refuse)
    assert set(answer) >= {"quantity", "at", "before", "after", "reduction", "grid", "runs", "warnings"}
    assert (answer["quantity"], answer["at"]) == ("loss", 1e24)
    assert set(answer["before"]) == set(answer["after"]) == {"se", "low", "high"}
    assert set(answer["grid"]) == {"se", "flops"}
    assert answer["before"]["se"] / answer["after"]["se"] == pytest.approx(answer["reduction"])
    assert answer["reduction"] > 1
    written = pd.read_csv(out)
    assert {"params", "tokens", "flops"} <= set(written.columns)
    for name in ("params", "tokens", "flops", "expected_se_after"):
        assert written[name].tolist() == pytest.approx([row[name] for row in answer["runs"]])
    assert written["flops"].sum() <= 1e22


def test_the_reading_says_now_after_and_against_a_grid(table):
    result = run(table, "--budget", 1e22, "--for", "params", "--at-flops", 1e24, "params=Model Size", "--max-runs", 6)
    assert result.exit_code == 0, result.output
    assert "after 6 runs" in result.stdout
    assert "isoFLOP grid" in result.stdout
    assert "Now the optimal size at 1e+24 FLOP is known to a standard error of" in result.stdout.replace("\n", " ")
    assert "decades beyond" in result.stderr


def test_a_published_curve_is_a_truth_without_runs():
    result = run("hoffmann2022", "--budget", 1e21, "--for", "exponent", "--noise", 0.004, "--json")
    answer = json.loads(result.stdout, parse_constant=refuse)
    assert answer["before"] == {"se": None, "low": None, "high": None}
    assert answer["reduction"] is None
    assert answer["after"]["se"] < answer["grid"]["se"]
    assert "taken for the truth" in answer["warnings"][0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["hoffmann2022", "--budget", "1e21", "--for", "exponent"], "noise"),
        (["hoffmann2022", "--budget", "1e21", "--for", "loss", "--noise", "0.004"], "needs at_flops"),
        (["hoffmann2022", "--budget", "1e21", "--for", "size", "--noise", "0.004"], "quantity 'size'"),
        (["hoffmann2022", "--budget", "1e21", "--for", "multiplier"], "two arms"),
        (["hoffmann2022", "--budget", "1e21", "--where", "loss < 3"], "is a curve"),
        (["hofmann2022", "--budget", "1e21"], "did you mean 'hoffmann2022'"),
        (["none.csv", "--budget", "1e21"], "none.csv"),
        (["none.csv", "--budget", "1e21", "--law", "chinchila"], "did you mean 'chinchilla'"),
        (["none.csv", "--budget", "1e21", "--columns", "params"], "NAME=COLUMN"),
    ],
)
def test_bad_input_is_an_input_error_of_one_line(arguments, says):
    result = run(*arguments)
    assert isinstance(result.exception, InputError), result.output
    assert says in str(result.exception)
    assert "\n" not in str(result.exception)
