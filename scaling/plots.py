"""Figures: each function draws one from numbers and returns it. Colours are those of Okabe & Ito, told apart by everyone."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from fits.curve import Curve
from scaling.measured import Measurement

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#222222",
)
STYLE: Any = {
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}
DPI = 150


P = ParamSpec("P")
R = TypeVar("R")


def _styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draws in the package's style and leaves the caller's matplotlib settings alone."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


def save(figure: Figure, path: str | Path, dpi: int = DPI) -> Path:
    """Writes the figure as PNG, or as PDF or SVG by the path's suffix, whole or not at all; returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    form = path.suffix.lower().removeprefix(".")
    # Without stamps of software and time the same numbers give the same file.
    settle(figure)
    stamp = {"pdf": "CreationDate", "svg": "Date"}.get(form, "Software")
    figure.savefig(temporary, format=form if form in ("pdf", "svg") else "png", dpi=dpi, metadata={stamp: None})
    temporary.replace(path)
    return path


def settle(figure: Figure) -> None:
    """Lays a figure out once and for all: the constrained layout would move a little with every drawing, and so would the bytes."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def _axes(width: float = 7.0, height: float = 4.6, columns: int = 1) -> tuple[Figure, list[Axes]]:
    # Not through pyplot: no window system is asked for, the caller's backend stays, and nothing keeps the figure alive.
    figure = Figure(figsize=(width, height))
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _power_of_ten(value: float) -> str:
    exponent = int(np.floor(np.log10(value) + 1e-9))
    mantissa = value / 10**exponent
    return f"$10^{{{exponent}}}$" if abs(mantissa - 1) < 1e-6 else f"${mantissa:.3g}\\times10^{{{exponent}}}$"


def _plain_log_ticks(axis: Axes) -> None:
    """Losses on a log axis with plain numbers, minor ticks included."""
    form = FuncFormatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_major_formatter(form)
    low, high = axis.get_ylim()
    axis.yaxis.set_minor_formatter(form if high / low < 8 else NullFormatter())


@_styled
def isoflop_figure(runs: pd.DataFrame, curve: Curve) -> Figure:
    """Loss against model size, one profile a budget, with the fitted law at that budget; the held-out budget is hollow."""
    figure, (axis,) = _axes()
    budgets = sorted(runs["budget"].unique())
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(budgets)))
    for budget, shade in zip(budgets, shades, strict=True):
        part = runs[runs["budget"] == budget].groupby("params", as_index=False)[["loss", "flops", "tokens"]].mean()
        held = bool(runs.loc[runs["budget"] == budget, "holdout"].any())
        axis.plot(part["params"], part["loss"], "o", color=shade, markerfacecolor="white" if held else shade, markersize=6, zorder=3)
        sizes = np.geomspace(part["params"].min() / 1.25, part["params"].max() * 1.25, 60)
        tokens = budget / _flops_per_token(runs, sizes)
        losses = curve.loss(params=sizes, tokens=tokens)
        axis.plot(sizes, losses, color=shade, linestyle="--" if held else "-", linewidth=1.4)
        label = f"{_power_of_ten(budget)} FLOP" + (",\nheld out" if held else "")
        axis.annotate(label, (sizes[-1], losses[-1]), xytext=(5, 0), textcoords="offset points", color=shade, fontsize=8.5, va="center")
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="parameters",
        ylabel="validation loss (nats per byte)",
        title="isoFLOP profiles: points are runs, lines the fitted law",
    )
    axis.margins(x=0.16)
    _plain_log_ticks(axis)
    return figure


def _flops_per_token(runs: pd.DataFrame, sizes: np.ndarray) -> np.ndarray:
    """FLOP per token at other sizes than the runs': smooth in log size through what the runs really cost."""
    cost = (runs["flops"] / runs["tokens"]).groupby(runs["params"]).first()
    degree = min(2, len(cost) - 1)
    return np.exp(np.polyval(np.polyfit(np.log(cost.index.to_numpy(float)), np.log(cost.to_numpy(float)), degree), np.log(sizes)))


@_styled
def frontier_figure(runs: pd.DataFrame, curve: Curve, error: float, baseline_error: float) -> Figure:
    """Loss against compute: every run, the fitted frontier with its band, and the budget that the fit did not see."""
    figure, (axis,) = _axes()
    held = runs["holdout"].astype(bool)
    grid = np.geomspace(runs["flops"].min() / 1.5, runs["flops"].max() * 10, 120)
    low, high = np.quantile(curve.frontier_draws(grid), [0.025, 0.975], axis=0)
    axis.fill_between(grid, low, high, color=BLUE, alpha=0.18, linewidth=0)
    axis.plot(grid, [curve.optimal(c).loss for c in grid], color=BLUE, linewidth=2)
    axis.plot(runs.loc[~held, "flops"], runs.loc[~held, "loss"], "o", color=BLACK, alpha=0.55, markersize=4.5)
    axis.plot(runs.loc[held, "flops"], runs.loc[held, "loss"], "D", color=RED, markersize=6)
    predicted = curve.loss(params=runs.loc[held, "params"].to_numpy(), tokens=runs.loc[held, "tokens"].to_numpy())
    axis.plot(runs.loc[held, "flops"], predicted, "_", color=BLUE, markersize=14, markeredgewidth=2)
    axis.annotate("fitted frontier, 95% band", (grid[40], low[40]), xytext=(-6, -18), textcoords="offset points", color=BLUE, ha="right")
    if held.any():
        text = f"held out: median error {error:.2%}\n(no change: {baseline_error:.1%})\nbars: predicted"
        axis.annotate(
            text,
            (runs.loc[held, "flops"].iloc[0], runs.loc[held, "loss"].max()),
            xytext=(8, 16),
            textcoords="offset points",
            color=RED,
            fontsize=9,
        )
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="training compute (FLOP, exact count)",
        ylabel="validation loss (nats per byte)",
        title="The compute-optimal frontier",
    )
    _plain_log_ticks(axis)
    return figure


@_styled
def multiplier_figure(multipliers: dict[str, Measurement], names: dict[str, str]) -> Figure:
    """Compute multiplier of each variant: pairs of runs as points along the budget, their mean with its interval beside them."""
    figure, (axis,) = _axes()
    colours = dict(zip(multipliers, (ORANGE, GREEN, PURPLE, SKY), strict=False))
    budgets = sorted({budget for found in multipliers.values() for budget in found.pairs["budget"]})
    for shift, (arm, found) in enumerate(multipliers.items()):
        mean = found.multiplier
        offset = 1 + 0.12 * (shift - (len(multipliers) - 1) / 2)
        axis.plot(found.pairs["budget"] * offset, found.pairs["multiplier"], "o", color=colours[arm], alpha=0.6)
        place = max(budgets) * (2.0 + 0.9 * shift)
        axis.errorbar(
            [place],
            [mean.value],
            [[mean.value - mean.low], [mean.high - mean.value]],
            fmt="D",
            color=colours[arm],
            capsize=5,
            markersize=7,
        )
        axis.annotate(
            f"{names.get(arm, arm)}\n{mean.value:.2f}\n[{mean.low:.2f}, {mean.high:.2f}]",
            (place, mean.high),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            color=colours[arm],
            fontsize=9,
        )
    axis.axhline(1, color=BLACK, linewidth=1)
    between = math.sqrt(budgets[0] * budgets[1]) if len(budgets) > 1 else budgets[0]  # where no pairs are
    axis.annotate("no difference", (between, 1), xytext=(0, -12), textcoords="offset points", fontsize=8.5, ha="center")
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="training compute of the pair (FLOP)",
        ylabel="compute multiplier over the baseline",
        title="Compute saved at equal loss: pairs, mean and 95% interval",
    )
    axis.margins(y=0.28, x=0.1)
    _plain_log_ticks(axis)
    low, high = axis.get_ylim()
    axis.set_yticks([tick for tick in (0.1, 0.25, 0.5, 0.8, 0.9, 1, 1.25, 1.5, 2, 3, 4, 8, 16) if low < tick < high])
    axis.yaxis.set_minor_formatter(NullFormatter())
    return figure


@_styled
def penalty_figure(penalties: pd.DataFrame, titles: dict[str, str]) -> Figure:
    """Penalty of a follower with a 2x structure and a 2x data gap against the leader's compute, a panel a curve, a line a setting."""
    curves = list(titles)
    figure, axes = _axes(4.2 * len(curves), 4.8, columns=len(curves))
    lines: dict[str, Any] = {
        "free": {"color": BLUE, "linewidth": 2.4},
        "tokens fixed": {"color": ORANGE, "linewidth": 3.0, "alpha": 0.6},
        "size fixed": {"color": PURPLE, "linewidth": 1.6, "linestyle": "--"},
        "15T unique tokens": {"color": RED, "linewidth": 2.0},
        "300T unique tokens": {"color": GREEN, "linewidth": 2.0},
    }
    for axis, curve in zip(axes, curves, strict=True):
        part = penalties[penalties["curve"] == curve]
        for setting, style in lines.items():
            line = part[(part["setting"] == setting) & np.isfinite(part["value"])].sort_values("flops")
            axis.plot(line["flops"], line["value"], label=setting, **style)
        axis.set(xscale="log", yscale="log", ylim=(3.4, 120), xlabel="leader's training compute (FLOP)", title=titles[curve])
        _plain_log_ticks(axis)
        axis.set_yticks([4, 5, 10, 20, 50, 100])
        axis.yaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("compute penalty at equal loss (structure 2x, data 2x)")
    axes[0].legend(loc="upper left", fontsize=9)
    return figure


@_styled
def diffusion_figure(table: pd.DataFrame, marks: dict[str, float], title: str) -> Figure:
    """Loss against investment at two dates: the curve's shift read as access (across) and performance (down), with two actors."""
    figure, (axis,) = _axes()
    dates = sorted(table["years"].unique())
    for years, colour in zip(dates, (SKY, BLUE), strict=True):
        line = table[table["years"] == years]
        axis.plot(line["usd"], line["loss"], color=colour, linewidth=2.2)
        axis.annotate(
            "today" if years == 0 else f"{years:g} years on",
            (line["usd"].iloc[2], line["loss"].iloc[2]),
            xytext=(6, 6),
            textcoords="offset points",
            color=colour,
        )
    _effects(axis, marks)
    _actors(axis, marks)
    text = f"hollow: today; filled: {max(dates):g} years on"
    axis.annotate(text, (0.98, 0.98), xycoords="axes fraction", fontsize=8.5, ha="right", va="top", color="#777777")
    axis.set(xscale="log", xlabel="investment in one training run (US dollars)", ylabel="loss of the curve (nats per token)", title=title)
    return figure


def _effects(axis: Axes, marks: dict[str, float]) -> None:
    """Arrows from the leader's place of today: across to the same loss for less, down to a lower loss for as much."""
    arrow = {"arrowstyle": "->", "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0}
    axis.annotate(
        "",
        (marks["access_usd"], marks["leader_loss_before"]),
        (marks["leader_usd"], marks["leader_loss_before"]),
        arrowprops=arrow | {"color": GREEN},
    )
    axis.annotate(
        "",
        (marks["leader_usd"], marks["leader_loss_after"]),
        (marks["leader_usd"], marks["leader_loss_before"]),
        arrowprops=arrow | {"color": RED},
    )
    cheaper = marks["leader_usd"] / marks["access_usd"]
    axis.annotate(
        f"access effect:\nthe same loss for\n1/{cheaper:.0f} of the money",
        (marks["access_usd"], marks["leader_loss_before"]),
        xytext=(4, 5),
        textcoords="offset points",
        color=GREEN,
        fontsize=9,
    )
    axis.annotate(
        "performance\neffect",
        (marks["leader_usd"], (marks["leader_loss_before"] + marks["leader_loss_after"]) / 2),
        xytext=(-8, 0),  # a curve is on the other side
        textcoords="offset points",
        color=RED,
        fontsize=9,
        ha="right",
        va="center",
    )


def _actors(axis: Axes, marks: dict[str, float]) -> None:
    """Both actors before and after."""
    for who, colour in (("leader", BLACK), ("follower", PURPLE)):
        for when, fill in (("before", "white"), ("after", colour)):
            axis.plot(marks[f"{who}_usd"], marks[f"{who}_loss_{when}"], "o", color=colour, markerfacecolor=fill, markersize=8, zorder=4)
        axis.annotate(
            who,
            (marks[f"{who}_usd"], marks[f"{who}_loss_before"]),
            xytext=(10, 4),
            textcoords="offset points",
            color=colour,
        )


@_styled
def published_frontier_figure(curves: Sequence[Curve]) -> Figure:
    """Optimal loss against compute of published curves, with the band of those that have draws, and how far they extrapolate."""
    figure, (axis,) = _axes()
    grid = np.geomspace(1e18, 1e29, 200)
    for curve, colour in zip(curves, (BLUE, ORANGE, GREEN, PURPLE), strict=False):
        line = np.array([curve.optimal(c).loss for c in grid])
        if curve.draws is not None:
            low, high = np.quantile(curve.frontier_draws(grid), [0.025, 0.975], axis=0)
            axis.fill_between(grid, low, high, color=colour, alpha=0.18, linewidth=0)
        inside = grid <= curve.range["flops"][1]
        axis.plot(grid[inside], line[inside], color=colour, linewidth=2.4)
        axis.plot(grid[~inside], line[~inside], color=colour, linewidth=1.6, linestyle="--")
        axis.annotate(
            f"{curve.name}{', 95% band' if curve.draws is not None else ''}",
            (grid[-1], line[-1]),
            xytext=(0, 20 if curve is curves[0] else -16),
            textcoords="offset points",
            color=colour,
            ha="right",
        )
    axis.margins(y=0.1)
    axis.axvline(max(curve.range["flops"][1] for curve in curves), color=BLACK, linewidth=0.8, linestyle=":")
    axis.annotate(
        "end of the data",
        (max(curve.range["flops"][1] for curve in curves), axis.get_ylim()[1]),
        xytext=(4, -12),
        textcoords="offset points",
        fontsize=8.5,
    )
    axis.set(
        xscale="log",
        xlabel="training compute (FLOP)",
        ylabel="optimal loss (nats per token)",
        title="Published compute-optimal frontiers, extrapolated to 1e29 FLOP",
    )
    return figure


@_styled
def fit_figure(curve: Curve) -> Figure:
    """Predicted against measured output of the rows behind a fit, and residuals against compute (or the law's first input)."""
    runs, output = curve.sample_or_error().frame, curve.law.output
    measured, along = runs[output].to_numpy(float), "flops" if "flops" in runs else curve.law.inputs[0]
    predicted = np.asarray(curve.evaluate(**{name: runs[name].to_numpy(float) for name in curve.law.inputs}))
    positive = bool((measured > 0).all() and (predicted > 0).all())
    residual = 100 * np.log(measured / predicted) if positive else measured - predicted
    unit = " (nats per token)" if output == "loss" else ""
    figure, (left, right) = _axes(9.5, 4.4, columns=2)
    ends = [float(min(predicted.min(), measured.min())), float(max(predicted.max(), measured.max()))]
    left.plot(ends, ends, color=BLACK, linewidth=1)
    left.plot(predicted, measured, "o", color=BLUE, markersize=4, alpha=0.6)
    left.set(xlabel=f"predicted {output}{unit}", ylabel=f"measured {output}", title=f"{curve.law.name}: {len(runs)} runs")
    right.axhline(0, color=BLACK, linewidth=1)
    right.plot(runs[along], residual, "o", color=BLUE, markersize=4, alpha=0.6)
    x_label = "training compute (FLOP)" if along == "flops" else along.replace("_", " ")
    right.set(xlabel=x_label, ylabel=f"residual of log {output} (%)" if positive else f"residual of {output}", title="Residuals")
    if (runs[along] > 0).all():
        right.set_xscale("log")
    if positive:
        left.set(xscale="log", yscale="log")
        _plain_log_ticks(left)
        left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        left.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return figure
