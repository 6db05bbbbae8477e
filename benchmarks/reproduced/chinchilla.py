"""Chinchilla's approach 3, its replication, and this package's certified fit of the same 240 runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import fits
from fits.curve import Curve
from reproduced.drawing import interval, label, note, plain, quantile_band, spread
from reproduced.entry import Drawn, Entry
from scaling import plots
from scaling.demo import PUBLISHED
from scaling.plots import BLACK, BLUE, GREEN, ORANGE, _axes, _styled

TABLE = "chinchilla-epoch"
HOFFMANN, BESIROGLU = "hoffmann2022", "besiroglu2024"
COLOURS = {"Hoffmann et al. 2022": ORANGE, "Besiroglu et al. 2024": GREEN, "our fit": BLUE}


def curves(draws: int) -> dict[str, Curve]:
    """The three by name; the last is fitted here."""
    ours = fits.fit("chinchilla", fits.dataset(TABLE, recipe=True), bootstrap=draws)
    return dict(zip(COLOURS, (fits.load(HOFFMANN), fits.load(BESIROGLU), ours), strict=True))


@_styled
def contours_figure(draws: int) -> Drawn:
    """The runs over contours of equal loss with N*(C) of the three fits, and the tokens per parameter that they call optimal."""
    found, runs = curves(draws), fits.dataset(TABLE, recipe=True)
    figure, (left, right) = _axes(11.0, 4.8, columns=2)
    _contours(figure, left, runs, found["our fit"])
    flops = np.geomspace(1e18, 1e27, 109)
    columns: dict[str, np.ndarray] = {"flops": flops}
    for name, curve in found.items():
        optimal = np.array([curve.optimal(each).params for each in flops])
        ratio = flops / 6 / optimal**2
        columns |= {f"{name}: params": optimal, f"{name}: tokens per param": ratio}
        seen = flops <= 1e22
        left.plot(flops[seen], optimal[seen], color=COLOURS[name], linewidth=2)
        right.plot(flops, ratio, color=COLOURS[name], linewidth=2)
        if curve.draws is not None:
            low, high = quantile_band(_optimal_ratio(curve, flops))
            columns |= {f"{name}: tokens per param, low": low, f"{name}: tokens per param, high": high}
            if name == "our fit":
                spread(right, flops, low, high, COLOURS[name])
    plate: dict[str, Any] = {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.9}}  # over contours
    label(left, "Hoffmann", (1e22, columns["Hoffmann et al. 2022: params"][48]), ORANGE, shift=(5, -9), **plate)
    label(left, "Besiroglu, ours", (1e22, columns["our fit: params"][48]), BLUE, shift=(5, 3), **plate)
    label(
        right,
        "Hoffmann et al. 2022,\napproach 3",
        (flops[47], columns["Hoffmann et al. 2022: tokens per param"][47]),
        ORANGE,
        shift=(-8, 12),
        ha="right",
    )
    label(right, "Besiroglu et al. 2024", (flops[52], columns["Besiroglu et al. 2024: tokens per param"][52]), GREEN, shift=(0, 11))
    label(right, "our fit, 95% band", (flops[-1], columns["our fit: tokens per param"][-1]), BLUE, shift=(0, -14), ha="right")
    right.axvline(runs["flops"].max(), color=BLACK, linewidth=0.8, linestyle=":")
    note(right, "dotted: end of the data", "lower left")
    right.set(xscale="log", yscale="log", xlabel="training compute (FLOP)", ylabel="optimal tokens per parameter")
    right.set_title("... and what follows for data")
    plain(right.yaxis, [3, 5, 10, 20, 50, 100, 200])
    return figure, pd.DataFrame(columns)


def _contours(figure: Figure, axis: Axes, runs: pd.DataFrame, curve: Curve) -> None:
    flops, params = np.meshgrid(np.geomspace(8e17, 5e23, 170), np.geomspace(4e7, 3e10, 160))
    losses = np.asarray(curve.loss(params=params, tokens=flops / 6 / params))
    levels = [2.0, 2.1, 2.2, 2.3, 2.4, 2.6, 2.8, 3.0, 3.3]
    lines = axis.contour(flops, params, losses, levels=levels, colors="#999999", linewidths=0.8)
    row = int(np.searchsorted(params[:, 0], 2.2e10))  # above the runs, where the labels of the contours are in nobody's way
    places = [(float(np.interp(-level, -losses[row], flops[row])), params[row, 0]) for level in levels]
    axis.clabel(lines, fmt="%g", fontsize=8, manual=places)
    dots = axis.scatter(runs["flops"], runs["params"], c=runs["loss"], cmap="viridis_r", s=13, zorder=3, vmax=3.2)
    figure.colorbar(dots, ax=axis, label="loss (nats per token)", pad=0.01, extend="max")
    axis.set(xscale="log", yscale="log", xlim=(8e17, 5e23), ylim=(4e7, 3e10), xlabel="training compute (FLOP)", ylabel="parameters")
    axis.set_title("240 runs, contours of our fit, optima of three")


def _optimal_ratio(curve: Curve, flops: np.ndarray) -> np.ndarray:
    """Optimal tokens per parameter of every draw, (draws, flops): N* = G (C/6)^a of the closed form."""
    A, B, alpha, beta = (curve.draws_or_error()[:, [curve.law.constants.index(name)]] for name in ("A", "B", "alpha", "beta"))
    params = (alpha * A / (beta * B)) ** (1 / (alpha + beta)) * (flops / 6) ** (beta / (alpha + beta))
    return flops / 6 / params**2


@_styled
def constants_figure(draws: int) -> Drawn:
    """Constants of the three fits, with 95% intervals, as dots and as a table."""
    found = curves(draws)
    names = {"E": "E (nats a token)", "A": "A", "B": "B", "alpha": r"$\alpha$", "beta": r"$\beta$"}
    rows = []
    for name, curve in found.items():
        ends = curve.interval(0.95, "bootstrap") if curve.draws is not None else {}
        a = curve.constants["beta"] / (curve.constants["alpha"] + curve.constants["beta"])
        rows += [(name, each, curve.constants[each], *ends.get(each, (np.nan, np.nan))) for each in names]
        band = (np.nan, np.nan) if curve.draws is None else curve.derived("allocation_exponent", method="bootstrap")[1:]
        rows.append((name, "a", a, *band))
    table = pd.DataFrame(rows, columns=["fit", "constant", "value", "low", "high"])
    figure, axes = _axes(12.0, 2.9, columns=6)
    for axis, (key, title) in zip(axes, (names | {"a": r"$a$ of $N^*\propto C^a$"}).items(), strict=True):
        for place, (_, row) in enumerate(table[table["constant"] == key].iterrows()):
            ends = (row["low"], row["high"]) if np.isfinite(row["low"]) else None
            interval(axis, row["value"], 2 - place, ends, COLOURS[row["fit"]], across=True)
            label(axis, f"{row['value']:.4g}", (row["value"], 2 - place), COLOURS[row["fit"]], shift=(0, 9), ha="center", fontsize=8.5)
        axis.set(title=title, ylim=(-0.5, 2.6))
        axis.set_yticks([2, 1, 0], list(COLOURS) if axis is axes[0] else ["", "", ""])
        axis.margins(x=0.32)
        axis.locator_params(axis="x", nbins=4)
        axis.grid(axis="y", visible=False)
    figure.supxlabel("lines: 95% intervals of the bootstrap; hollow: published without one", fontsize=9)
    return figure, table


@_styled
def frontiers_figure(draws: int) -> Drawn:
    """Loss along the frontier, less that of our fit, so that the bands can be seen."""
    found = curves(draws)
    flops = np.geomspace(1e18, 1e29, 133)
    columns: dict[str, np.ndarray] = {"flops": flops}
    figure, (left, right) = _axes(11.0, 4.4, columns=2)
    for name, curve in found.items():
        line = np.array([curve.optimal(each).loss for each in flops])
        columns[name] = line
        seen = flops <= curve.range["flops"][1]
        left.plot(flops[seen], line[seen], color=COLOURS[name], linewidth=2.2)
        left.plot(flops[~seen], line[~seen], "--", color=COLOURS[name], linewidth=1.5)
        if curve.draws is not None:
            low, high = quantile_band(curve.frontier_draws(flops))
            columns |= {f"{name}, low": low, f"{name}, high": high}
            spread(left, flops, low, high, COLOURS[name])
    _reducible(right, columns)
    label(left, "Hoffmann et al. 2022", (flops[-1], columns["Hoffmann et al. 2022"][-1]), ORANGE, shift=(0, -9), ha="right")
    label(left, "Besiroglu et al. 2024\nand our fit, 95% bands", (1e25, columns["our fit, high"][84]), BLUE, shift=(0, 18))
    note(left, "dashed: beyond the data of the fit", "upper right")
    left.set(xscale="log", xlabel="training compute (FLOP)", ylabel="optimal loss (nats per token)", title="The frontier", ylim=(1.6, 3.6))
    return figure, pd.DataFrame(columns)


def _reducible(axis: Axes, columns: dict[str, np.ndarray]) -> None:
    """Differences from our fit."""
    flops, base = columns["flops"], columns["our fit"]
    axis.axhline(0, color=BLUE, linewidth=2.2)
    spread(axis, flops, columns["our fit, low"] - base, columns["our fit, high"] - base, BLUE)
    for name in ("Hoffmann et al. 2022", "Besiroglu et al. 2024"):
        axis.plot(flops, columns[name] - base, color=COLOURS[name], linewidth=2)
    axis.axvline(1.3e22, color=BLACK, linewidth=0.8, linestyle=":")
    label(axis, "end of the data", (1.3e22, axis.get_ylim()[0]), shift=(4, 8), fontsize=8.5)
    label(axis, "Hoffmann et al. 2022", (flops[70], (columns["Hoffmann et al. 2022"] - base)[70]), ORANGE, shift=(8, 6))
    label(axis, "Besiroglu et al. 2024", (flops[-2], (columns["Besiroglu et al. 2024"] - base)[-2]), GREEN, shift=(0, -9), ha="right")
    label(axis, "95% band of our fit", (flops[-2], (columns["our fit, high"] - base)[-2]), BLUE, shift=(0, -24), ha="right")
    axis.set(
        xscale="log", xlabel="training compute (FLOP)", ylabel="difference from our fit (nats per token)", title="The same, less our fit"
    )


def published_frontiers(draws: int) -> Drawn:
    """Published frontiers to 1e29 FLOP with the bands of those that have draws."""
    shown = [fits.load(name) for name in PUBLISHED]
    flops = np.geomspace(1e18, 1e29, 200)
    columns = {"flops": flops}
    for curve in shown:
        columns[f"{curve.name} loss"] = np.array([curve.optimal(c).loss for c in flops])
        if curve.draws is not None:
            low, high = quantile_band(curve.frontier_draws(flops))
            columns |= {f"{curve.name} low": low, f"{curve.name} high": high}
    return plots.published_frontier_figure(shown), pd.DataFrame(columns)


FIGURES = (
    Entry(
        "published-frontier",
        "published compute-optimal frontiers with their bands, to 1e29 FLOP",
        published_frontiers,
        curves=tuple(PUBLISHED),
    ),
    Entry(
        "chinchilla-contours",
        "the 240 runs, equal loss, optimal size and tokens per parameter: Hoffmann, Besiroglu, our fit",
        contours_figure,
        (TABLE,),
        (HOFFMANN, BESIROGLU),
    ),
    Entry("chinchilla-constants", "their constants with 95% intervals", constants_figure, (TABLE,), (HOFFMANN, BESIROGLU)),
    Entry("chinchilla-frontiers", "their frontiers with 95% bands, and the differences", frontiers_figure, (TABLE,), (HOFFMANN, BESIROGLU)),
)
