"""`isoloss diffuse`: built-in scenarios, side by side, with a figure; bad input in one line."""

from __future__ import annotations

import pytest

from scaling.diffusion.scenario import built_in
from tests.scaling.test_cli import answer, called

NAMES = {"baseline", "export-controls-2022", "h20-licence", "open-weights", "meek-models", "deepseek-4x"}


def test_the_built_in_scenarios_are_listed():
    assert {row["scenario"] for row in answer("diffuse")["scenarios"]} == NAMES == set(built_in())
    assert all(built_in().values())


@pytest.mark.slow
def test_two_scenarios_side_by_side_with_figures(tmp_path):
    figure = tmp_path / "figure.png"
    shown = called("diffuse", "meek-models", "--compare", "meek-models", "--draws", "4", "--plot", str(figure))
    assert shown.returncode == 0, shown.stderr
    assert "meek: months behind at the end" in shown.stdout
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "figure-meek-models.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_built_in_scenario_answers_and_reads_its_numbers(name, tmp_path):
    found = answer("diffuse", name, "--draws", "16", "--sensitivities", "--plot", str(tmp_path / "figure.png"))
    assert len(found["reading"]) > 200
    for each in found["capabilities"]:
        assert each["name"] in found["reading"]
        assert all(row["low"] <= row["median"] <= row["high"] for row in each["with_access"])
    for each in found["channels"]:
        assert sum(share["decades"] for share in each["shares"]) == pytest.approx(each["gap_decades"] - each["left_over"], abs=1e-9)
    assert len(found["sensitivities"]["gradients"]) == len(found["sensitivities"]["sobol"]) > 0


@pytest.mark.parametrize("growth", [0, -1, float("inf"), float("nan"), 10**400, True])
def test_a_growth_factor_that_is_none_is_refused(growth):
    from scaling.diffusion.scenario import TrendTable

    with pytest.raises(ValueError, match="write a positive growth factor a year"):
        TrendTable(price_performance=growth)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("baselin",), "did you mean 'baseline'"),
        (("no-such.toml",), "no such file"),
        (("--compare", "baseline"), "need a scenario"),
        (("meek-models", "--draws", "-1"), "draws must lie between"),
    ],
)
def test_bad_input_is_one_line(arguments, says):
    run = called("diffuse", *arguments)
    assert run.returncode == 2
    assert says in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
