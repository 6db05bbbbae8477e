"""The figure of an outcome: each actor's capability over time, and how many have access, with bands; controls as vertical lines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
    return figure


def _capability(axis: Axes, found: Outcome) -> None:
    cast, drawn = found.cast, found.drawn
    decades = found.runs.accessible / np.log(10.0)
    for place, (row, colour) in enumerate(zip(cast.named, COLOURS, strict=False)):
        _band(axis, cast.dates, decades[:, place][:, drawn], found.scenario.uncertainty.level, colour)
        axis.plot(cast.dates, decades[:, place, 0], color=colour, label=cast.names[row])
    for each, level in zip(found.scenario.capabilities, found.model.levels[:, 0] / np.log(10.0), strict=True):
        axis.axhline(level, color=BLACK, linewidth=0.8, linestyle=":")
        axis.annotate(each.name, (cast.dates[0], level), xytext=(4, 3), textcoords="offset points", fontsize=8.5)
    axis.set(ylabel="effective compute within reach (log10 FLOP)", title=found.scenario.name)
    axis.legend(fontsize=8.5, loc="lower right")


def _counts(axis: Axes, found: Outcome) -> None:
    for place, (each, colour) in enumerate(zip(found.scenario.capabilities, COLOURS, strict=False)):
        counts = found.runs.counts[:, place]
        _band(axis, found.cast.dates, counts[:, found.drawn], found.scenario.uncertainty.level, colour)
        axis.plot(found.cast.dates, counts[:, 0], color=colour, label=each.name)
    axis.set(ylabel="number with access", title=f"of {len(found.cast.names)} actors")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8.5, loc="lower right")


def _band(axis: Axes, dates: np.ndarray, values: np.ndarray, level: float, colour: str) -> None:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=-1)
    axis.fill_between(dates, low, high, color=colour, alpha=0.18, linewidth=0)


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
