"""The main job on a tiny plan: everything it promises is there, and a second time nothing is trained again."""

from __future__ import annotations

import json
import time

import pytest

from scaling.demo import run_demo
from scaling.errors import InputError

KEYS = {"runs", "fit", "holdout", "multipliers", "penalty", "diffusion", "seconds"}


@pytest.fixture(scope="module")
def plan(text_folder):
    return {
        "corpus": str(text_folder),
        "ladder": {"widths": [16, 32, 48], "context": 32},
        "budgets": {"flops": [4e9, 8e9, 1.5e10], "holdout": [3e10], "holdout_sizes": 2},
        "arms": [{"name": "dense"}, {"name": "bf16", "precision": "bf16", "budgets": [4e9], "widths": [16]}],
        "train": {"validation_tokens": 4096, "epochs": 4},
    }


def test_demo_end_to_end_and_again(plan, tmp_path, monkeypatch):
    from scaling import demo, report
    from scaling.report.demo import TITLE

    monkeypatch.setattr(demo, "BOOTSTRAP", 50)
    first = run_demo(tmp_path / "out", demo.read_plan(plan))
    assert (first.runs["status"] == "done").all()
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        *("index.html", "results.json", "curve.json", "runs.csv", "runs.sqlite"),
        *(f"{name}.png" for name in ("isoflop", "frontier", "multipliers", "penalty", "diffusion")),
    }
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(results) == KEYS
    assert len(results["runs"]) == len(first.runs)
    assert set(results["holdout"]) >= {"budget", "error", "baseline_error"}
    assert results["holdout"]["runs"] == 2
    dense = [run for run in results["runs"] if run["arm"] == "dense"]
    assert results["fit"]["rows"] == sum(not run["holdout"] for run in dense) == len(dense) - 2
    assert set(results["multipliers"]) == {"bf16"}
    free = [row for row in results["penalty"] if row["setting"] == "free"]
    assert len(free) == 3 * 33
    assert all(row["value"] == pytest.approx(4, rel=1e-9) for row in free)
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<img") == 5
    assert "<script" not in page

    said = report.sections([tmp_path / "out"])  # the same page, read again from the folder, and the store's section beside it
    assert [section.kind for section in said] == ["demo", "store"]
    assert dict(said[0].facts) == dict(demo.summary_rows(first))
    report.write(tmp_path / "demo.html", TITLE, said[:1])
    assert (tmp_path / "demo.html").read_text() == page

    started = time.monotonic()
    second = run_demo(tmp_path / "out", demo.read_plan(plan))
    assert second.runs["train_seconds"].tolist() == first.runs["train_seconds"].tolist()
    assert second.curve.constants == first.curve.constants
    assert time.monotonic() - started < 60


def test_held_out_error_is_that_of_the_law_not_of_the_fit(plan, tmp_path):
    """A law that is exact on the seen runs and wrong by 10% on the held-out ones has an error of 10%."""
    import fits
    from scaling.demo import holdout_error

    curve = fits.load("besiroglu2024")

    def table(budget, factor):
        import pandas as pd

        best = curve.optimal(budget)
        rows = [{"params": best.params * x, "tokens": best.tokens / x, "flops": budget, "budget": budget} for x in (0.5, 1, 2)]
        frame = pd.DataFrame(rows)
        return frame.assign(loss=factor * curve.loss(params=frame["params"].to_numpy(), tokens=frame["tokens"].to_numpy()))

    seen, held = table(1e20, 1.0), table(1e21, 1.1)
    found = holdout_error(curve, seen, held)
    assert found["error"] == pytest.approx(1 - 1 / 1.1, rel=1e-9)
    assert found["beyond"] == pytest.approx(10)
    no_change = seen["loss"].min() / held["loss"].median() - 1
    assert found["baseline_error"] == pytest.approx(abs(no_change), rel=1e-9)


def test_plans_that_cannot_be_a_demo_are_refused_before_anything_is_written(plan, tmp_path):
    from scaling.plan import read_plan

    with pytest.raises(InputError, match="holdout"):
        run_demo(tmp_path / "out", read_plan(plan | {"budgets": {"flops": [4e9, 8e9]}}))
    with pytest.raises(InputError, match="needs at least 6"):
        run_demo(tmp_path / "out", read_plan(plan | {"ladder": {"widths": [16], "context": 32}}))
    arms = [{"name": "dense", "widths": [16, 32]}, {"name": "bf16", "precision": "bf16", "widths": [48], "budgets": [1.5e10]}]
    with pytest.raises(InputError, match="to be compared with"):
        run_demo(tmp_path / "out", read_plan(plan | {"arms": arms}))
    assert not (tmp_path / "out").exists()
