"""The figure of a store of runs, finished or not. Styled as in `scaling.plots`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fits.curve import Curve
from scaling.plots import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, _axes, _plain_log_ticks, _power_of_ten, _styled

_COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK, "#8C6D31")
_MARKERS = "osD^vPX*"


@_styled
def runs_figure(done: pd.DataFrame) -> Figure:
    """Loss against compute by arm, and against size by budget for the first arm; held-out runs are hollow."""
    figure, (left, right) = _axes(11.0, 4.6, columns=2)
    arms = list(dict.fromkeys(done["arm"]))
    for place, arm in enumerate(arms):
        colour, marker = _COLOURS[place % len(_COLOURS)], _MARKERS[(place + place // len(_COLOURS)) % len(_MARKERS)]
        for held, fill in ((False, colour), (True, "white")):
            part = done[(done["arm"] == arm) & (_held(done) == held)]
            label = f"{arm}{', held out' if held else ''}"
            if len(part):
                left.plot(part["flops"], part["loss"], marker, color=colour, markerfacecolor=fill, markersize=5, label=label)
    left.set(xlabel="training compute (FLOP)", ylabel="validation loss (nats per token)", title="Every finished run")
    left.legend(fontsize=8.5)
    first = done[done["arm"] == arms[0]]
    for place, (budget, part) in enumerate(first.groupby("budget")):
        colour = _COLOURS[place % len(_COLOURS)]
        mean = part.groupby("params", as_index=False)["loss"].mean()
        fill = "white" if _held(part).any() else colour
        right.plot(
            mean["params"], mean["loss"], "o-", color=colour, markerfacecolor=fill, markersize=5, label=_power_of_ten(float(str(budget)))
        )
    right.set(xlabel="parameters", ylabel="validation loss (nats per token)", title=f"By budget, {arms[0]}, mean of seeds")
    if first["budget"].notna().any():
        right.legend(title="FLOP", fontsize=8.5)
    for axis in (left, right):
        axis.set(xscale="log", yscale="log")
        _plain_log_ticks(axis)
    return figure


def _held(runs: pd.DataFrame) -> pd.Series:
    return runs["holdout"].eq(True)


@_styled
def curve_figure(curve: Curve, grid: np.ndarray) -> Figure:
    """The optimal loss of a fitted law against compute, its band, and where its runs end; dashed beyond."""
    figure, (axis,) = _axes()
    line = np.array([curve.optimal(float(flops)).loss for flops in grid])
    if curve.draws is not None:
        low, high = np.quantile(curve.frontier_draws(grid), [0.025, 0.975], axis=0)
        axis.fill_between(grid, low, high, color=BLUE, alpha=0.18, linewidth=0, label="95% band of its constants")
    first, last = curve.range["flops"]
    inside = (grid >= (first or 0)) & (grid <= last)
    axis.plot(grid[inside], line[inside], color=BLUE, linewidth=2.4, label="where it was fitted")
    axis.plot(grid[grid >= last], line[grid >= last], color=BLUE, linewidth=1.6, linestyle="--", label="extrapolated")
    axis.axvline(last, color=BLACK, linewidth=0.8, linestyle=":")
    axis.set(xscale="log", yscale="log", xlabel="training compute (FLOP)", ylabel="optimal loss", title=f"{curve.name}: {curve.law.name}")
    axis.legend(fontsize=8.5)
    _plain_log_ticks(axis)
    return figure
