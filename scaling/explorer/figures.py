"""The page's figures as Plotly dictionaries (built directly: importing plotly.graph_objects takes a second and the browser needs only the JSON)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from scaling.explorer.answers import LEVEL, Answers
from scaling.explorer.state import number

# Okabe & Ito, told apart by everyone; as in scaling.plots, which would import matplotlib.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
LEADER, FOLLOWER, LESS, INK, RULE = "#0072B2", "#D55E00", "#009E73", "#222222", "#e3e3e3"
Figure = dict[str, Any]


def penalty_figure(answers: Answers) -> Figure:
    """Penalty against the leader's compute: a line a curve, its band, and the chosen compute marked."""
    at = answers.state.flops
    traces: list[Figure] = []
    notes: list[Figure] = []
    for place, (name, line) in enumerate(answers.lines.groupby("curve", sort=False)):
        colour, point = COLOURS[place], answers.points[str(name)]
        band = line[np.isfinite(line["low"]) & np.isfinite(line["high"])]
        label = str(name)
        if len(band):
            edge: Figure = {"x": _list(band["flops"]), "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
            traces.append(edge | {"y": _list(band["low"])})
            traces.append(edge | {"y": _list(band["high"]), "fill": "tonexty", "fillcolor": _faint(colour)})
            label += f", {LEVEL:.0%} band"
        style = {"color": colour, "width": 2.5, "dash": DASHES[place]}
        traces.append({"x": _list(line["flops"]), "y": _list(line["value"]), "name": label, "mode": "lines", "line": style})
        if point.feasible:
            mark: Figure = {"mode": "markers", "marker": {"color": colour, "size": 9}, "showlegend": False, "name": name}
            traces.append(mark | {"x": [at], "y": [point.value]})
        else:
            notes.append({"text": f"{name}: out of reach here", "font": {"color": colour}, "yshift": 15 * place})
    spot = {"x": math.log10(at), "y": 0.03, "yref": "paper", "showarrow": False, "xanchor": "left" if at < 1e25 else "right"}
    layout = plain_layout("leader's training compute (FLOP)", "follower's compute / leader's")
    layout["xaxis"] |= {"type": "log", "range": [20.9, 29.1], "exponentformat": "power"}
    layout["yaxis"] |= {"type": "log", "range": _penalty_range(answers)} | _ticks(f"{tick:g}" for tick in _NICE)
    layout["shapes"] = [
        {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": INK, "width": 1, "dash": "dot"}}
    ]
    return {"data": traces, "layout": layout | {"annotations": [spot | note for note in notes]}}


def waterfall_figure(answers: Answers) -> Figure:
    """The factors between the two labs' training times, one on top of the other on a log axis."""
    rows: list[tuple[str, float, float, str, str]] = [("leader", 1.0, 1.0, "1", LEADER)]  # name, from, to, text, colour
    level = 1.0
    for name, factor in answers.steps:
        if not (math.isfinite(factor) and factor > 0):
            rows.append((name, level, level, "out of reach", FOLLOWER))
            break
        rows.append((name, level, level * factor, f"{factor:.3g}x", FOLLOWER if factor >= 1 else LESS))
        level *= factor
    else:
        rows.append(("follower", 1.0, level, f"{level:.3g}x", INK))
    low, high = min(min(row[1:3]) for row in rows), max(max(row[1:3]) for row in rows)
    room = max((high / low) ** 0.2, 1.2)  # for the text beside the bars
    bar: Figure = {
        "type": "bar",
        "orientation": "h",
        "y": [row[0] for row in rows],
        "base": [math.log10(row[1]) for row in rows],
        "x": [math.log10(row[2] / row[1]) for row in rows],
        "text": [row[3] for row in rows],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": [row[4] for row in rows]},
        "hoverinfo": "y+text",
    }
    layout = plain_layout(f"times the leader's {'time' if answers.timed else 'compute'}", "")
    layout["yaxis"] |= {"autorange": "reversed", "showgrid": False}
    ends = (low / (room if low < 1 else 1), high * room)
    layout["xaxis"] |= _linear_in_logs(*ends, "") | {"zeroline": True, "zerolinecolor": INK}
    return {"data": [bar], "layout": layout | {"showlegend": False, "bargap": 0.25}}


def cost_figure(answers: Answers) -> Figure:
    """Days and dollars of both labs, with the 80% band of the speed."""
    layout = plain_layout("days", "")
    layout["xaxis2"] = layout["xaxis"] | {"title": {"text": "USD, as share of bought chips", "standoff": 6}}
    layout["yaxis"] |= {"domain": [0.64, 1.0], "range": [1.6, -0.9], "showgrid": False}
    layout["yaxis2"] = layout["yaxis"] | {"domain": [0.0, 0.36]}
    traces: list[Figure] = []
    for suffix, sign, unit in (("", "", " d"), ("2", "$", "")):
        bars: list[tuple[str, float, tuple[float, float]]] = []
        for lab in answers.labs:
            spent = lab.cost
            if spent and not suffix:
                bars.append((lab.name, spent.hours / 24, (spent.hours_band[0] / 24, spent.hours_band[1] / 24)))
            elif spent and spent.usd_buy is not None and spent.usd_buy_band is not None:
                bars.append((lab.name, spent.usd_buy, spent.usd_buy_band))
        for name, value, (low, high) in bars:
            colour = LEADER if name == "leader" else FOLLOWER
            error = {"type": "data", "array": [high - value], "arrayminus": [value - low], "color": colour, "thickness": 2.5}
            traces.append(
                {
                    "mode": "markers+text",
                    "x": [value],
                    "y": [name],
                    "xaxis": f"x{suffix}",
                    "yaxis": f"y{suffix}",
                    "name": name,
                    "error_x": error,
                    "marker": {"color": colour, "size": 11},
                    "text": [f"{sign}{short(value)}{unit}"],
                    "textposition": "top center",
                }
            )
        if bars:
            ends = (min(bar[2][0] for bar in bars) / 1.5, max(bar[2][1] for bar in bars) * 1.5)
            ticks = _ticks(f"{sign}{short(tick)}" for tick in _NICE)
            layout[f"xaxis{suffix}"] |= {"type": "log", "range": [math.log10(end) for end in ends]} | _spaced(ticks, *ends)
        layout[f"xaxis{suffix}"] |= {"anchor": f"y{suffix}"}
        layout[f"yaxis{suffix}"] |= {"anchor": f"x{suffix}"}
    return {"data": traces, "layout": layout | {"showlegend": False}}


def short(value: float) -> str:
    """Three digits with the unit of thousands: 178, 3.8k, 1.02B."""
    for power, letter in ((12, "T"), (9, "B"), (6, "M"), (3, "k")):
        if 9.995 * 10 ** (power - 1) <= value < 1e15:
            return f"{value / 10**power:.3g}{letter}"
    return number(float(f"{value:.3g}"))


def plain_layout(x: str, y: str) -> Figure:
    """What all figures have in common, with the titles of their axes."""
    axis = {"gridcolor": RULE, "linecolor": INK, "ticks": "outside", "tickcolor": "#999999", "automargin": True, "tickangle": 0}
    return {
        "xaxis": axis | {"title": {"text": x, "standoff": 6}},
        "yaxis": axis | {"title": {"text": y, "standoff": 6}},
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "margin": {"l": 8, "r": 14, "t": 30, "b": 8},
        "legend": {"orientation": "h", "traceorder": "normal", "x": 0, "y": 1.0, "yanchor": "bottom", "xanchor": "left"},
        "plot_bgcolor": "white",
        "paper_bgcolor": "white",
        "hovermode": "closest",
        "uirevision": "kept",  # a zoom survives the next answer
    }


def _penalty_range(answers: Answers) -> list[float]:
    """From a little under the least penalty to a little above the greatest within two decades of it."""
    shown = answers.lines["value"].to_numpy(float)
    shown = shown[np.isfinite(shown) & (shown > 0)]
    if not shown.size:
        return [0.0, 2.0]
    low = math.log10(shown.min())
    high = min(math.log10(shown.max()), low + 2)
    return [low - 0.15, max(high, low + 0.5) + 0.15]


_NICE = tuple(digit * 10.0**power for power in range(-9, 25) for digit in (1, 2, 5))


def _ticks(texts: Iterable[str]) -> Figure:
    return {"tickvals": list(_NICE), "ticktext": list(texts)}


def _spaced(ticks: Figure, low: float, high: float) -> Figure:
    """Only so many of the ticks as stand apart: all of 1, 2, 5 within a factor of 100, else whole decades, at most seven."""
    step = 1 if high / low < 100 else 3 * math.ceil(math.log10(high / low) / 7)
    kept = [place for place in range(0, len(_NICE), step) if low <= _NICE[place] <= high]
    return {name: [values[place] for place in kept] for name, values in ticks.items()}


def _linear_in_logs(low: float, high: float, sign: str) -> Figure:
    """A linear axis over log10 (bars need a base, which log axes lack) that reads as a log axis."""
    ticks = _spaced(_ticks(f"{sign}{tick:g}" for tick in _NICE), low, high)
    return {
        "range": [math.log10(low), math.log10(high)],
        "tickvals": [math.log10(tick) for tick in ticks["tickvals"]],
        "ticktext": ticks["ticktext"],
    }


def _list(values: Any) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
