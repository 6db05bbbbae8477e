"""Figures of the meek model: four measures of the same gap, and how the gap's peak moves with the growth of investment."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scaling.diffusion.conversion import BoundedScore
from scaling.diffusion.figures import band, growth_draws
from scaling.diffusion.meek import MeekModel, sensitivity
from scaling.plots import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, _axes, _styled

# An exam from 0.25 to 1 whose middle lies half a nat above the irreducible loss: an illustration, not a fitted benchmark.
EXAM_MIDDLE, EXAM_STEEPNESS = 0.5, 6.0
MEASURES = {
    "loss_gap": ("loss gap (nats per token)", "Loss: closes", BLUE),
    "score_gap": ("score gap (share of the exam)", "Bounded score: closes", GREEN),
    "compute_ratio": ("effective compute, frontier over meek", "Compute: diverges", RED),
    "lag_years": ("lag of the meek budget (years)", "Time: lengthens", ORANGE),
}


def exam(model: MeekModel) -> BoundedScore:
    """The illustrative benchmark on the model's law."""
    return BoundedScore(model.law, model.law.irreducible + EXAM_MIDDLE, EXAM_STEEPNESS, span=0.75, floor=0.25)


@_styled
def meek_figure(model: MeekModel | None = None) -> tuple[Figure, pd.DataFrame]:
    """Loss gap, score gap, compute ratio and lag over time: the first two close, the others do not. Bands: 80% over the trends' intervals."""
    model = model or MeekModel()
    times = np.linspace(0.0, 20.0, 201)
    table = model.table(times, exam(model))
    cases = [
        dataclasses.replace(model, price_performance=float(hardware), algorithms=float(algorithms))
        for hardware, algorithms in zip(*(draws[:256] for draws in growth_draws()), strict=True)
    ]
    drawn = [case.table(times, exam(case)) for case in cases]
    figure, axes = _axes(14.0, 3.9, columns=4)
    for axis, (name, (label, title, colour)) in zip(axes, MEASURES.items(), strict=True):
        low, high = band(np.stack([each[name].to_numpy() for each in drawn]))
        table = table.assign(**{f"{name}_low": low, f"{name}_high": high})
        axis.fill_between(times, low, high, color=colour, alpha=0.18, linewidth=0)
        axis.plot(times, table[name], color=colour, linewidth=2.4)
        axis.set(xlabel="years", ylabel=label, title=title)
    axes[2].set_yscale("log")
    figure.supxlabel("bands: the middle 80% over the published intervals of the trends", fontsize=9)
    peak, height = model.peak_time, float(model.loss_gap(model.peak_time))
    axes[0].plot([peak], [height], "o", color=BLACK, zorder=4)
    text = f"peak after {peak:.1f} years,\nat {model.peak_ratio:.0f}x the compute"
    axes[0].annotate(
        text, (peak, height), xytext=(0.42, 0.9), textcoords="axes fraction", fontsize=9, arrowprops={"arrowstyle": "-", "linewidth": 0.7}
    )
    return figure, table


@_styled
def meek_sensitivity_figure(model: MeekModel | None = None) -> tuple[Figure, pd.DataFrame]:
    """The loss gap, over the loss the meek could lose at the start, for several growths of investment, with time and compute ratio of each peak."""
    model = model or MeekModel()
    growths, times = [1.5, 2.4, 3.57, 5.0, 10.0], np.linspace(0.0, 15.0, 151)
    peaks = sensitivity(growths, model)
    figure, (axis,) = _axes(7.6, 4.8)
    rows, thin = [], {"arrowstyle": "-", "linewidth": 0.6, "shrinkB": 5}
    for growth, colour, (_, peak) in zip(growths, (GREEN, BLUE, BLACK, PURPLE, RED), peaks.iterrows(), strict=True):
        case = dataclasses.replace(model, investment_growth=growth)
        fraction = case.loss_gap(times) / case.scale
        rows.append(pd.DataFrame({"investment_growth": growth, "years": times, "gap_fraction": fraction, **peak.drop("investment_growth")}))
        axis.plot(times, fraction, color=colour, linewidth=2.0)
        axis.plot([peak["peak_years"]], [peak["peak_fraction"]], "o", color=colour, zorder=4)
        text = f"{growth:g}x a year: {peak['peak_years']:.1f} years, {peak['peak_ratio']:.0f}x the compute"
        place = (peak["peak_years"], peak["peak_fraction"])
        aside = (11.5, 0.03 + 0.92 * peak["peak_fraction"])
        axis.annotate(text, place, xytext=aside, color=colour, fontsize=9, va="center", arrowprops=thin | {"color": colour})
    title = "Growth of the frontier's investment: time of the peak, and compute ratio at it"
    axis.set(xlabel="years", ylabel="loss gap over $A\\,C_0^{-a}$", title=title, ylim=(0, None), xlim=(0, 21))
    axis.set_xticks(range(0, 16, 5))
    return figure, pd.concat(rows, ignore_index=True)
