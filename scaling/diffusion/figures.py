"""Figures of the access and the performance effect, each with the table behind it. Styled as in `scaling.plots`.

Budgets and thresholds are illustrations; growth and its bands are the trends of price performance of GPUs for machine learning (Hobbhahn &
Besiroglu 2022) and of language-model algorithms (Ho et al. 2024), and bands hold 80% over their published intervals.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import fits
from scaling.diffusion import windows
from scaling.diffusion.access import LognormalBudgets, ParetoBudgets, sobol, with_access
from scaling.diffusion.conversion import BoundedScore, Ceiling, Conversion, IndexLinear, LossPower
from scaling.diffusion.effects import Trends
from scaling.diffusion.trends import trend
from scaling.plots import BLACK, BLUE, GREEN, ORANGE, RED, _axes, _styled

HARDWARE, ALGORITHMS = "price-performance-ml-gpus", "algorithms-ho2024"
INVESTORS = {"large": (1e9, BLUE), "medium": (1e8, GREEN), "small": (1e6, ORANGE)}
THRESHOLDS = (28.0, 30.5)


def trends() -> Trends:
    """The trends of these figures, at their medians."""
    return Trends.named(HARDWARE, ALGORITHMS)


@functools.cache
def growth_draws(count: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """Growth factors a year of price performance and of algorithms, drawn from their intervals, the same at every call."""
    points = sobol(count, 2)
    return (
        trend(HARDWARE, "price_performance").growth_quantile(points[:, 0]),
        trend(ALGORITHMS, "frontier_algorithms").growth_quantile(points[:, 1]),
    )


def score() -> BoundedScore:
    """A benchmark from 0.25 (guessing) to 1 whose middle is the loss of 2e24 FLOP on the published refit of Chinchilla (an illustration)."""
    law = LossPower.of(fits.load("besiroglu2024"))
    return BoundedScore(law, middle=float(law.loss(math.log(2e24))), steepness=25.0, span=0.75, floor=0.25)


def band(values: np.ndarray, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The 10th and the 90th percentile over draws."""
    low, high = np.quantile(values, [0.1, 0.9], axis=axis)
    return low, high


@_styled
def conversion_figure() -> tuple[Figure, pd.DataFrame]:
    """The three conversions at two dates: dollars to FLOP, FLOP to a bounded score, and their composition."""
    conversion = Conversion(score(), trends())
    usd, flops = np.geomspace(1e4, 1e10, 121), np.geomspace(1e21, 1e28, 121)
    columns: dict[str, Any] = {"usd": usd, "flops_axis": flops}
    figure, axes = _axes(11.0, 3.9, columns=3)
    for years, style in ((0.0, "--"), (3.0, "-")):
        curves = (conversion.flops(usd, years), conversion.performance_of_flops(flops, years), conversion.performance(usd, years))
        for name, axis, at, values in zip(("flops", "score_of_flops", "score_of_usd"), axes, (usd, flops, usd), curves, strict=True):
            columns[f"{name}_year_{years:g}"] = values
            axis.plot(at, values, style, color=BLUE, linewidth=2.2)
            place = 70 if style == "--" else 50
            label, offset, side = ("today", (6, -8), "left") if style == "--" else (f"{years:g} years on", (-6, 6), "right")
            axis.annotate(label, (at[place], values[place]), xytext=offset, textcoords="offset points", color=BLUE, fontsize=9, ha=side)
    axes[0].set(xscale="log", yscale="log", xlabel="investment (USD)", ylabel="training compute (FLOP)", title="Hardware: $f_h$")
    axes[1].set(xscale="log", xlabel="training compute (FLOP)", ylabel="score of a benchmark (share right)", title="Algorithms: $f_a$")
    axes[2].set(xscale="log", xlabel="investment (USD)", ylabel="score of a benchmark (share right)", title="Both: $f_c = f_a \\circ f_h$")
    return figure, pd.DataFrame(columns)


@_styled
def effects_figure(years: float = 2.0, usd_marked: float = 1e7) -> tuple[Figure, pd.DataFrame]:
    """Score against investment at two dates, the later with its band: the same shift read across (access) and upwards (performance)."""
    conversion = Conversion(score(), trends())
    usd = np.geomspace(1e5, 1e11, 181)
    hardware, algorithms = growth_draws()
    shifted = np.log(usd * conversion.trends.flops_per_usd) + years * np.log(hardware * algorithms)[:, None]
    low, high = band(conversion.curve.performance(shifted))
    before, after = conversion.performance(usd, 0.0), conversion.performance(usd, years)
    figure, (axis,) = _axes(7.4, 4.8)
    axis.fill_between(usd, low, high, color=BLUE, alpha=0.18, linewidth=0)
    axis.plot(usd, before, "--", color=BLUE, linewidth=2.2)
    axis.plot(usd, after, color=BLUE, linewidth=2.2)
    axis.annotate("today", (usd[150], before[150]), xytext=(8, -10), textcoords="offset points", color=BLUE)
    axis.annotate(f"{years:g} years on, 80% band", (usd[50], high[50]), xytext=(-6, 8), textcoords="offset points", color=BLUE, ha="right")
    level, gained = float(conversion.performance(usd_marked, 0.0)), float(conversion.performance(usd_marked, years))
    cheaper = float(conversion.usd_for(level, years))
    arrow = {"arrowstyle": "->", "linewidth": 2.0, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", (cheaper, level), (usd_marked, level), arrowprops=arrow | {"color": GREEN})
    axis.annotate("", (usd_marked, gained), (usd_marked, level), arrowprops=arrow | {"color": RED})
    axis.plot([usd_marked], [level], "o", color=BLACK, markersize=7, zorder=4)
    thin = {"arrowstyle": "-", "linewidth": 0.7}
    text = f"access effect: the same score\nfor 1/{usd_marked / cheaper:.0f} of the money"
    place = (math.sqrt(cheaper * usd_marked), level)
    axis.annotate(text, place, xytext=(0.56, 0.3), textcoords="axes fraction", color=GREEN, arrowprops=thin | {"color": GREEN})
    text = f"performance effect: {100 * (gained - level):.0f} points more\nfor the same money"
    place = (usd_marked, (level + gained) / 2)
    axis.annotate(text, place, xytext=(0.56, 0.46), textcoords="axes fraction", color=RED, arrowprops=thin | {"color": RED})
    axis.set(
        xscale="log",
        xlabel="investment in one training run (USD)",
        ylabel="score of a benchmark (share right)",
        title="One shift of the curve, read on two axes",
    )
    return figure, pd.DataFrame(
        {"usd": usd, "score_before": before, "score_after": after, "score_after_low": low, "score_after_high": high}
    )


@_styled
def investors_figure(ceiling: float | None = None, budget_growth: float = 2.4) -> tuple[Figure, pd.DataFrame]:
    """Performance over time of a large, a medium and a small investor; with a ceiling they meet at it, one after the other.

    Performance is an index: decades of effective compute. Budgets grow by `budget_growth` a year (Cottier et al. 2024).
    """
    flat, times = IndexLinear(scale=1 / math.log(10)), np.linspace(0.0, 8.0, 97)
    curve = flat if ceiling is None else Ceiling(flat, ceiling)
    hardware, algorithms = growth_draws()
    figure, (axis,) = _axes(7.6, 4.8)
    columns: dict[str, np.ndarray] = {"years": times}
    growth = math.log(budget_growth * trends().shared)
    for who, (usd, colour) in INVESTORS.items():
        start = math.log(usd * trends().flops_per_usd)
        middle = curve.performance(start + growth * times)
        low, high = band(curve.performance(start + np.log(budget_growth * hardware * algorithms)[:, None] * times))
        columns |= {who: middle, f"{who}_low": low, f"{who}_high": high}
        axis.fill_between(times, low, high, color=colour, alpha=0.16, linewidth=0)
        axis.plot(times, middle, color=colour, linewidth=2.4)
        if ceiling is None:
            text = f"{who}, \\${_money(usd)}"
            axis.annotate(text, (8, middle[-1]), xytext=(5, 0), textcoords="offset points", color=colour, fontsize=9, va="center")
        if ceiling is not None:
            at = float(Ceiling(flat, ceiling).reached(start, growth))
            axis.plot([at], [ceiling], "o", color=colour, markersize=7, zorder=4)
            text, side = f"{who}, \\${_money(usd)}:\n{at:.1f} years", "right" if who == "large" else "left"
            axis.annotate(text, (at, ceiling), xytext=(0, 7), textcoords="offset points", color=colour, fontsize=9, ha=side)
    if ceiling is None:
        for threshold in THRESHOLDS:
            _mark_windows(axis, flat, threshold, growth)
    ylabel = "capability index (decades of effective compute)"
    title = (
        "Everyone gains alike, and arrives one after the other" if ceiling is None else "With a ceiling the small catch up in finite time"
    )
    axis.set(xlabel="years", ylabel=ylabel, title=title, xlim=(0, 8))
    text = "" if ceiling is not None else "arrows: the window between the first and the last\n"
    text += "bands: the middle 80% over the trends' intervals"
    axis.annotate(text, (0.98, 0.02), xycoords="axes fraction", fontsize=8.5, ha="right", va="bottom", color="#777777")
    if ceiling is not None:
        axis.set_ylim(top=ceiling + 0.6)
    return figure, pd.DataFrame(columns)


def _mark_windows(axis: Axes, curve: IndexLinear, threshold: float, growth: float) -> None:
    """A threshold with each investor's arrival, and the window between the first and the last."""
    starts = [math.log(usd * trends().flops_per_usd) for usd, _ in INVESTORS.values()]
    arrivals = [float(windows.time_to_grow(curve.inverse(threshold) - start, growth)) for start in starts]
    axis.axhline(threshold, color=BLACK, linewidth=0.8, linestyle=":")
    axis.annotate(
        "", (arrivals[-1], threshold), (arrivals[0], threshold), arrowprops={"arrowstyle": "<->", "color": BLACK, "linewidth": 1.2}
    )
    for arrival, (_, colour) in zip(arrivals, INVESTORS.values(), strict=True):
        axis.plot([arrival], [threshold], "o", color=colour, markersize=6, zorder=4)
    text = f"{arrivals[-1] - arrivals[0]:.1f} years"
    place = ((arrivals[1] + arrivals[-1]) / 2, threshold)
    axis.annotate(text, place, xytext=(0, 5), textcoords="offset points", fontsize=9, ha="center")


@_styled
def access_counts_figure(cost_usd: float = 1e9, budget_growth: float = 1.0) -> tuple[Figure, pd.DataFrame]:
    """Actors who can pay for one capability over time: an S-curve of lognormal budgets, and Pareto tails that grow until all have it."""
    times = np.linspace(0.0, 12.0, 97)
    hardware, algorithms = growth_draws()
    shared = (hardware * algorithms)[:, None]
    cases = {
        "lognormal budgets": (LognormalBudgets(10_000, 1e5, 2.5), BLUE),
        "Pareto budgets, exponent 1": (ParetoBudgets(10_000, 1e4, 1.0), ORANGE),
        "Pareto budgets,\nexponent 0.5": (ParetoBudgets(10_000, 1e4, 0.5), GREEN),
    }
    figure, (axis,) = _axes(7.6, 4.8)
    columns: dict[str, np.ndarray] = {"years": times}
    spots = ((40, (-8, 10), "right"), (36, (10, -12), "left"), (3, (-6, 30), "left"))
    for (name, (budgets, colour)), (place, offset, side) in zip(cases.items(), spots, strict=True):
        middle = with_access(budgets, cost_usd, years=times, shared=trends().shared, budget_growth=budget_growth)
        low, high = band(with_access(budgets, cost_usd, years=times, shared=shared, budget_growth=budget_growth))
        column = name.replace("\n", " ")
        columns |= {column: middle, f"{column}, low": low, f"{column}, high": high}
        axis.fill_between(times, low, high, color=colour, alpha=0.16, linewidth=0)
        axis.plot(times, middle, color=colour, linewidth=2.4)
        axis.annotate(name, (times[place], middle[place]), xytext=offset, textcoords="offset points", color=colour, ha=side)
    axis.axhline(10_000, color=BLACK, linewidth=0.8, linestyle=":")
    axis.annotate("all 10,000 actors", (0, 10_000), xytext=(4, -13), textcoords="offset points", fontsize=9)
    title = f"Actors who can pay for what costs \\${_money(cost_usd)} today (80% bands)"
    axis.set(yscale="log", ylim=(0.3, 2e4), xlim=(0, 12), xlabel="years", ylabel="number of actors with access", title=title)
    return figure, pd.DataFrame(columns)


@_styled
def windows_figure() -> tuple[Figure, pd.DataFrame]:
    """The diffusion window against the date of discovery: constant where budgets grow alike, longer and longer where the follower's stands still."""
    times = np.linspace(0.0, 6.0, 61)
    hardware, algorithms = growth_draws()
    cases = {"follower's budget grows alike (2.4x)": (2.4, BLUE), "grows by 1.5x": (1.5, GREEN), "stands still": (1.0, ORANGE)}
    figure, (axis,) = _axes(7.6, 4.8)
    columns: dict[str, np.ndarray] = {"discovery_years": times}
    fixed = {"leader_usd": 1e9, "follower_usd": 1e8, "leader_growth": 2.4, "penalty": 4.0}
    for name, (growth, colour) in cases.items():
        middle = windows.window(
            **fixed, follower_growth=growth, discovery=times, price_performance=trends().price_performance, algorithms=trends().algorithms
        )
        drawn = windows.window(
            **fixed, follower_growth=growth, discovery=times, price_performance=hardware[:, None], algorithms=algorithms[:, None]
        )
        low, high = band(drawn)
        columns |= {name: middle, f"{name}, low": low, f"{name}, high": high}
        axis.fill_between(times, low, high, color=colour, alpha=0.16, linewidth=0)
        axis.plot(times, middle, color=colour, linewidth=2.4)
        place: dict[str, Any] = (
            {"xytext": (0, -13), "va": "top"} if colour == BLUE else {"xytext": (0, 5), "va": "bottom"}
        )  # blue: below its band
        axis.annotate(name, (times[36], middle[36]), textcoords="offset points", color=colour, fontsize=9, ha="right", **place)
    title = "How long a capability stays with its discoverer (80% bands)"
    axis.set(xlabel="discovery by the leader (years from now)", ylabel="years until the follower has it", title=title, ylim=(0, None))
    return figure, pd.DataFrame(columns)


def _money(usd: float) -> str:
    for size, unit in ((1e9, " billion"), (1e6, " million"), (1e3, ",000")):
        if usd >= size:
            return f"{usd / size:g}{unit}"
    return f"{usd:g}"
