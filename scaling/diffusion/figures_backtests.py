"""Figures of the back-tests: bands beside what was seen, the fall of costs, counts of models, and the conflict between penalty and lag."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from scaling.diffusion import windows
from scaling.diffusion.access import AllocationForecast
from scaling.diffusion.backtests import YEAR, Backtest, coverage, lag_conflict, load_backtests, run_backtests
from scaling.diffusion.trends import load_trends
from scaling.plots import BLACK, BLUE, GREEN, ORANGE, RED, SKY, _axes, _styled

_THIN = {"arrowstyle": "-", "color": BLACK, "linewidth": 0.7}
_PLAIN = FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
COST_GROUPS = {"ImageNet, 93%": "93% on ImageNet", "GPT-3 level": "the level of GPT-3", "GPT-2, 1.5B": "GPT-2 (1.5B)"}


@_styled
def backtests_figure() -> tuple[Figure, pd.DataFrame]:
    """Every back-test: 80% band and median over what was observed, which is 1; hits blue, misses red, hindcasts hollow."""
    table = run_backtests()
    shares = coverage(table).set_index("kind")
    figure, (axis,) = _axes(8.6, 0.31 * len(table) + 1.6)
    for place, (_, row) in enumerate(table.iloc[::-1].iterrows()):
        colour = {"hit": BLUE, "miss": RED}.get(row["verdict"], BLACK)
        axis.plot([row["low"] / row["observed"], row["high"] / row["observed"]], [place, place], color=colour, linewidth=3, alpha=0.55)
        axis.plot(
            row["median"] / row["observed"], place, "o", color=colour, markerfacecolor="white" if row["hindcast"] else colour, markersize=6
        )
    axis.set_yticks(range(len(table)), table["name"].iloc[::-1], fontsize=8.5)
    axis.axvline(1, color=BLACK, linewidth=1)
    forecasts = shares.loc["forecasts"]
    title = f"Forecasts: {forecasts['hits']:.0f} of {forecasts['scored']:.0f} observations inside their 80% bands"
    axis.set(
        xscale="log",
        xlabel="forecast over observation (80% band, median)\nblue: hit, red: miss, black: not refuted, hollow: hindcast",
        title=title,
    )
    axis.xaxis.set_major_formatter(_PLAIN)
    axis.grid(axis="y", visible=False)
    return figure, table


@_styled
def cost_figure(group: str) -> tuple[Figure, pd.DataFrame]:
    """Cost of one training result over the years: what was reported, and the bands of the back-tests from their bases on."""
    tests = [test for test in load_backtests() if test.group == group]
    figure, (axis,) = _axes(7.6, 4.8)
    colours, rows, points, labels = (ORANGE, GREEN, SKY, BLUE), [], {}, []
    latest = {(test.method.model_dump_json(), test.forecast_on): test for test in sorted(tests, key=lambda each: each.observed.date)}
    for test, colour in zip(latest.values(), colours * 2, strict=False):
        days, low, median, high = _fan(test)
        known = f"{'hindcast' if test.hindcast else 'known'} {test.forecast_on:%Y-%m}"
        rows.append(pd.DataFrame({"series": f"{test.name}, {known}", "year": days, "low": low, "usd": median, "high": high}))
        axis.fill_between(days, low, high, color=colour, alpha=0.2, linewidth=0)
        axis.plot(days, median, color=colour, linewidth=1.8, linestyle="--" if test.hindcast else "-")
        labels.append((known, float(days[-1]), float(median[-1]), colour))
    _label_ends(axis, labels)
    for test in tests:
        assert test.cost is not None  # a group of costs
        points |= {test.cost.base.date: test.cost.base.value, test.observed.date: test.observed.value}
    dates = sorted(points)
    reported = pd.DataFrame({"series": "reported", "year": [_year(day) for day in dates], "usd": [points[day] for day in dates]})
    axis.plot(reported["year"], reported["usd"], "o", color=BLACK, markersize=6, zorder=4)
    for _, row in reported.iterrows():
        text = f"\\${row['usd']:,.0f}" if row["usd"] >= 100 or row["usd"].is_integer() else f"\\${row['usd']:.2f}"
        axis.annotate(text, (row["year"], row["usd"]), xytext=(-8, -7), textcoords="offset points", fontsize=9, ha="right")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.margins(x=0.2, y=0.12)
    axis.set(
        yscale="log",
        xlabel="year",
        ylabel="cost of training (USD)",
        title=f"Cost of {COST_GROUPS[group]}: reported, and forecast (80% bands)",
    )
    axis.yaxis.set_major_formatter(_PLAIN)
    low, high = axis.get_ylim()
    if high / low < 300:
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.yaxis.set_minor_formatter(NullFormatter())
    text = "dots: reported; lines: the trends\nknown at the date, or in hindsight"
    axis.annotate(text, (0.02, 0.02), xycoords="axes fraction", fontsize=8.5, va="bottom", color="#777777")
    return figure, pd.concat([reported, *rows], ignore_index=True)


def _label_ends(axis: Axes, labels: list[tuple[str, float, float, str]]) -> None:
    """Names of the fans at their ends, those that end at about the same place one under the other; of fans that end early, under their lines."""
    year_above, usd_above, shift, last = -np.inf, np.inf, 0.0, max(year for _, year, _, _ in labels)
    for text, year, usd, colour in sorted(labels, key=lambda each: -each[2]):
        near = abs(year - year_above) < 0.5 and usd_above / usd < 2
        shift = shift - 11 * (1 - np.log2(usd_above / usd)) if near else 0.0
        style: dict[str, Any] = (
            {"xytext": (8, shift), "va": "center"} if year > last - 0.5 else {"xytext": (0, -4), "va": "top", "ha": "right"}
        )
        axis.annotate(text, (year, usd), textcoords="offset points", color=colour, fontsize=8.5, **style)
        year_above, usd_above = year, usd


def _fan(test: Backtest) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Year, low, median and high from the base's date to the observation's."""
    assert test.cost is not None
    start, span = test.cost.base.date, (test.observed.date - test.cost.base.date).days
    dates = [start + datetime.timedelta(days=round(part * span)) for part in np.linspace(0, 1, 25)]
    trends = load_trends()
    looks = [test.model_copy(update={"observed": test.observed.model_copy(update={"date": day})}).band(trends) for day in dates]
    low, median, high = np.array(looks).T
    return np.array([_year(day) for day in dates]), low, median, high


def _year(day: datetime.date) -> float:
    return day.year + (day - datetime.date(day.year, 1, 1)).days / YEAR


@_styled
def models_figure() -> tuple[Figure, pd.DataFrame]:
    """Models above 1e25 and 1e26 FLOP to 2028 by the closed form of the allocation model, with the published forecast and a later count."""
    years, trends, rows = list(range(2025, 2029)), load_trends(), []
    ends = [2025.0, *(year + 1.0 for year in years)]
    figure, (axis,) = _axes(7.6, 4.8)
    for threshold, base, colour, beside in ((1e25, 24.0, BLUE, 2029.09), (1e26, 0.0, RED, 2029.21)):
        total = base + np.pad(AllocationForecast().draws(years, threshold).cumsum(axis=1), ((0, 0), (1, 0)))
        low, median, high = np.quantile(total, [0.05, 0.5, 0.95], axis=0)
        rows.append(pd.DataFrame({"threshold_flops": threshold, "year": ends, "low": low, "models": median, "high": high, "what": "ours"}))
        axis.fill_between(ends, low, high, color=colour, alpha=0.18, linewidth=0)
        axis.plot(ends, median, color=colour, linewidth=2.4)
        exponent = f"{np.log10(threshold):.0f}"
        place = (2027.5, float(np.interp(2027.5, ends, median)))
        text = f"above $10^{{{exponent}}}$ FLOP"
        axis.annotate(text, place, xytext=(-8, 8), textcoords="offset points", color=colour, ha="right")
        published = trends[f"models-above-1e{exponent}"]
        figures = {"low": published.low, "models": published.value, "high": published.high}
        rows.append(pd.DataFrame({"threshold_flops": threshold, "year": ends[-1:], **figures, "what": "published"}))
        bars = np.abs(np.array([[published.low], [published.high]], float) - published.value)
        axis.errorbar([beside], [published.value], bars, fmt="D", color=colour, capsize=4, markerfacecolor="white")
    axis.annotate("published\n(90%)", (2029.15, 310), fontsize=9, ha="center", va="bottom")
    rows.append(pd.DataFrame({"threshold_flops": [1e25], "year": 2025.43, "models": 30, "what": "identified at least"}))
    axis.plot([2025.43], [30], "^", color=BLACK, zorder=4)
    axis.annotate(
        "June 2025: at least 30 identified", (2025.43, 30), xytext=(-40, 110), textcoords="offset points", fontsize=9, arrowprops=_THIN
    )
    axis.set_xticks(ends, [f"end {end - 1:.0f}" for end in ends])
    axis.set(
        ylabel="number of models so far",
        title="Models above a threshold of training compute (90% bands)",
        xlim=(2024.9, 2029.4),
        ylim=(0, 350),
    )
    return figure, pd.concat(rows, ignore_index=True)


@_styled
def lag_conflict_figure() -> tuple[Figure, pd.DataFrame]:
    """Lag against a persistent penalty at two compute ratios, and the observed lag: the claimed 4x lies above what the lag allows."""
    table, trends = lag_conflict(), load_trends()
    observed = trends["lag-china-index"]
    penalties = np.geomspace(0.3, 6.0, 100)
    figure, (axis,) = _axes(7.4, 4.8)
    assert observed.low is not None
    assert observed.high is not None
    axis.axhspan(observed.low, observed.high, color=GREEN, alpha=0.15, linewidth=0)
    axis.axhline(observed.value, color=GREEN, linewidth=1.6)
    text = f"observed: mean {observed.value:g} months, range {observed.low:g} to {observed.high:g}"
    axis.annotate(text, (penalties[0], observed.high), xytext=(4, -14), textcoords="offset points", color=GREEN, fontsize=9)
    for (_, row), colour in zip(table.iterrows(), (BLUE, ORANGE), strict=True):
        months = 12 * windows.lag(compute_ratio=row["compute_ratio"], penalty=penalties, growth=4.6 * 3.0)
        axis.plot(penalties, months, color=colour, linewidth=2.2)
        axis.plot([row["implied_penalty"]], [row["observed_months"]], "o", color=colour, markersize=7, zorder=4)
        below = colour == BLUE
        text = f"implied {row['implied_penalty']:.2f}"
        place: dict[str, Any] = {"xytext": (6, -14)} if below else {"xytext": (-4, 7), "ha": "right"}
        axis.annotate(text, (row["implied_penalty"], row["observed_months"]), textcoords="offset points", color=colour, fontsize=9, **place)
        axis.plot([4], [row["lag_months_P4"]], "s", color=colour, markersize=7, zorder=4)
        text = f"leader has {row['compute_ratio']:g}x the compute"
        at = 0.45 if below else 3.0
        place = {"xytext": (8, -10)} if below else {"xytext": (-6, 8), "ha": "right"}
        axis.annotate(text, (at, np.interp(at, penalties, months)), textcoords="offset points", color=colour, fontsize=9, **place)
    axis.axvline(4, color=RED, linewidth=1.2, linestyle=":")
    axis.annotate("the claimed\n2 x 2 = 4", (4, 2.2), xytext=(6, 0), textcoords="offset points", color=RED, fontsize=9)
    axis.set(
        xscale="log",
        ylim=(0, 21),
        xlabel="persistent compute penalty",
        ylabel="months behind",
        title="A persistent 4x against an observed lag of 7 months",
    )
    axis.set_xticks([0.5, 1, 2, 4], ["0.5", "1", "2", "4"])
    axis.set_yticks(range(0, 21, 5))
    axis.xaxis.set_minor_formatter(NullFormatter())
    return figure, table
