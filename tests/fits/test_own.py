"""The project's own curves and the runs behind them: each curve says what it was fitted to, and each row is enough to make its run again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import fits
from models.config import ModelConfig
from scaling.run import RunConfig, run_id


def config_of(row: dict) -> RunConfig:
    """The configuration of a row of the runs table: its columns, and in `settings` what differs from the defaults beside them."""
    own = json.loads(row["settings"]) | {name: row[name] for name in row if name not in ("corpus", "settings", "unique_tokens")}
    shape = {field.name: own[field.name] for field in dataclasses.fields(ModelConfig) if field.name in own}
    fields = {field.name: own[field.name] for field in dataclasses.fields(RunConfig) if field.name in own}
    more: dict[str, Any] = {"unique_tokens": int(row["unique_tokens"])} if row["arm"].startswith("unique") else {}
    more["teacher"] = own.get("teacher") if row["arm"].startswith("distilled") else None
    whole: dict[str, Any] = fields | more | {"model": ModelConfig(**shape), "tokens": int(row["tokens_asked"])}
    return RunConfig(**whole)


def test_a_row_of_the_runs_table_is_its_run_to_the_identity():
    """What a row holds makes the run again: its configuration, corpus, teacher, threads and layout hash to the identity that it was stored under."""
    runs = fits.own_runs()
    assert len(runs) > 500
    for row in runs.to_dict("records"):
        config = dataclasses.replace(config_of(row), corpus=row["corpus"])
        assert (config.tokens_trained, config.steps, config.sequences) == (row["tokens"], row["steps"], row["batch"])
        teacher = row["teacher"] if isinstance(row["teacher"], str) else None
        assert run_id(config, row["corpus"], int(row["threads"]), row["layout"], teacher) == row["run_id"], row["run_id"]


@pytest.mark.parametrize("name", fits.own())
def test_a_curve_fits_the_runs_beside_it(name):
    curve = fits.load(name)
    assert {"title", "recipe", "limits", "units", "source"} <= set(curve.about)
    assert curve.residual_sd is not None
    assert curve.residual_sd < 0.03
    assert curve.certificate is not None
    assert curve.certificate["certified"]
    card = (Path(fits.__file__).parent / "own" / "README.md").read_text().partition(f"## {name}\n")[2].partition("\n## ")[0]
    assert all(f"| {constant} | {value:.4g} |" in card for constant, value in curve.constants.items())
    assert curve.about["limits"] in card
    rows = fits.own_runs(f'corpus = "{curve.about["corpus"]}" and arm = "dense" and learning_rate = 0.0034')
    if curve.law.inputs == ("params", "tokens"):
        off = curve.loss(params=rows["params"].to_numpy(float), tokens=rows["tokens"].to_numpy(float)) / rows["loss"].to_numpy(float) - 1
        assert abs(off).mean() < 0.01


def test_predictions_were_made_of_runs_far_beyond_those_they_rest_on():
    told = pd.read_csv(Path(fits.__file__).parent / "own" / "predictions.csv")
    assert (told["flops"] > 3 * told["most_flops"]).all()
    assert ((told["ensemble_low"] < told["ensemble"]) & (told["ensemble"] < told["ensemble_high"])).all()
