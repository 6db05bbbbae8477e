"""Figures of a measured multiplier: iso-loss curves of both sets of runs, and pairs. Styled as in `scaling.plots`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scaling.measured import JointFit, Measurement
from scaling.plots import BLACK, BLUE, RED, _axes, _plain_log_ticks, _styled
from scaling.two_sides import Side

COLOURS, MARKERS, LINES, NAMES = (BLUE, RED), "os", ("-", "--"), ("baseline", "variant")
CONTOURS = 4


@_styled
def isoloss_figure(found: Measurement) -> Figure:
    """Left: curves of equal loss over size and tokens, with the runs; right: loss against compute with bands, and the gap at equal loss."""
    assert found.fit is not None
    figure, (left, right) = _axes(11.5, 4.8, columns=2)
    _contours(left, found.fit, _losses(found))
    _frontiers(right, found, found.fit)
    return figure


def _losses(found: Measurement) -> np.ndarray:
    """Losses for contours: inside the overlap, else one between the sets."""
    inside = found.levels.loc[~found.levels["asked"], "loss"].to_numpy(float) if len(found.levels) else np.array([])
    return inside[:CONTOURS] if len(inside) else np.array([found.loss])


def _contours(axis: Axes, fit: JointFit, losses: np.ndarray) -> None:
    for place, side in enumerate(fit.joint.sides):
        own = fit.cells.of(place)
        axis.plot(fit.cells.size[own], fit.cells.tokens[own], MARKERS[place], color=COLOURS[place], markersize=4.5, alpha=0.6)
        for loss in losses:
            sizes, tokens = _contour(side.at(loss))
            axis.plot(sizes, tokens, LINES[place], color=COLOURS[place], linewidth=1.4)
            end = 0 if place else -1
            shift = (0, 4) if place else (3, 0)
            axis.annotate(
                f"{loss:.3g}", (sizes[end], tokens[end]), xytext=shift, textcoords="offset points", color=COLOURS[place], fontsize=8
            )
        axis.annotate(NAMES[place], (0.03, 0.97 - 0.07 * place), xycoords="axes fraction", va="top", color=COLOURS[place], weight="bold")
    axis.set(xscale="log", yscale="log", xlabel="size N", ylabel="training tokens D", title="Curves of equal loss")
    axis.margins(x=0.12, y=0.08)


def _contour(side: Side) -> tuple[np.ndarray, np.ndarray]:
    """Sizes and tokens of one loss, out to where either is several times what the optimum takes."""
    weight = side.alpha / (side.alpha + side.beta)  # of the tokens' term; the other is the sizes'
    share = np.linspace(0.25, 1.7, 80)  # of the size's term over that at the optimum
    rest = (1 - (1 - weight) * share) / weight
    share, rest = share[rest > 0.2], rest[rest > 0.2]
    return side.size * share ** (-1 / side.alpha), side.tokens * rest ** (-1 / side.beta)


def _frontiers(axis: Axes, found: Measurement, fit: JointFit) -> None:
    for place, (side, cost) in enumerate(zip(fit.joint.sides, fit.cost, strict=True)):
        own = fit.cells.of(place)
        computes = cost * fit.cells.size[own] * fit.cells.tokens[own]
        grid = np.geomspace(computes.min() / 1.5, computes.max() * 1.5, 80)
        if fit.thetas is not None:
            drawn = fit.joint.sides_of(fit.thetas[:, None, :])[place].loss_for(grid / cost)
            low, high = np.quantile(drawn, [(1 - found.level) / 2, (1 + found.level) / 2], axis=0)
            axis.fill_between(grid, low, high, color=COLOURS[place], alpha=0.18, linewidth=0)
        axis.plot(grid, side.loss_for(grid / cost), LINES[place], color=COLOURS[place], linewidth=1.8)
        axis.plot(computes, np.exp(fit.cells.log_loss[own]), MARKERS[place], color=COLOURS[place], markersize=4.5, alpha=0.6)
        axis.annotate(
            NAMES[place],
            (grid[-1], side.loss_for(grid[-1] / cost)),
            xytext=(4, 6 * (2 * place - 1)),
            textcoords="offset points",
            color=COLOURS[place],
            weight="bold",
        )
    for _, row in found.levels.iterrows():
        _gap(axis, row)
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="training compute (FLOP)",
        ylabel="loss (nats per token)",
        title=f"Compute at equal loss, {found.level:.0%} bands",
    )
    axis.margins(x=0.14)
    _plain_log_ticks(axis)


def _gap(axis: Axes, row: pd.Series) -> None:
    """The horizontal distance of the two frontiers at one loss, with the multiplier; grey where it lies outside the runs."""
    if not np.isfinite(row["variant_flops"]):
        return
    colour = BLACK if row["decades_outside"] == 0 else "#888888"
    ends = row["baseline_flops"], row["variant_flops"]
    axis.annotate("", (ends[1], row["loss"]), (ends[0], row["loss"]), arrowprops={"arrowstyle": "<->", "color": colour, "linewidth": 1})
    label = f"x{1 / row['multiplier']:.3g}"
    axis.annotate(
        label, (np.sqrt(ends[0] * ends[1]), row["loss"]), xytext=(0, 3), textcoords="offset points", ha="center", color=colour, fontsize=8.5
    )


@_styled
def pairs_figure(found: Measurement) -> Figure:
    """Multipliers of pairs along the baseline's compute, their mean with its interval."""
    figure, (axis,) = _axes()
    axis.axhspan(found.multiplier.low, found.multiplier.high, color=BLUE, alpha=0.18, linewidth=0)
    axis.axhline(found.multiplier.value, color=BLUE, linewidth=1.8)
    axis.plot(found.pairs["baseline_flops"], found.pairs["multiplier"], "o", color=RED, alpha=0.7, markersize=5)
    axis.axhline(1, color=BLACK, linewidth=1)
    first = found.pairs["baseline_flops"].min()
    text = "mean {:.3g} [{:.3g}, {:.3g}]".format(*found.multiplier)
    axis.annotate(text, (first, found.multiplier.high), xytext=(0, 4), textcoords="offset points", color=BLUE)
    axis.annotate("no difference", (first, 1), xytext=(0, -12), textcoords="offset points", fontsize=8.5)
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="baseline's training compute (FLOP)",
        ylabel="compute multiplier",
        title=f"Pairs of equal runs, mean and {found.level:.0%} interval",
    )
    _plain_log_ticks(axis)
    return figure
