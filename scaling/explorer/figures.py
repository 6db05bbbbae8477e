"""The page's figures as Plotly dictionaries (built directly: importing plotly.graph_objects takes a second and the browser needs only the JSON)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from scaling.explorer.answers import LEVEL, Answers, Lab
from scaling.explorer.state import number

# Okabe & Ito, told apart by everyone; as in scaling.plots, which would import matplotlib.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LEADER, FOLLOWER, INK, GRID_LINE = "#0072B2", "#D55E00", "#222222", "#e3e3e3"
Figure = dict[str, Any]


def penalty_figure(answers: Answers) -> Figure:
    """Penalty against the leader's compute: a line a curve, its band, and the chosen compute marked."""
    traces: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    for place, (name, line) in enumerate(answers.lines.groupby("curve", sort=False)):
        colour = COLOURS[place]
        band = line[np.isfinite(line["low"]) & np.isfinite(line["high"])]
        if len(band):
            edge = {"x": _list(band["flops"]), "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
            traces.append(edge | {"y": _list(band["low"])})
            traces.append(edge | {"y": _list(band["high"]), "fill": "tonexty", "fillcolor": _faint(colour)})
        label = f"{name}{f', {LEVEL:.0%} band' if len(band) else ''}"
        style = {"color": colour, "width": 2.5, "dash": ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")[place]}
        traces.append({"x": _list(line["flops"]), "y": _list(line["value"]), "name": label, "mode": "lines", "line": style})
        point = answers.points[str(name)]
        if point.feasible:
            mark = {"color": colour, "size": 9}
            traces.append(
                {"x": [point.leader.flops], "y": [point.value], "mode": "markers", "marker": mark, "showlegend": False, "name": name}
            )
        else:
            notes.append({"text": f"{name}: out of reach", "font": {"color": colour}, "yshift": 14 * place})
    at = math.log10(answers.state.flops)
    shared = {"x": at, "y": 0.04, "yref": "paper", "showarrow": False, "xanchor": "left" if at < 25 else "right"}
    layout = _layout("Compute penalty at equal loss", "leader's training compute (FLOP)", "follower's compute / leader's")
    layout["xaxis"] |= {"type": "log", "range": [20.9, 29.1], "dtick": 1, "exponentformat": "power"}
    layout["yaxis"] |= {"type": "log", "range": _penalty_range(answers)} | _ratio_ticks()
    layout["shapes"] = [
        {
            "type": "line",
            "x0": answers.state.flops,
            "x1": answers.state.flops,
            "y0": 0,
            "y1": 1,
            "yref": "paper",
            "line": {"color": INK, "width": 1, "dash": "dot"},
        }
    ]
    return {"data": traces, "layout": layout | {"annotations": [shared | note for note in notes]}}


def waterfall_figure(answers: Answers) -> Figure:
    """The factors between the two labs' training times, one on top of the other on a log axis."""
    names, bases, heights, texts, colours = ["leader"], [0.0], [0.0], ["1"], [LEADER]
    level = 0.0
    for name, factor in answers.steps:
        if not (math.isfinite(factor) and factor > 0):
            names.append(name), bases.append(level), heights.append(0.0), texts.append("out of reach"), colours.append(FOLLOWER)
            break
        step = math.log10(factor)
        (
            names.append(name),
            bases.append(level),
            heights.append(step),
            texts.append(f"{factor:.3g}x"),
            colours.append(FOLLOWER if step > 0 else "#009E73"),
        )
        level += step
    else:
        total = f"{10**level:.3g}x"
        names.append("follower"), bases.append(0.0), heights.append(level), texts.append(total), colours.append(INK)
    unit = "training time" if answers.labs[0].estimate and answers.labs[1].estimate else "training compute"
    layout = _layout(f"From the leader's {unit} to the follower's", "", f"times the leader's {unit}")
    low, high = (
        min(0.0, *(b + min(h, 0) for b, h in zip(bases, heights, strict=True))),
        max(0.3, *(b + max(h, 0) for b, h in zip(bases, heights, strict=True))),
    )
    room = 0.15 * (high - low)
    ticks = [tick for tick in _nice_ratios() if low - room <= math.log10(tick) <= high + room]
    layout["yaxis"] |= {
        "range": [low - room, high + room],
        "tickvals": [math.log10(tick) for tick in ticks],
        "ticktext": [f"{tick:g}" for tick in ticks],
        "zeroline": True,
        "zerolinecolor": INK,
    }
    layout["xaxis"] |= {"showgrid": False, "automargin": True}
    bar = {
        "type": "bar",
        "x": [name.replace(" ", "<br>", 1) if len(name) > 9 else name for name in names],
        "y": heights,
        "base": bases,
        "text": texts,
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": colours},
        "hoverinfo": "x+text",
    }
    return {"data": [bar], "layout": layout | {"showlegend": False, "bargap": 0.25}}


def cost_figure(answers: Answers) -> Figure:
    """Days and dollars of both labs, with the 80% band of the speed."""
    traces = []
    for lab, colour in zip(answers.labs, (LEADER, FOLLOWER), strict=True):
        if lab.cost is None:
            continue
        traces.append(_band_bar(lab, "x", "y", lab.cost.hours / 24, [hours / 24 for hours in lab.cost.hours_band], colour, "d"))
        if lab.cost.usd_buy is not None and lab.cost.usd_buy_band is not None:
            traces.append(_band_bar(lab, "x2", "y2", lab.cost.usd_buy, list(lab.cost.usd_buy_band), colour, "$"))
    layout = _layout("Training time and dollars at equal loss", "days", "")
    layout["xaxis"] |= {"type": "log", "domain": [0.0, 0.46], "exponentformat": "SI"}
    layout["xaxis2"] = layout["xaxis"] | {
        "domain": [0.54, 1.0],
        "title": {"text": "US dollars: use of bought chips, electricity", "standoff": 6},
        "anchor": "y2",
    }
    layout["yaxis"] |= {"autorange": "reversed", "showgrid": False}
    layout["yaxis2"] = layout["yaxis"] | {"anchor": "x2", "matches": "y", "showticklabels": False}
    return {"data": traces, "layout": layout | {"showlegend": False}}


def _band_bar(lab: Lab, x: str, y: str, value: float, band: list[float], colour: str, unit: str) -> dict[str, Any]:
    text = f"${number(float(f'{value:.3g}'))}" if unit == "$" else f"{value:,.3g} d" if value < 1000 else f"{value:,.0f} d"
    return {
        "type": "scatter",
        "mode": "markers+text",
        "x": [value],
        "y": [lab.name],
        "xaxis": x,
        "yaxis": y,
        "error_x": {"type": "data", "array": [band[1] - value], "arrayminus": [value - band[0]], "color": colour, "thickness": 2.5},
        "marker": {"color": colour, "size": 11},
        "text": [text],
        "textposition": "top center",
        "name": lab.name,
    }


def _layout(title: str, x: str, y: str) -> dict[str, Any]:
    axis = {"gridcolor": GRID_LINE, "linecolor": INK, "ticks": "outside", "tickcolor": "#999"}
    return {
        "title": {"text": f"<b>{title}</b>", "x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 15}, "y": 0.97, "yanchor": "top"},
        "xaxis": axis | {"title": {"text": x, "standoff": 8}},
        "yaxis": axis | {"title": {"text": y, "standoff": 6}, "automargin": True},
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "margin": {"l": 56, "r": 16, "t": 64, "b": 52},
        "legend": {"traceorder": "normal", "orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "xanchor": "left"},
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


def _nice_ratios() -> list[float]:
    return [digit * 10.0**power for power in range(-6, 10) for digit in (1, 2, 5)]


def _ratio_ticks() -> dict[str, Any]:
    ticks = _nice_ratios()
    return {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _list(values: Any) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
