"""The demo's page, which lies beside its PNGs, and its section of a report, read again from its folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

import fits
from fits.curve import Curve
from scaling import plots
from scaling.errors import InputError
from scaling.report.page import Section, write, write_text

if TYPE_CHECKING:
    from scaling.demo import Demo

TITLE = "Isoloss: how much more compute for the same loss?"
_COLUMNS = ["arm", "width", "params", "budget", "tokens", "steps", "batch", "loss", "loss_se", "train_seconds", "holdout", "status"]


def write_demo(demo: Demo, baseline: str, curves: dict[str, Curve], out: Path) -> None:
    """Writes figures, curve.json, runs.csv, results.json and index.html to `out`; the page last, when all it shows is there."""
    section = demo_section(demo, baseline, curves, str(out))
    for name, figure, _ in section.figures:
        plots.save(figure, out / f"{name}.png")
    demo.curve.save(out / "curve.json")
    demo.runs.to_csv(out / "runs.csv", index=False)
    write_text(out / "results.json", json.dumps(demo.results(), indent=1, allow_nan=False) + "\n")
    write(out / "index.html", TITLE, [section])


def demo_section(demo: Demo, baseline: str, curves: dict[str, Curve], source: str) -> Section:
    """What the demo found, as its page and a report show it."""
    from scaling.demo import summary_rows

    return Section(
        kind="demo",
        source=source,
        title=TITLE,
        about="Small transformers were trained on this machine across compute budgets; a scaling law was fitted to all but the largest, which it then"
        " predicted. The law and published ones give the compute penalty of a laggard, and what it means for who follows when.",
        facts=tuple(summary_rows(demo)),
        figures=tuple(demo_figures(demo, baseline, curves)),
        tables=(("Runs", demo.runs[_COLUMNS].sort_values(["arm", "budget", "params"])),),
        provenance=tuple(_provenance(demo)),
    )


def read_demo(folder: Path) -> tuple[Demo, str, dict[str, Curve]]:
    """The demo that left `folder`, its baseline's arm and its curves, from results.json, curve.json and runs.sqlite there."""
    from scaling.demo import PUBLISHED, Demo
    from scaling.measurement import measure_multiplier
    from scaling.store import open_existing

    path = folder / "results.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        kept = {name: found[name] for name in ("runs", "holdout", "multipliers", "penalty", "diffusion", "seconds")}
        ids = [run["run_id"] for run in kept["runs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not what isoloss demo writes: {type(error).__name__} {error}") from None
    for name in ("curve.json", "runs.sqlite"):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: results.json is there but not {name}; run isoloss demo --out {folder} again")
    curve = fits.load(str(folder / "curve.json"))
    with open_existing(folder / "runs.sqlite") as store:
        runs = store.frame(ids)
    baseline = curve.about["recipe"]["arms"][0]["name"]
    done = runs[runs["status"] == "done"]
    arms = {
        arm: measure_multiplier(done[done["arm"] == baseline], done[done["arm"] == arm], pairs=True, curve=curve)
        for arm in kept["multipliers"]
    }
    penalties = pd.DataFrame(kept["penalty"])
    penalties["value"] = penalties["value"].astype(float).fillna(math.inf)  # JSON has no infinity
    demo = Demo(runs, curve, kept["holdout"], arms, penalties, kept["diffusion"], kept["seconds"])
    return demo, baseline, {"demo": curve} | {name: fits.load(name) for name in PUBLISHED}


def demo_figures(demo: Demo, baseline: str, curves: dict[str, Curve]) -> Iterable[tuple[str, Any, str]]:
    """(name, figure, caption) of each of the demo's figures."""
    done = demo.runs[(demo.runs["status"] == "done") & (demo.runs["arm"] == baseline)]
    yield (
        "isoflop",
        plots.isoflop_figure(done, demo.curve),
        "Loss against model size at equal compute. The dashed profile was not seen by the fit.",
    )
    error, no_change = demo.holdout["error"], demo.holdout["baseline_error"]
    yield (
        "frontier",
        plots.frontier_figure(done, demo.curve, error or 0.0, no_change or 0.0),
        "All runs against compute, with the fitted compute-optimal frontier and its bootstrap band.",
    )
    if demo.multipliers:
        names = {"moe8": "MoE, 8 experts", "bf16": "bf16"}
        yield (
            "multipliers",
            plots.multiplier_figure(demo.multipliers, names),
            "Compute saved by a variant at equal loss, from pairs of runs of the same width, budget and seed.",
        )
    titles = {"demo": "this demo's runs (bytes)", "besiroglu2024": "Besiroglu et al. 2024", "hoffmann2022": "Hoffmann et al. 2022"}
    caption = (
        "The compute penalty of a lab that is 2x behind in structure and 2x in data: exactly 4 if it may choose size and tokens freely; more where tokens or"
        " size are fixed, and far more once unique tokens (at 4 bytes a token for the byte-level runs) run out. The demo's law is"
        " extrapolated by many decades and shown for its shape."
    )
    yield "penalty", plots.penalty_figure(demo.penalties, {name: titles.get(name, name) for name in curves}), caption
    lines, marks = pd.DataFrame(demo.diffusion["lines"]), diffusion_marks(demo.diffusion)
    caption = (
        f"One curve at two dates, {demo.diffusion['years']:g} years apart, at 1.37x a year in price performance and 3x in algorithms. The follower has a tenth of the"
        f" leader's budget and a 4x compute penalty; it reaches the leader's loss of today after {demo.diffusion['window_years']:.1f} years."
    )
    yield "diffusion", plots.diffusion_figure(lines, marks, "Access and performance effect"), caption


def diffusion_marks(diffusion: dict[str, Any]) -> dict[str, float]:
    """The points and arrows of the diffusion figure."""
    marks = {"access_usd": diffusion["access"]["usd_after"]}
    for who in ("leader", "follower"):
        before, after = diffusion[who]["loss"]
        marks |= {f"{who}_usd": diffusion[who]["budget_usd"], f"{who}_loss_before": before, f"{who}_loss_after": after}
    return marks


def _provenance(demo: Demo) -> list[tuple[str, str]]:
    records = demo.runs.iloc[0]
    return [
        ("corpus", str(records["corpus"])),
        ("device", str(records["device"])),
        ("runs' sha256", str(demo.curve.about["runs_sha256"])),
        ("objective", f"{demo.curve.about['objective']}, delta {demo.curve.about['delta']}"),
        ("bootstrap", f"{demo.curve.about['bootstrap']} resamples, {demo.curve.about['bootstrap_converged']} converged"),
        ("certificate", json.dumps(demo.curve.certificate)),
    ]
