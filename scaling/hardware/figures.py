"""Figures of the hardware answers. Styled as in `scaling.plots`; every number with its band where it has one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from scaling.plots import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, _axes, _styled


@_styled
def hours_figure(table: pd.DataFrame, title: str) -> Figure:
    """Days of a run by chip, with 80% bands; what is published is black. Dollars of buying the share stand beside."""
    figure, (axis,) = _axes(7.6, 4.4)
    rows = table[table["hours"].notna()].iloc[::-1].reset_index(drop=True)
    most = float(rows[["hours", "hours_high"]].max().max()) / 24
    for place, (_, row) in enumerate(rows.iterrows()):
        days = row["hours"] / 24
        known = row["how"] == "published"
        axis.barh(place, days, color=BLACK if known else BLUE, alpha=1.0 if known else 0.85, height=0.62)
        end = days
        if not known:
            end = row["hours_high"] / 24
            axis.errorbar(days, place, xerr=[[days - row["hours_low"] / 24], [end - days]], color=BLACK, capsize=3, linewidth=1.2)
        dollars = "" if known else f", {row['usd_buy'] / 1e6:.1f}M USD"
        axis.annotate(f"{days:.0f} days{dollars}", (end, place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=9)
    labels = [f"{row['chip']}, {row['format']}\n({row['how']})" for _, row in rows.iterrows()]
    axis.set_yticks(range(len(rows)), labels, fontsize=9)
    axis.set(xlim=(0, most * 1.4), xlabel="days of training, with 80% band (dollars: share of bought chips and electricity)", title=title)
    axis.grid(axis="y", visible=False)
    return figure


@_styled
def roofline_figure(points: pd.DataFrame, chips: Mapping[str, tuple[float, float]]) -> Figure:
    """Attainable FLOP/s against FLOP a byte of two chips, by (peak FLOP/s, GB/s); the parts of training and decoding as marks."""
    figure, (axis,) = _axes(7.8, 4.9)
    grid = np.geomspace(0.6, 6000, 300)
    for (name, (peak, bandwidth)), colour in zip(chips.items(), (ORANGE, BLUE), strict=True):
        axis.plot(grid, np.minimum(peak, grid * bandwidth * 1e9) / 1e12, color=colour, linewidth=2.4)
        axis.annotate(
            f"{name}: {peak / 1e12:.0f} TFLOP/s, {bandwidth / 1000:.2f} TB/s, ridge {peak / bandwidth / 1e9:.0f}",
            (grid[-1], peak / 1e12),
            xytext=(0, 10 if name != "H20" else -34),  # below the numbers of the marks
            textcoords="offset points",
            ha="right",
            color=colour,
            fontsize=9.5,
        )
    for number, (_, row) in enumerate(points.iterrows(), start=1):
        axis.plot([row["flop_per_byte"]] * 2, [row["h20_tflops"], row["h100_tflops"]], color=BLACK, linewidth=0.7, alpha=0.5)
        axis.plot(row["flop_per_byte"], row["h20_tflops"], "o", color=ORANGE, markersize=6, zorder=4)
        axis.plot(row["flop_per_byte"], row["h100_tflops"], "o", color=BLUE, markersize=6, zorder=3)
        axis.annotate(
            str(number),
            (row["flop_per_byte"], min(row["h20_tflops"], row["h100_tflops"])),
            xytext=(0, -14),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            weight="bold",
        )
    key = "\n".join(f"{n}  {row['part']}: H20 = {row['h20_over_h100']:.2f} H100" for n, (_, row) in enumerate(points.iterrows(), start=1))
    axis.annotate(key, (0.46, 0.03), xycoords="axes fraction", ha="left", va="bottom", fontsize=8.5)
    axis.set(
        xscale="log",
        yscale="log",
        ylim=(0.5, 2500),
        xlabel="FLOP per byte of memory traffic (bf16)",
        ylabel="attainable TFLOP/s, nominal",
        title="Roofline of H20 and H100: training and decoding",
    )
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return figure


@_styled
def loss_figure(table: pd.DataFrame) -> Figure:
    """Chip-hours and dollars to a loss, by chip, with the band of the speed."""
    figure, axes = _axes(9.6, 4.3, columns=2)
    for chip, colour in (("H100", BLUE), ("H20", ORANGE)):
        part = table[table["chip"] == chip]
        for axis, name in zip(axes, ("hours", "usd_buy"), strict=True):
            axis.plot(part["loss"], part[name], "o-", color=colour, linewidth=2)
            axis.fill_between(part["loss"], part[f"{name}_low"], part[f"{name}_high"], color=colour, alpha=0.2, linewidth=0)
            above = chip == "H20"
            axis.annotate(
                chip,
                (part["loss"].iloc[1], part[name].iloc[1]),
                xytext=(0, 14 if above and name != "hours" else -20),
                textcoords="offset points",
                color=colour,
                ha="right" if above and name != "hours" else "left",  # a rising line is on the other side
            )
    for place, (_, row) in enumerate(table[table["chip"] == "H20"].iterrows()):
        style: dict[str, Any] = {"xytext": (0, 6), "ha": "center" if place == 0 else "right"}
        axes[0].annotate(f"{row['chips']:,} chips", (row["loss"], row["hours_high"]), textcoords="offset points", fontsize=8, **style)
    axes[0].set(ylabel="hours of training (80% bands)", title="Hours, chips growing with the run")
    axes[1].set(ylabel="US dollars (share of bought chips, electricity)", title="Dollars of the same runs (80% bands)")
    for axis in axes:
        axis.set(yscale="log", xlabel="loss of besiroglu2024 (nats per token)")
        axis.invert_xaxis()
        axis.margins(x=0.1, y=0.12)
        axis.yaxis.set_major_formatter(FuncFormatter(_short))
        axis.yaxis.set_minor_formatter(NullFormatter())
    return figure


def _short(value: float, _: int) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value:,.0f}"


@_styled
def firm_figure(table: pd.DataFrame, usd: float, days: float) -> Figure:
    """Effective compute of a budget by chip and way, a mark a software step, with the band of the speed."""
    figure, (axis,) = _axes(8.0, 4.9)
    steps = list(dict.fromkeys(table["software"]))
    lines = list(dict.fromkeys(zip(table["chip"], table["way"], strict=True)))
    colours = {
        ("H20", "buy"): ORANGE,
        ("H20", "own 4 years"): RED,
        ("H100", "buy"): SKY,
        ("H100", "own 4 years"): GREEN,
        ("H100", "rent"): BLUE,
    }
    places = np.arange(len(steps))
    for number, (chip, way) in enumerate(lines):
        part = table[(table["chip"] == chip) & (table["way"] == way)]
        at = places + 0.05 * (number - (len(lines) - 1) / 2)
        middle = part["effective_flops"].to_numpy()
        spread = [middle - part["effective_low"].to_numpy(), part["effective_high"].to_numpy() - middle]
        colour = colours.get((chip, way), PURPLE)
        axis.errorbar(at, middle, spread, fmt="o-", color=colour, capsize=3, linewidth=1.8, markersize=5)
        axis.annotate(
            f"{chip}, {way} ({part['chips'].iloc[0]:,} chips)",
            (places[-1] + 0.14, middle[-1]),  # beyond every bar
            xytext=(6, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            fontsize=9,
        )
    rented = float(table[(table["chip"] == "H100") & (table["way"] == "rent")]["effective_flops"].iloc[0])
    axis.axhline(rented, color=BLACK, linewidth=0.8, linestyle=":")
    axis.annotate("rented H100 as is", (len(steps) + 0.6, rented), xytext=(0, 4), textcoords="offset points", ha="right", fontsize=8.5)
    axis.set_xticks(places, steps, fontsize=9)
    axis.set(
        yscale="log",
        xlim=(-0.35, len(steps) + 0.65),
        ylabel="effective training compute (FLOP at equal loss, 80% bars)",
        title=f"Software first, or buy chips? {usd / 1e6:g}M USD, {days:g} days",
    )
    axis.grid(axis="x", visible=False)
    return figure
