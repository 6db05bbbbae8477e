"""Figures of fits: what a law leaves over, and how far ahead it can be trusted. Styled as in `scaling.plots`."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fits.comparison import log_errors
from fits.curve import Curve
from fits.errors import InputError
from fits.runs import COUNTS, complete
from scaling.plots import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, _axes, _styled

_COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, "#777777", "#8C6D31")
_MARKERS = "osD^vPX*"
_ROLLING = "Rolling extrapolation: fitted below a cut, asked above it"
_AHEAD, _ERROR = "decades of compute ahead of the runs fitted", "median error of log loss (%)"


@_styled
def residual_figure(curve: Curve, runs: pd.DataFrame) -> Figure:
    """Residuals of log loss against compute, coloured by the count of parameters (the law's own, else one that the table has)."""
    rows = complete(runs, needs=curve.law.inputs, output=curve.law.output)
    if "flops" not in rows:
        raise InputError(f"residual figure: no column 'flops'; there are {', '.join(map(str, rows.columns))}")
    percent = 100 * log_errors(curve, rows)
    size = next((name for name in (curve.law.size, *COUNTS) if name in rows), None)
    figure, (axis,) = _axes()
    axis.axhline(0, color=BLACK, linewidth=1)
    flops = rows["flops"].to_numpy(float)
    if size is None:
        axis.plot(flops, percent, "o", color=BLUE, markersize=5, alpha=0.8)
    else:
        counts = rows[size].to_numpy(float)
        norm = LogNorm(counts.min(), counts.max()) if np.ptp(counts) > 0 else None
        points = axis.scatter(flops, percent, c=counts, norm=norm, cmap=matplotlib.colormaps["viridis"].resampled(256), s=24, zorder=3)
        figure.colorbar(points, ax=axis, label=size.replace("_", " ").replace("params", "parameters"))
    axis.set(
        xscale="log",
        xlabel="training compute (FLOP)",
        ylabel="residual of log loss (%)",
        title=f"{curve.law.name}: what {len(rows)} runs leave over",
    )
    return figure


@_styled
def extrapolation_figure(table: pd.DataFrame) -> Figure:
    """Median error against decades ahead, a mark a cut and a colour a law, from `fits.compare.rolling_extrapolation`; the guess without a law beside them.

    Cuts of several tables have a panel a law: in one they would hide each other.
    """
    known = table[np.isfinite(table["error"]) & (table["error"] > 0)]
    if known.empty:
        raise InputError("extrapolation figure: no row has an error above zero; every law failed, or fits these runs exactly")
    if "table" in known and known["table"].nunique() > 1:
        return _panels(known)
    figure, (axis,) = _axes()
    for number, (name, part) in enumerate(known.groupby("law", sort=False)):
        part = part.sort_values("decades_ahead")
        style: Any = {"color": _COLOURS[number % len(_COLOURS)], "marker": _MARKERS[number % len(_MARKERS)], "markersize": 5, "alpha": 0.8}
        axis.plot(part["decades_ahead"], 100 * part["error"], linestyle="-", label=str(name), **style)
    guesses = known.drop_duplicates("cut").sort_values("decades_ahead")
    guesses = guesses[guesses["baseline_error"] > 0]
    axis.plot(guesses["decades_ahead"], 100 * guesses["baseline_error"], "--", color=BLACK, linewidth=1.2, label="no law", alpha=0.7)
    axis.set(yscale="log", xlabel=_AHEAD, ylabel=_ERROR, title=_ROLLING)
    low, high = axis.get_ylim()
    if high / low < 100:
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    # Beside the axes, where no point is, and below the title.
    figure.legend(loc="outside right center", fontsize=9)
    return figure


def _panels(known: pd.DataFrame) -> Figure:
    """A panel a law, its cuts in colour over those of no law, and how often it is the better."""
    laws, across = list(known["law"].unique()), 4
    figure = Figure(figsize=(11.0, 0.7 + 2.4 * -(-len(laws) // across)))
    axes = figure.subplots(-(-len(laws) // across), across, sharex=True, sharey=True, squeeze=False).ravel()
    for number, (axis, name) in enumerate(zip(axes, laws, strict=False)):
        part = known[known["law"] == name]
        axis.plot(part["decades_ahead"], 100 * part["baseline_error"], "x", color="#999999", markersize=4)
        axis.plot(part["decades_ahead"], 100 * part["error"], "o", color=_COLOURS[number % len(_COLOURS)], markersize=4, alpha=0.8)
        better = int((part["error"] < part["baseline_error"]).sum())
        text = f"better than no law at {better} of {len(part)} cuts"
        axis.annotate(text, (0.98, 0.03), xycoords="axes fraction", ha="right", fontsize=8)
        axis.set(yscale="log", title=name)
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
    for axis in axes[len(laws) :]:
        axis.set_visible(False)
    figure.suptitle(f"{_ROLLING}, {known['table'].nunique()} tables (crosses: no law)", fontsize=12, fontweight="bold", x=0.01, ha="left")
    figure.supxlabel(_AHEAD, fontsize=10)
    figure.supylabel(_ERROR, fontsize=10)
    return figure
