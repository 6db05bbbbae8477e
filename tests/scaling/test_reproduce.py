"""The command that makes every figure: what it answers, that it repeats itself, and what it says of data that are not here."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

CHEAP = "distillation"


@pytest.fixture
def reproduce(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("reproduce")


def test_the_list_names_every_figure_with_what_it_needs(reproduce: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    named = {line.split()[0]: line for line in lines}
    assert len(named) == len(lines) > 40
    assert "chinchilla-epoch" in named["chinchilla-contours"]
    assert {"published-frontier", "meek", "departures", "own-predictions", "isoflop", CHEAP} <= set(named)


def test_a_figure_is_the_same_bytes_twice_and_says_what_it_used(reproduce: ModuleType, tmp_path: Path) -> None:
    kept = []
    for name in ("one", "two"):
        assert reproduce.main(["--quick", "--only", CHEAP, "--out", str(tmp_path / name)]) == 0
        kept.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert kept[0] == kept[1]
    assert set(kept[0]) == {f"{CHEAP}.png", f"{CHEAP}.csv", "sources.json"}
    used = json.loads(kept[0]["sources.json"])[CHEAP]["from"]
    assert "2502.08606" in used[0]["source"]


def test_absent_data_leave_a_figure_out_with_the_reason(
    reproduce: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ISOLOSS_DATA", raising=False)
    chosen = ["broken-power-law", "isoflop"]  # a table that is no public file, and runs that were not made
    assert reproduce.main(["--quick", "--only", *chosen, "--out", str(tmp_path), "--demo", str(tmp_path / "none")]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("broken-power-law: left out: ")
    assert "ISOLOSS_DATA" in first
    assert second.startswith("isoflop: left out: ")
    assert "runs.sqlite is not there" in second
    assert not list(tmp_path.glob("*.png"))


def test_an_unknown_name_is_one_line_and_two(reproduce: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main(["--only", "chinchila", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "'chinchila'" in said.err
    assert not (tmp_path / "out").exists()
