"""The demo's page: figures, tables and where everything came from, as one HTML file beside its PNGs."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from fits.curve import Curve
from scaling import plots

if TYPE_CHECKING:
    from scaling.demo import Demo

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
figure { margin: 2rem 0; } img { max-width: 100%; height: auto; } figcaption { color: #555; font-size: 0.92rem; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.25rem 0.9rem 0.25rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }
.scroll { overflow-x: auto; }
"""


def write_demo(demo: Demo, baseline: str, curves: dict[str, Curve], out: Path) -> None:
    """Writes figures, curve.json, runs.csv, results.json and index.html to `out`; the page last, when all it shows is there."""
    from scaling.demo import summary_rows

    figures = [(plots.save(figure, out / f"{name}.png").name, caption) for name, figure, caption in demo_figures(demo, baseline, curves)]
    demo.curve.save(out / "curve.json")
    demo.runs.to_csv(out / "runs.csv", index=False)
    _write(out / "results.json", json.dumps(demo.results(), indent=1, allow_nan=False) + "\n")
    columns = ["arm", "width", "params", "budget", "tokens", "steps", "batch", "loss", "loss_se", "train_seconds", "holdout", "status"]
    shown = demo.runs[columns].sort_values(["arm", "budget", "params"])
    body = [
        "<h1>Isoloss: how much more compute for the same loss?</h1>",
        "<p>Small transformers were trained on this machine across compute budgets; a scaling law was fitted to all but the largest, which it then"
        " predicted. The law and published ones give the compute penalty of a laggard, and what it means for who follows when.</p>",
        _table(summary_rows(demo)),
        *(
            f'<figure><img src="{name}" alt="{html.escape(caption)}"><figcaption>{html.escape(caption)}</figcaption></figure>'
            for name, caption in figures
        ),
        "<h2>Runs</h2>",
        f'<div class="scroll">{shown.to_html(index=False, border=0, float_format=lambda value: f"{value:.4g}")}</div>',
        "<h2>Provenance</h2>",
        _table(_provenance(demo)),
    ]
    page = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Isoloss</title><style>{_STYLE}</style></head><body>{"".join(body)}</body></html>\n'
    _write(out / "index.html", page)


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


def _table(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th>{html.escape(label)}</th><td>{html.escape(value)}</td></tr>" for label, value in rows)
    return f"<table>{cells}</table>"


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
