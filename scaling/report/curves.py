"""What a fitted curve says: constants with intervals, its certificate, what it predicts and how far that lies beyond its runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import fits
from fits.curve import Curve
from scaling.curves_command import about
from scaling.errors import InputError
from scaling.report.page import Section, rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AHEAD = 1e3  # how far beyond its runs a curve is drawn
_PROVENANCE = ("source", "objective", "delta", "rows", "runs_sha256", "bootstrap", "bootstrap_converged", "units", "recipe")


def curve_section(path: Path, runs: Mapping[str, pd.DataFrame]) -> Section:
    """The section of a curve file; `runs` are finished runs by the name of their store, which it is compared with. Raises InputError."""
    curve = fits.load(str(path))
    said = about(curve)
    certificate = curve.certificate or {}
    facts = {"law": f"{curve.law.name}: {curve.law.formula}", "predicts": curve.law.output, "grade": said["grade"]}
    facts["fitted to"] = ", ".join(f"{name} {_span(ends)}" for name, ends in curve.range.items())
    tables = [("Constants", _constants(said))]
    if (grid := _grid(curve)) is not None:
        tables.append(("Optimal allocation, within its range and beyond", _optima(curve, grid)))
    return Section(
        kind="fit",
        source=str(path),
        title=f"Fit {curve.name or path.stem}",
        facts=rows(facts),
        warnings=tuple(_warnings(curve, said, certificate)),
        figures=tuple(_figures(curve, grid, runs)),
        tables=tuple(tables),
        provenance=rows({name: _text(curve.about.get(name)) for name in _PROVENANCE} | {"certificate": _text(certificate)}),
    )


def _warnings(curve: Curve, said: Mapping[str, Any], certificate: Mapping[str, Any]) -> Iterable[str]:
    if certificate and not certificate.get("certified"):
        yield f"The optimum is NOT certified: {certificate.get('reason') or 'no reason was kept'}."
    elif certificate.get("reason"):
        yield f"The certificate says: {certificate['reason']}."
    elif not certificate and "source" not in curve.about:
        yield "Nothing says whether the optimum was certified."
    if said["interval"] is None:
        yield "The constants have no intervals: isoloss fit --bootstrap N gives them, and bands with them."
    if curve.draws is None:
        yield "There are no draws of the constants, so predictions have no bands."
    made, converged = curve.about.get("bootstrap"), curve.about.get("bootstrap_converged")
    if isinstance(made, int) and isinstance(converged, int) and converged < made:
        yield f"{made - converged} of {made} resamples did not converge."
    if not curve.range:
        yield "The range of runs that it was fitted on is not known: nothing can be said about how far a prediction reaches."
    yield from curve.about.get("warnings") or []
    for key in ("notes", "contradicts"):
        if said.get(key):
            yield f"{key}: {_text(said[key])}"


def _constants(said: Mapping[str, Any]) -> pd.DataFrame:
    bounds = said["interval"] or {}
    level = f"{100 * bounds['level']:g}%" if "level" in bounds else "interval"
    found = []
    for name, value in said["constants"].items():
        low, high = bounds.get(name) or (None, None)
        found.append(
            {"constant": name, "value": f"{value:.6g}", level: "" if low is None and high is None else f"{_end(low)} to {_end(high)}"}
        )
    return pd.DataFrame(found)


def _grid(curve: Curve) -> np.ndarray | None:
    """Compute from a little below the fit's range to far beyond it; None where the law has no frontier or the range is not known."""
    low, high = curve.range.get("flops", (None, None))
    if curve.law.size is None or "tokens" not in curve.law.inputs or high is None:
        return None
    grid = np.geomspace((low or high / 1e4) / 3, high * AHEAD, 60)
    try:
        curve.optimal(float(grid[0]))
    except InputError:  # a law that needs further inputs
        return None
    return grid


def _optima(curve: Curve, grid: np.ndarray) -> pd.DataFrame:
    found = []
    for power in range(int(np.ceil(np.log10(grid[0]))), int(np.floor(np.log10(grid[-1]))) + 1):
        best = curve.optimal(10.0**power)
        row = {"FLOP": f"1e{power}", "parameters": f"{best.params:.3g}", "tokens": f"{best.tokens:.3g}", "loss": f"{best.loss:.4f}"}
        if curve.draws is not None:
            low, high = np.quantile(curve.frontier_draws(np.array([10.0**power])), [0.025, 0.975])
            row["95%"] = f"{low:.4f} to {high:.4f}"
        found.append(row | {"decades beyond the fit": f"{curve.decades_outside(flops=10.0**power):.1f}"})
    return pd.DataFrame(found)


def _figures(curve: Curve, grid: np.ndarray | None, runs: Mapping[str, pd.DataFrame]) -> Iterable[tuple[str, Figure, str]]:
    from scaling.fit_plots import residual_figure
    from scaling.report.figures import curve_figure

    if grid is not None:
        yield (
            "frontier",
            curve_figure(curve, grid),
            f"Loss at the optimal allocation, to {AHEAD:g} times the compute of the largest run fitted.",
        )
    for name, table in runs.items():
        same = table[table["corpus"] == curve.about.get("corpus")]  # losses on other corpora are not to be compared
        if len(same) and {"flops", curve.law.output, *curve.law.inputs} <= set(same.columns):
            caption = f"What the curve leaves over of the {len(same)} finished runs on its corpus in {name}, whether it was fitted to them or not."
            yield "residuals", residual_figure(curve, same), caption


def _span(ends: Any) -> str:
    low, high = ends
    return f"{_end(low)} to {_end(high)}"


def _end(value: float | None) -> str:
    return "open" if value is None else f"{value:.4g}"


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return "; ".join(value) if isinstance(value, list) and all(isinstance(item, str) for item in value) else json.dumps(value)
