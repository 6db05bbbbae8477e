"""Mixtures of experts: routed models (Clark et al. 2022) and the joint law (Ludziejewski et al. 2025)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

import fits
from reproduced.drawing import count, label, note, plain, shades
from reproduced.entry import Drawn, Entry
from scaling.plots import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, _axes, _styled

ROUTED, JOINT = "clark-routed-curves", "ludziejewski2025"
ROUTERS = {"S-Base": "clark2022-sbase", "RL-R": "clark2022-rlr", "Hash": "clark2022-hash"}
EXPERTS = {1: BLACK, 2: SKY, 4: PURPLE, 8: GREEN, 16: ORANGE, 32: BLUE}
EDGE = 1e21  # FLOP: 6 x 2.7e9 active parameters x 8e10 tokens, the largest of the fit


@_styled
def routed_figure(draws: int) -> Drawn:
    """Loss against the number of experts by dense size, a panel a router: runs at 130B tokens, our fit and the paper's constants."""
    rows = fits.dataset(ROUTED, recipe=True)
    figure, axes = _axes(12.0, 4.8, columns=3)
    kept = []
    for axis, (router, name) in zip(axes, ROUTERS.items(), strict=True):
        part = rows[rows["router"].isin(["Dense", router])]
        ours, published = fits.fit("routed", part, objective="log-squared"), fits.load(name)
        inputs = {each: part[each].to_numpy(float) for each in ("active_params", "experts")}
        shown = part[["router", "active_params", "experts", "loss"]].assign(
            panel=router, ours=ours.evaluate(**inputs), published=published.evaluate(**inputs)
        )
        kept.append(shown.sort_values(["active_params", "experts"]))
        sizes = sorted(part["active_params"].unique())
        grid = np.geomspace(1, 512, 60)
        for size, shade in zip(sizes, shades(len(sizes)), strict=True):
            own = part[part["active_params"] == size]
            axis.plot(own["experts"], own["loss"], "o", color=shade, markersize=5, alpha=0.8)
            line = np.asarray(ours.evaluate(active_params=np.full(60, size), experts=grid))
            axis.plot(grid, line, color=shade, linewidth=1.6)
            axis.plot(grid, np.asarray(published.evaluate(active_params=np.full(60, size), experts=grid)), ":", color=shade, linewidth=1.4)
            label(axis, count(size), (grid[-1], line[-1]), shade)
        axis.set(xscale="log", yscale="log", xlim=(0.9, 1500), ylim=(1.88, 3.25), xlabel="experts", title=f"Router: {router}")
        plain(axis.xaxis, [1, 4, 16, 64, 256])
        plain(axis.yaxis, [2, 2.2, 2.4, 2.6, 2.8, 3, 3.2])
    axes[0].set_ylabel("validation loss after 130B tokens (nats per token)")
    note(axes[0], "lines: our fit; dotted: the paper's constants\nlabels: parameters of the dense model")
    return figure, pd.concat(kept, ignore_index=True)


@_styled
def joint_figure(draws: int) -> Drawn:
    """What experts save over dense at equal optimal loss, and how many tokens per active parameter they want, by the joint law."""
    curve = fits.load(JOINT)
    flops = np.geomspace(1e19, 1e26, 57)
    figure, (left, right) = _axes(10.5, 4.6, columns=2)
    columns: dict[str, np.ndarray] = {"flops": flops}
    for experts, colour in EXPERTS.items():
        optima = [curve.optimal(each, experts=experts) for each in flops]
        ratio = np.array([each.tokens / each.params for each in optima])
        saved = np.array([curve.compute_for(each.loss, experts=1) for each in optima]) / flops
        columns |= {f"{experts} experts: multiplier": saved, f"{experts} experts: tokens per active param": ratio}
        columns[f"{experts} experts: loss"] = np.array([each.loss for each in optima])
        for axis, values in ((left, saved), (right, ratio)):
            _line(axis, flops, values, colour)
            above = {1: 5, 2: 1}.get(experts, 0) if axis is right else 0  # where the lines end too near for their names
            label(axis, "dense" if experts == 1 else f"{experts} experts", (flops[-1], values[-1]), colour, shift=(5, above))
    left.set(ylabel="compute multiplier over dense at equal loss", title="What experts save")
    right.set(ylabel="optimal tokens per active parameter", title="How much data they want")
    plain(left.yaxis, [1, 1.5, 2, 3, 4, 5])
    plain(right.yaxis, [2, 5, 10, 20, 50, 100, 200])
    note(left, "Ludziejewski et al. 2025 (top-1, no intervals printed);\ndashed: beyond the runs of the fit", "upper left")
    left.set_ylim(top=6.8)  # room for the note
    for axis in (left, right):
        axis.set_xticks(10.0 ** np.arange(19, 27))
    return figure, pd.DataFrame(columns)


def _line(axis: Axes, flops: np.ndarray, values: np.ndarray, colour: str) -> None:
    """Solid where the fit has runs, dashed beyond."""
    seen = flops <= EDGE
    axis.plot(flops[seen], values[seen], color=colour, linewidth=2)
    axis.plot(flops[~seen], values[~seen], "--", color=colour, linewidth=1.5)
    axis.set(xscale="log", yscale="log", xlim=(flops[0], flops[-1] * 60), xlabel="training compute (FLOP)")


FIGURES = (
    Entry(
        "routed-experts",
        "loss against experts of three routers: runs, our fit, the paper's constants",
        routed_figure,
        (ROUTED,),
        tuple(ROUTERS.values()),
    ),
    Entry("joint-experts", "compute saved by experts and the tokens they want, by the joint law", joint_figure, curves=(JOINT,)),
)
