"""Reports of empty and half-finished stores, of fits, and of what is none of them; the page holds all that it shows."""

from __future__ import annotations

import dataclasses
import html.parser
import math
import re
from pathlib import Path

import pytest

import fits
from scaling import report
from scaling.errors import InputError
from scaling.store import Store
from tests.scaling.stored import made

SCENARIO = """
name = "mine"
start = 2023.0
end = 2032.0
[trends]
price_performance = 1.37
algorithms = 3.0
[[actors]]
name = "leader"
budget_usd = 1e7
budget_growth = 2.4
[[actors]]
name = "laggard"
budget_usd = 2e6
budget_growth = 2.4
structure = 2.0
data = 2.0
[[capabilities]]
name = "GPT-4 level"
effective_flops = 2e25
[uncertainty]
draws = 64
"""
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(html.parser.HTMLParser):
    """Tags in balance, what is referred to, images and their descriptions, the text."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "iframe")
        self.references += [value for name, value in attrs if name in ("src", "href")]
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def written(tmp_path: Path, *sources: Path) -> tuple[list[report.Section], Page]:
    found = report.sections(sources)
    report.write(tmp_path / "report.html", "A report", found)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert all(reference.startswith(("data:image/png;base64,", "#")) for reference in page.references)
    assert not re.search(r"url\(|@import", text)
    assert len(page.images) == sum(len(section.figures) for section in found)
    assert all(image["alt"] for image in page.images)
    return found, page


def test_an_empty_store_says_what_is_missing(tmp_path):
    Store(tmp_path / "runs.sqlite").plan([])
    (section,), page = written(tmp_path, tmp_path / "runs.sqlite")
    assert not section.figures
    assert "holds no runs" in page.text
    assert "isoloss sweep" in page.text


def test_planned_runs_alone_are_no_error(tmp_path):
    with Store(tmp_path / "runs.sqlite") as store:
        store.plan([{"run_id": f"id{seed}", "arm": "dense", "budget": 1e9, "config": {}} for seed in range(3)])
    (section,), page = written(tmp_path, tmp_path)
    assert "3 of 3 runs are planned and not trained yet" in page.text
    assert "No run is finished" in page.text
    assert not section.figures


def test_a_half_finished_store_shows_what_is_there_and_says_what_is_not(tmp_path):
    with Store(tmp_path / "runs.sqlite") as store:
        for seed, budget in ((0, 3e9), (1, 3e9), (2, 1e10)):
            store.save(made(seed, budget=budget, holdout=False))
        store.save(made(3, budget=1e10, status="diverged", loss=None, reason="loss is not finite"))
        store.plan([{"run_id": "late", "arm": "moe<8>", "budget": 1e11, "holdout": True, "config": {}}])
        store.fail("late", "out of memory & time")
        store.plan([{"run_id": "later", "arm": "moe<8>", "budget": 1e11, "holdout": True, "config": {}}])
    (section,), page = written(tmp_path, tmp_path / "runs.sqlite")
    facts = dict(section.facts)
    assert (facts["runs"], facts["done"], facts["planned"], facts["failed"], facts["diverged"]) == ("6", "3", "1", "1", "1")
    assert [name for name, _, _ in section.figures] == ["runs"]
    said = "\n".join(section.warnings)
    assert "run late failed: out of memory & time" in said
    assert "No run is finished of arm moe<8>" in said
    assert "No held-out run is finished" in said
    assert "2 budgets" in said
    assert "1 runs diverged" in said
    assert all(text in page.text for text in section.warnings)
    progress = section.tables[0][1].set_index("arm")
    assert progress.loc["dense"].to_dict() == {"3e+09 FLOP": "2 of 2", "1e+10 FLOP": "1 of 2", "1e+11 FLOP": ""}
    assert progress.loc["moe<8>", "1e+11 FLOP"] == "0 of 2"


def test_a_fit_with_its_band_and_what_to_doubt(tmp_path):
    curve = fits.load("besiroglu2024")
    doubtful = {"certified": False, "reason": "two basins"}
    dataclasses.replace(curve, name="mine", certificate=doubtful, draws=curve.draws_or_error()[:50]).save(tmp_path / "mine.json")
    (tmp_path / "other.json").write_text('{"not": "a curve"}')
    (section,), page = written(tmp_path, tmp_path)
    assert "The optimum is NOT certified: two basins." in section.warnings
    assert [name for name, _, _ in section.figures] == ["frontier"]
    optima = dict(section.tables)["Optimal allocation, within its range and beyond"].set_index("FLOP")
    assert float(str(optima.loc["1e25", "loss"])) == pytest.approx(curve.optimal(1e25).loss, abs=5e-5)
    assert float(str(optima.loc["1e25", "decades beyond the fit"])) == pytest.approx(curve.decades_outside(flops=1e25), abs=0.05)
    assert "1e26" not in optima.index
    assert "1e25" in page.text


@pytest.mark.slow
@pytest.mark.parametrize("name", fits.published())
def test_every_published_curve_has_a_section(name):
    from scaling.report.curves import curve_section

    section = curve_section(Path(name), {})
    assert section.tables[0][1]["constant"].tolist() == list(fits.load(name).constants)


def test_a_shipped_curve_is_known_by_its_name_and_a_nameless_one_by_its_file(tmp_path):
    dataclasses.replace(fits.load("hoffmann2022"), name="").save(tmp_path / "fitted.json")
    shipped, nameless = report.sections(["besiroglu2024", tmp_path / "fitted.json"])
    assert (shipped.title, nameless.title) == ("Fit besiroglu2024", "Fit fitted")


@pytest.mark.slow
def test_a_scenario(tmp_path):
    (tmp_path / "mine.toml").write_text(SCENARIO)
    (tmp_path / "plan.toml").write_text('corpus = "python-source"')  # no scenario: not taken from the folder
    (section,), page = written(tmp_path, tmp_path)
    assert (section.kind, section.title) == ("scenario", "Scenario mine")
    assert [name for name, _, _ in section.figures] == ["scenario"]
    assert section.about in page.text
    windows = dict(section.tables)["Windows, years after the first, 80%"].set_index("reached by")
    # Equal growth: ln(budget ratio x penalty) / ln(growth of budgets, prices and algorithms).
    assert windows.loc["laggard", "years later"] == pytest.approx(math.log(5 * 4) / math.log(2.4 * 1.37 * 3.0), rel=1e-6)


def test_what_no_report_can_be_made_of(tmp_path):
    (tmp_path / "notes.txt").write_text("not a store at all, but long enough to be looked at")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "results.json").write_text("{}")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "runs.csv").write_text("params,tokens,loss\n1,1,1\n")
    for name in ("gone", "notes.txt", "broken.json", "demo", "nothing", "runs.csv is a table of runs; fit it first"):
        with pytest.raises(InputError, match=name):
            report.sections([tmp_path / name.partition(" ")[0]])
