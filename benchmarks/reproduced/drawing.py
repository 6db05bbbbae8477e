"""What the figures share: labels at the things themselves, bands, plain numbers on log axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.ticker import FuncFormatter, NullFormatter

from fits.curve import Curve
from scaling.plots import BLACK

GREY = "#777777"


def label(
    axis: Axes, text: str, at: tuple[float, float], colour: str = BLACK, *, shift: tuple[float, float] = (5, 0), **style: Any
) -> None:
    """A text at a point, moved by `shift` (points)."""
    given: dict[str, Any] = {"fontsize": 9, "va": "center"} | style
    axis.annotate(text, at, xytext=shift, textcoords="offset points", color=colour, **given)


def note(axis: Axes, text: str, corner: str = "lower left", colour: str = GREY, **style: Any) -> None:
    """A remark in a corner of the axes."""
    vertical, side = corner.split()
    place = (0.02 if side == "left" else 0.98, 0.02 if vertical == "lower" else 0.98)
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8}
    given: dict[str, Any] = {"fontsize": 8.5, "ha": side, "va": "bottom" if vertical == "lower" else "top", "bbox": behind} | style
    axis.annotate(text, place, xycoords="axes fraction", color=colour, **given)


def spread(axis: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str) -> None:
    """A band."""
    axis.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def quantile_band(values: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The ends between which the middle `level` of the draws (the first axis) lies."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def interval(axis: Axes, x: float, y: float, ends: tuple[float, float] | None, colour: str, *, across: bool = False, **style: Any) -> None:
    """A dot with its interval, upright or across."""
    given: dict[str, Any] = {"fmt": "o", "color": colour, "markersize": 6, "capsize": 3, "linewidth": 1.6} | style
    centre = x if across else y
    if ends is None:
        axis.plot([x], [y], given.pop("fmt"), color=colour, markersize=given["markersize"], markerfacecolor="white", markeredgewidth=1.6)
        return
    size = [[max(0.0, centre - ends[0])], [max(0.0, ends[1] - centre)]]
    given["xerr" if across else "yerr"] = size
    axis.errorbar([x], [y], **given)


def shades(count: int, low: float = 0.0, high: float = 0.85) -> list[Any]:
    """So many steps of viridis, which print and colour blindness keep in order."""
    return list(matplotlib.colormaps["viridis"](np.linspace(low, high, count)))


def log_shade(value: float, low: float, high: float) -> Any:
    """The shade of a value between two others, by its logarithm."""
    return matplotlib.colormaps["viridis"](0.85 * float(Normalize(np.log(low), np.log(high))(np.log(value))))


def plain(side: Any, ticks: Sequence[float] | None = None) -> None:
    """Plain numbers at the ticks of a log axis (`axis.xaxis` or `axis.yaxis`)."""
    if ticks is not None:
        side.set_ticks(ticks)
    side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    side.set_minor_formatter(NullFormatter())


def count(value: float) -> str:
    """A count in words of three digits: 25M, 1.3B, 14.8T."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            return f"{float(f'{value / size:.3g}'):g}{unit}"
    return f"{value:.3g}"


def draws_of(curve: Curve, **inputs: Any) -> np.ndarray:
    """The law at these inputs under every draw, (draws, *inputs)."""
    shape = np.broadcast_shapes(*(np.shape(value) for value in inputs.values()))
    draws = curve.draws_or_error().reshape(-1, *([1] * len(shape)), len(curve.law.constants))
    return curve.law.evaluate(draws, {name: np.asarray(value, float) for name, value in inputs.items()})
