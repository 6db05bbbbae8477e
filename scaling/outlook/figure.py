"""The page `when is it structure x data, and when not`: penalty against compute under each departure, and what the bands are made of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from scaling.outlook.departures import ANCHOR, EXCESS, SLOWER, amount
from scaling.outlook.reading import flop, number
from scaling.plots import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, _styled

if TYPE_CHECKING:
    from scaling.outlook.frontiers import Frontier

GREY = "#777777"
PRINT_DPI = 300
TOP = 12.0  # of the penalty axes, over structure x data


@_styled
def frontier_figure(found: Frontier) -> Figure:
    """One page, landscape. Lines are the first curve's own, bands the middle 90% over forms, draws and assumptions."""
    figure = Figure(figsize=(13.2, 8.6))
    axes = figure.subplots(2, 3)
    (kept, supply, laws), (serving, made, worth) = axes
    product = found.structure * found.data
    least = min(found.structure, 1 + (product - 1) / 4)
    _penalty_axes(kept, found, "Something of the leader's run is kept", (0.8 * least, TOP * product), above=True)
    _penalty_axes(supply, found, "Unique tokens run out", (0.9 * product, 3 * product))
    _penalty_axes(laws, found, "The follower's law is another", (0.8 * product, TOP * product))
    _penalty_axes(serving, found, "Serving counts as well", (0.85 * min(found.structure, product), 1.5 * max(found.structure, product)))
    _kept(kept, found)
    _supply(supply, found)
    _laws(laws, found)
    _serving(serving, found)
    _made_of(made, found)
    _worth(worth, found)
    first = found.curves["name"].iloc[0]
    figure.suptitle(
        f"When is it {product:g}x, and when not?  Compute of a follower {found.structure:g}x behind in structure and {found.data:g}x in data, over the leader's, at equal loss",
        fontsize=12.5,
        fontweight="bold",
        x=0.01,
        ha="left",
    )
    figure.supxlabel(
        f"Lines: {first}. Bands: the middle 90% over {len(found.curves)} curves of {found.curves['form'].nunique()} forms of law, their draws, and (where it says so) the stock. "
        "Runs behind the laws end near 1e22 FLOP; all beyond is extrapolated.",
        fontsize=8.5,
        color=GREY,
    )
    return figure


def _rows(found: Frontier, departure: str) -> pd.DataFrame:
    return found.penalties[found.penalties["departure"] == departure]


def _own(found: Frontier, rows: pd.DataFrame) -> np.ndarray:
    """The first curve's line."""
    name = found.curves["name"].iloc[0]
    return np.array([row[name] for row in rows["curves"]])


def _penalty_axes(axis: Axes, found: Frontier, title: str, limits: tuple[float, float], above: bool = False) -> None:
    product = found.structure * found.data
    axis.axhline(product, color=BLACK, linewidth=1.1, linestyle=":")
    axis.set(xscale="log", yscale="log", xlim=(found.flops[0], found.flops[-1]), ylim=limits, title=title)
    axis.set(xlabel="leader's training compute (FLOP)", ylabel="compute penalty")
    steps = (0.5, 0.625, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5) if limits[1] / limits[0] < 10 else 2.0 ** np.arange(-9, 10)
    ticks = [product * each for each in steps if limits[0] <= product * each <= limits[1]]
    axis.set_yticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_minor_locator(LogLocator(subs=[]))
    axis.annotate(
        f"free: exactly {number(_own(found, _rows(found, 'free'))[-1])}",
        (found.flops[len(found.flops) // (2 if above else 5)], product),
        xytext=(0, 1 if above else -3),
        textcoords="offset points",
        fontsize=8.5,
        va="bottom" if above else "top",
    )


def _line(axis: Axes, found: Frontier, departure: str, label: str, colour: str, place: float, above: bool = True, style: str = "-") -> None:
    """The first curve's line, its label written on it at `place` of the axis' width, or behind its end at 1."""
    values = _own(found, _rows(found, departure))
    axis.plot(found.flops, values, color=colour, linewidth=1.9, linestyle=style)
    at = min(int(place * (len(values) - 1)), int(np.max(np.flatnonzero(np.isfinite(values)), initial=0)))
    top = axis.get_ylim()[1]
    while at > 0 and values[at] > 0.8 * top:
        at -= 1
    if not math.isfinite(values[at]) or values[at] > top:
        axis.annotate(f"{label}: beyond the axis", (0.03, 0.95), xycoords="axes fraction", color=colour, fontsize=8.5, va="top")
        return
    axis.annotate(
        label,
        (found.flops[at], values[at]),
        xytext=(5, 2 if above else -3) if place >= 1 else (4 if place < 0.1 else 0, 4 if above else -5),
        textcoords="offset points",
        color=colour,
        fontsize=8.5,
        ha="left" if place >= 1 or place < 0.1 or not above else "right",  # where a rising line is not
        va="center" if place >= 1 else "bottom" if above else "top",
    )


def _band(axis: Axes, found: Frontier, departure: str, colour: str) -> None:
    rows = _rows(found, departure)
    top = 10 * axis.get_ylim()[1]
    axis.fill_between(found.flops, np.minimum(rows["low"], top), np.minimum(rows["high"], top), color=colour, alpha=0.16, linewidth=0)


def _whisker(axis: Axes, found: Frontier, departure: str, colour: str, place: float) -> None:
    """The band of a penalty that does not depend on scale, as one bar."""
    row = _rows(found, departure).iloc[-1]
    at = found.flops[0] * (found.flops[-1] / found.flops[0]) ** place
    high = min(row["high"], 2 * axis.get_ylim()[1])
    axis.plot([at, at], [row["low"], high], color=colour, linewidth=5, alpha=0.3, solid_capstyle="butt")


def _kept(axis: Axes, found: Frontier) -> None:
    lines = (
        ("overtrained-10-size-fixed", "over-trained 10x, size kept: {}", RED, 0.02, False, 0.97),
        ("size-fixed", "size kept: {}", ORANGE, 0.02, True, 0.91),
        ("tokens-fixed", "tokens kept: {}", BLUE, 0.72, True, 0.85),
        ("overtrained-10-tokens-fixed", "over-trained 10x, tokens kept: {}", PURPLE, 0.02, True, 0.79),
        ("overtrained-10", "over-trained 10x, follower free: {}", GREEN, 0.02, False, 0.73),
    )
    for departure, label, colour, place, above, bar in lines:
        value = number(_own(found, _rows(found, departure))[-1])
        style = "--" if departure == "tokens-fixed" else "-"
        _line(axis, found, departure, label.format(value), colour, place, above, style)
        _whisker(axis, found, departure, colour, bar)
    hundred = number(_own(found, _rows(found, "overtrained-100-size-fixed"))[-1])
    text = f"over-trained 100x, size kept: {hundred}\nbars: the middle 90% over the forms"
    axis.annotate(text, (0.03, 0.82), xycoords="axes fraction", fontsize=8, va="top", color=GREY)


def _supply(axis: Axes, found: Frontier) -> None:
    _band(axis, found, "stock", SKY)
    low, high = found.stock_range
    for departure, stock, colour, place in (
        ("stock-low", low, RED, 1.0),
        ("stock-middle", found.stock, BLUE, 1.0),
        ("stock-high", high, GREEN, 1.0),
    ):
        _line(axis, found, departure, amount(stock), colour, place, departure != "stock-high")
        wall = found.walls[(found.walls["what"] == "wall") & (found.walls["stock"] == stock)]["curves"].iloc[0][
            found.curves["name"].iloc[0]
        ]
        if found.flops[0] < wall < found.flops[-1]:
            axis.plot([wall], [axis.get_ylim()[0]], marker="^", color=colour, markersize=9, clip_on=False, zorder=5)
    _line(axis, found, "stock-halved", f"{amount(found.stock)}, follower half", PURPLE, 0.9, True, "--")
    text = f"triangles: the leader's optimum takes all there is;\nbeyond it tokens repeat. Band: stock uncertain,\n{amount(low)} to {amount(high)} (90%)"
    axis.annotate(text, (0.02, 0.98), xycoords="axes fraction", fontsize=8, va="top", color=GREY)


def _laws(axis: Axes, found: Frontier) -> None:
    _band(axis, found, "irreducible", ORANGE)
    _line(axis, found, "irreducible", f"irreducible loss\n{EXCESS} nats higher ", ORANGE, 0.62)
    _line(axis, found, "exponents", f"exponents {1 - SLOWER:.0%} lower\n(equal at {flop(ANCHOR)})", BLUE, 0.5, False)


def _serving(axis: Axes, found: Frontier) -> None:
    for departure, label, colour, place, above in (
        ("served-1e14", "1e14 tokens served", BLUE, 0.6, True),
        ("served-1e15", "1e15 tokens served", RED, 0.6, False),
    ):
        _band(axis, found, departure, colour)
        _line(axis, found, departure, label, colour, place, above)
    _line(axis, found, "stock-served", f"1e14 served, {amount(found.stock)} unique tokens", GREEN, 0.98, True, "--")
    axis.axhline(found.structure, color=GREY, linewidth=0.8, linestyle=":")
    axis.annotate(
        f"serving alone: structure only, {found.structure:g}",
        (found.flops[-1], found.structure),
        xytext=(-4, -3),
        textcoords="offset points",
        fontsize=8.5,
        color=GREY,
        va="top",
        ha="right",
    )


def _made_of(axis: Axes, found: Frontier) -> None:
    rows = _rows(found, "stock")
    known = rows["parameters"].notna().to_numpy()
    shares = rows[["parameters", "form", "assumption"]].to_numpy(float).T
    flops = found.flops[known]
    axis.set(
        xscale="log",
        xlim=(found.flops[0], found.flops[-1]),
        ylim=(0, 1),
        xlabel="leader's training compute (FLOP)",
        ylabel="share of the variance of ln penalty",
    )
    axis.set_title("What the band of the stock is made of")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    if not known.any():
        axis.annotate("no variance: the penalty is exact", (0.5, 0.5), xycoords="axes fraction", ha="center")
        return
    edges = np.concatenate([np.zeros((1, len(flops))), np.cumsum(shares[:, known], axis=0)])
    for place, (name, colour) in enumerate((("parameters", BLUE), ("form of law", ORANGE), ("assumed stock", GREEN))):
        axis.fill_between(flops, edges[place], edges[place + 1], color=colour, alpha=0.45, linewidth=0)
        width = edges[place + 1] - edges[place]
        at = len(flops) // 2
        if width[at] > 0.04:
            axis.annotate(name, (flops[at], (edges[place] + edges[place + 1])[at] / 2), fontsize=9, ha="center", va="center")
        elif width.max() > 0.01:
            axis.annotate(
                name, (flops[0], edges[place + 1][at]), xytext=(-4, 2), textcoords="offset points", fontsize=9, ha="right", color=colour
            )
    if not known[0]:
        axis.annotate("the penalty is exact,\nno variance to share out", (0.03, 0.5), xycoords="axes fraction", fontsize=9, color=GREY)


def _worth(axis: Axes, found: Frontier) -> None:
    product = found.structure * found.data
    rows = found.losses[(found.losses["quantity"] == "value") & (found.losses["supply"] == "endless")]
    axis.set_title(f"What {product:g}x of compute is worth")
    if product <= 1:
        axis.annotate("no loss: the follower is not behind", (0.5, 0.5), xycoords="axes fraction", ha="center")
        return
    axis.fill_between(found.flops, rows["low"], rows["high"], color=BLUE, alpha=0.16, linewidth=0)
    own = _own(found, rows)
    axis.plot(found.flops, own, color=BLUE, linewidth=1.9)
    for at in (0, len(own) // 2, len(own) - 1):
        axis.annotate(
            number(own[at]),
            (found.flops[at], own[at]),
            xytext=(6, 3) if at == 0 else (-3, -7),
            textcoords="offset points",
            color=BLUE,
            fontsize=8.5,
            ha="left" if at == 0 else "right",
            va="bottom" if at == 0 else "top",
        )
    ends = rows["low"].min() / 30, 1.3 * rows["high"].max()  # with room for the months below
    axis.set(
        xscale="log",
        yscale="log",
        xlim=(found.flops[0], found.flops[-1]),
        ylim=ends,
        xlabel="leader's training compute (FLOP)",
        ylabel="nats per token",
    )
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    first = found.months[np.isclose(found.months["flops"], found.flops[0])]
    lines = [f"{number(row['median'])}: {row['trend']}, {row['growth']:g}x a year" for _, row in first.iterrows()]
    axis.annotate(
        f"months of progress at {flop(found.flops[0])}\n" + "\n".join(lines),
        (0.03, 0.03),
        xycoords="axes fraction",
        fontsize=7.6,
        va="bottom",
        linespacing=1.25,
    )
