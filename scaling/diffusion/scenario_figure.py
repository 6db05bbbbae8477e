"""The figure of an outcome: each actor's capability over time, and how many have access, with bands; controls as vertical lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scaling.diffusion.simulation import Outcome
from scaling.plots import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, _axes, _styled

COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK)
MOST_NAMED = len(COLOURS)


@_styled
def scenario_figure(found: Outcome) -> Figure:
    """Two panels: effective compute of the named actors against the capabilities' levels, and the number with access to each capability."""
    figure, (left, right) = _axes(width=11.0, columns=2)
    _capability(left, found)
    _counts(right, found)
    for axis in (left, right):
        _controls(axis, found, named=axis is left)
        axis.set_xlim(found.cast.dates[0], found.cast.dates[-1])
        axis.set_xlabel("year")
        axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    return figure


def scenario_table(found: Outcome) -> pd.DataFrame:
    """What the figure draws: a row a date of every actor's effective compute (log10 FLOP) and of every capability's number with access.

    `stated` is the line, the world as the scenario states it; `low` and `high` are the band over the draws.
    """
    decades = found.runs.accessible / np.log(10.0)
    lines = [("effective compute", found.cast.names[row], decades[:, place]) for place, row in enumerate(found.cast.named[:MOST_NAMED])]
    lines += [("with access", each.name, found.runs.counts[:, place]) for place, each in enumerate(found.scenario.capabilities)]
    rows = []
    for what, name, values in lines:
        low, high = _ends(values[:, found.drawn], found.scenario.uncertainty.level)
        rows.append(pd.DataFrame({"what": what, "name": name, "date": found.cast.dates, "stated": values[:, 0], "low": low, "high": high}))
    return pd.concat(rows, ignore_index=True)


def _capability(axis: Axes, found: Outcome) -> None:
    cast, drawn = found.cast, found.drawn
    names: list[tuple[float, str, str]] = []
    decades = found.runs.accessible / np.log(10.0)
    for place, (row, colour) in enumerate(zip(cast.named, COLOURS, strict=False)):
        _band(axis, cast.dates, decades[:, place][:, drawn], found.scenario.uncertainty.level, colour)
        axis.plot(cast.dates, decades[:, place, 0], color=colour)
        names.append((decades[-1, place, 0], cast.names[row], colour))
    for each, level in zip(found.scenario.capabilities, found.model.levels[:, 0] / np.log(10.0), strict=True):
        axis.axhline(level, color=BLACK, linewidth=0.8, linestyle=":")
        # At the end and below, where lines that rise are not.
        axis.annotate(each.name, (cast.dates[-1], level), xytext=(-4, -3), textcoords="offset points", fontsize=8.5, ha="right", va="top")
    axis.set(ylabel="effective compute within reach (log10 FLOP)", title=f"{found.scenario.name}: what each can reach")
    _name_ends(axis, cast.dates[-1], names)


def _name_ends(axis: Axes, date: float, names: list[tuple[float, str, str]]) -> None:
    """Names at the lines' ends, from the top down, no nearer than a line of text."""
    low, high = axis.get_ylim()
    at = np.inf
    for value, name, colour in sorted(names, reverse=True):
        at = min(value, at - 0.045 * (high - low))
        axis.annotate(name, (date, at), xytext=(4, 0), textcoords="offset points", color=colour, fontsize=8.5, va="center")


def _counts(axis: Axes, found: Outcome) -> None:
    for place, (each, colour) in enumerate(zip(found.scenario.capabilities, COLOURS, strict=False)):
        counts = found.runs.counts[:, place]
        _band(axis, found.cast.dates, counts[:, found.drawn], found.scenario.uncertainty.level, colour, step="post")
        axis.plot(found.cast.dates, counts[:, 0], color=colour, label=each.name, drawstyle="steps-post")
    axis.set(ylabel="number with access", title=f"How many of {len(found.cast.names)} actors have access")
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    level = found.scenario.uncertainty.level
    axis.legend(fontsize=8.5, loc="lower right", title=f"bands: the middle {level:.0%}", title_fontsize=8.5)


def _band(axis: Axes, dates: np.ndarray, values: np.ndarray, level: float, colour: str, step: Literal["post"] | None = None) -> None:
    low, high = _ends(values, level)
    axis.fill_between(dates, low, high, color=colour, alpha=0.18, linewidth=0, step=step)


def _ends(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the middle `level` of the draws (the last axis)."""
    # As the answer's own bands: counts stay whole.
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=-1, method="inverted_cdf")
    return low, high


def _controls(axis: Axes, found: Outcome, named: bool) -> None:
    """A line at each control's date."""
    seen: Sequence[tuple[float, str]] = sorted({(each.date, each.control) for each in found.cast.events})
    top = axis.get_ylim()[1]
    for date, name in seen:
        if not found.cast.dates[0] <= date <= found.cast.dates[-1]:
            continue
        axis.axvline(date, color="#777777", linewidth=1, linestyle="--")
        if not named:
            continue
        axis.annotate(name, (date, top), xytext=(3, -4), textcoords="offset points", fontsize=8, rotation=90, va="top", color="#555555")
