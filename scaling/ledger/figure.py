"""The waterfall of a ledger, and the table behind it."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from scaling.errors import InputError
from scaling.ledger.effects import EVIDENCE
from scaling.ledger.ledger import Ledger
from scaling.ledger.needed import Band
from scaling.plots import BLACK, BLUE, GREEN, ORANGE, PURPLE, _axes, _styled

# Told apart by hatch as well as by colour: in print without colour too.
LOOKS = dict(zip(EVIDENCE, ((GREEN, ""), (BLUE, "///"), (ORANGE, "..."), (PURPLE, "xxx")), strict=True))
GREY = "#9a9a9a"
PLATE = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)


def table(found: Ledger) -> pd.DataFrame:
    """A row a step and one for the total: factors with bands free of order, factors in sequence, and the set-ups around each."""
    rows = [_row(line.name, line.evidence, line.time, line.usd) | _sequence(line) for line in found.lines]
    if found.baseline and found.end:
        total = {"hours_before": found.baseline.hours, "hours_after": found.end.hours, "chips_before": found.baseline.chips}
        total |= {"chips_after": found.end.chips, "usd_before": found.baseline.usd, "usd_after": found.end.usd}
        whole = {"sequence_time": found.time.value if found.time else None, "sequence_usd": found.usd.value if found.usd else None}
        rows.append(_row("total", "", found.time, found.usd) | whole | total)
    return pd.DataFrame(rows)


def _row(name: str, evidence: str, time: Band | None, usd: Band | None) -> dict[str, Any]:
    row: dict[str, Any] = {"step": name, "evidence": evidence}
    for what, band in (("time", time), ("usd", usd)):
        row |= {what: band.value if band else None, f"{what}_low": band.low if band else None, f"{what}_high": band.high if band else None}
    return row


def _sequence(line: Any) -> dict[str, Any]:
    row = {"sequence_time": line.sequence_time, "sequence_usd": line.sequence_usd}
    for field in ("hours", "chips", "usd"):
        for when in ("before", "after"):
            place = getattr(line, when)
            row[f"{field}_{when}"] = getattr(place, field) if place else None
    return row | {"note": line.reason}


def waterfall(found: Ledger) -> tuple[Figure, pd.DataFrame]:
    """The steps free of order as bars from the baseline to the total, in time and in dollars, with 80% bands; and the table. Raises InputError."""
    if found.time is None or any(line.time is None for line in found.lines):
        raise InputError(f"ledger: nothing to draw: {found.reason}")
    return _draw(found), table(found)


@_styled
def _draw(found: Ledger) -> Figure:
    figure, axes = _axes(11.0, 1.9 + 0.46 * (len(found.lines) + 1), columns=2)
    for axis, what in zip(axes, ("time", "usd"), strict=True):
        _bars(axis, found, what)
    names = [line.name for line in found.lines] + ["all steps"]
    axes[0].set_yticks(range(len(names)), names)
    axes[1].set_yticks([])
    kinds = [kind for kind in EVIDENCE if any(line.evidence == kind for line in found.lines)]
    handles = [Patch(facecolor=LOOKS[kind][0], hatch=LOOKS[kind][1], edgecolor="white", label=kind) for kind in kinds]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles) + 1, title="evidence of a step's larger part; whiskers: 80% bands"
    )
    return figure


def _bars(axis: Axes, found: Ledger, what: str) -> None:
    at, reach = 1.0, [1.0]
    for place, line in enumerate(found.lines):
        band = getattr(line, what)
        colour, hatch = LOOKS[line.evidence]
        _bar(axis, place, at, band, colour, hatch)
        axis.plot([at * band.value] * 2, [place + 0.3, place + 0.7], color=BLACK, linewidth=0.8)
        reach += [at * band.low, at * band.high, at * band.value]
        at *= band.value
    total = getattr(found, what)
    _bar(axis, len(found.lines), 1.0, total, GREY, "")
    reach += [total.low, total.high]
    axis.axvline(1.0, color=BLACK, linewidth=0.8, linestyle=":")
    words = "time" if what == "time" else f"dollars ({'bought chips' if found.dollars == 'buy' else 'rent'})"
    low, high = min(reach), max(reach)
    axis.set(
        xscale="log", xlim=(low / 1.15, high * 2.6), ylim=(len(found.lines) + 0.6, -0.6), xlabel=f"{words} to equal loss, baseline = 1"
    )
    axis.set_title(f"{found.scenario}: {words}")
    axis.xaxis.set_major_locator(FixedLocator([tick for tick in TICKS if low / 1.15 <= tick <= high * 2.6]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.grid(axis="y", visible=False)


def _bar(axis: Axes, place: int, start: float, band: Band, colour: str, hatch: str) -> None:
    """A bar from `start` to `start` times the factor, its band as a whisker, and the factor beside it."""
    end = start * band.value
    axis.barh(place, end - start, left=start, height=0.6, color=colour, hatch=hatch, edgecolor="white", linewidth=0.5)
    low, high = start * band.low, start * band.high
    axis.errorbar(end, place, xerr=[[max(0.0, end - low)], [max(0.0, high - end)]], color=BLACK, capsize=2.5, linewidth=1.0)
    text = f"{band.value:.2f}x ({band.low:.2f}-{band.high:.2f})"
    axis.annotate(text, (max(start, end, high), place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8.5, bbox=PLATE)
