"""The demo's figures, drawn from the runs that `isoloss demo` leaves."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pandas as pd

import fits
from reproduced.drawing import quantile_band
from reproduced.entry import Drawn, Entry
from scaling.demo import PUBLISHED, Demo, run_demo
from scaling.progress import SweepProgress
from scaling.report.demo import demo_figures

NAMES = {
    "isoflop": "the demo: loss against size at equal compute, with the fitted law",
    "frontier": "the demo: the fitted frontier, its band and the held-out budget",
    "multipliers": "the demo: MoE against dense and bf16 against fp32 as compute multipliers",
    "penalty": "the demo: the compute penalty of a 2x structure and a 2x data gap, 1e21-1e29 FLOP",
    "diffusion": "the demo: access and performance effect of one curve at two dates",
}


def entries(folder: Path, train: bool) -> tuple[Entry, ...]:
    """The demo's figures from the runs in `folder`; with `train`, runs that are missing are made first."""
    files = () if train else (folder / "runs.sqlite",)
    return tuple(Entry(name, about, functools.partial(_draw, name, folder), files=files) for name, about in NAMES.items())


@functools.cache
def _demo(folder: Path) -> Demo:
    return run_demo(folder, progress=SweepProgress())


def _draw(name: str, folder: Path, draws: int) -> Drawn:
    """One of the figures and its numbers."""
    demo = _demo(folder)
    curves = {"demo": demo.curve} | {each: fits.load(each) for each in PUBLISHED}
    figure = next(figure for found, figure, _ in demo_figures(demo, "dense", curves) if found == name)
    return figure, _numbers(name, demo)


def _numbers(name: str, demo: Demo) -> pd.DataFrame:
    if name == "penalty":
        return demo.penalties
    if name == "diffusion":
        return pd.DataFrame(demo.diffusion["lines"])
    if name == "multipliers":
        parts = [
            found.pairs.assign(arm=arm, mean=found.multiplier.value, mean_low=found.multiplier.low, mean_high=found.multiplier.high)
            for arm, found in demo.multipliers.items()
        ]
        return pd.concat(parts)
    dense = demo.runs[demo.runs["arm"] == "dense"]
    if name == "isoflop":
        return dense.assign(predicted=demo.curve.loss(params=dense["params"].to_numpy(float), tokens=dense["tokens"].to_numpy(float)))
    flops = np.geomspace(dense["flops"].min() / 1.5, 10 * dense["flops"].max(), 120)  # as plots.frontier_figure
    low, high = quantile_band(demo.curve.frontier_draws(flops))
    return pd.DataFrame({"flops": flops, "loss": [demo.curve.optimal(c).loss for c in flops], "low": low, "high": high})
