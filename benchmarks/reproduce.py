"""Every figure, by name: `python benchmarks/reproduce.py [--list] [--only NAME ...] [--out DIR] [--demo DIR]`.

Each figure is written as PNG with the numbers behind it as CSV. The demo's figures are drawn from the runs in --demo; runs that
are missing there are trained first (the whole demo takes a few minutes).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

import fits
from scaling import plots
from scaling.demo import PUBLISHED, Demo, run_demo
from scaling.errors import InputError
from scaling.progress import SweepProgress
from scaling.report.demo import demo_figures

DEMO_FIGURES = {
    "isoflop": "loss against size at equal compute, with the fitted law",
    "frontier": "the fitted frontier, its band and the held-out budget",
    "multipliers": "MoE against dense and bf16 against fp32 as compute multipliers",
    "penalty": "the compute penalty of a 2x structure and a 2x data gap, 1e21-1e29 FLOP",
    "diffusion": "access and performance effect of one curve at two dates",
}


def published_frontier(out: Path) -> list[Path]:
    """Published compute-optimal frontiers with their bands, extrapolated to 1e29 FLOP"""
    curves = [fits.load(name) for name in PUBLISHED]
    flops = np.geomspace(1e18, 1e29, 100)
    columns = {"flops": flops}
    for curve in curves:
        columns[f"{curve.name} loss"] = np.array([curve.optimal(c).loss for c in flops])
        if curve.draws is not None:
            low, high = np.quantile(curve.frontier_draws(flops), [0.025, 0.975], axis=0)
            columns |= {f"{curve.name} low": low, f"{curve.name} high": high}
    table = out / "published-frontier.csv"
    pd.DataFrame(columns).to_csv(table, index=False, float_format="%.8g")
    return [plots.save(plots.published_frontier_figure(curves), out / "published-frontier.png"), table]


def demo_figure(name: str, demo: Demo, out: Path) -> list[Path]:
    """One of the demo's figures and its numbers."""
    curves = {"demo": demo.curve} | {each: fits.load(each) for each in PUBLISHED}
    figure = next(figure for found, figure, _ in demo_figures(demo, "dense", curves) if found == name)
    dense = demo.runs[demo.runs["arm"] == "dense"]
    predicted = demo.curve.loss(params=dense["params"].to_numpy(float), tokens=dense["tokens"].to_numpy(float))
    flops = np.geomspace(dense["flops"].min(), 10 * dense["flops"].max(), 60)
    low, high = np.quantile(demo.curve.frontier_draws(flops), [0.025, 0.975], axis=0)
    fitted = [demo.curve.optimal(c).loss for c in flops]
    numbers = {
        "isoflop": dense.assign(predicted=predicted),
        "frontier": pd.DataFrame({"flops": flops, "loss": fitted, "low": low, "high": high}),
        "multipliers": pd.concat(
            [
                found.pairs.assign(arm=arm, mean=found.value, mean_low=found.low, mean_high=found.high)
                for arm, found in demo.multipliers.items()
            ]
        ),
        "penalty": demo.penalties,
        "diffusion": pd.DataFrame(demo.diffusion["lines"]),
    }[name]
    table = out / f"{name}.csv"
    numbers.to_csv(table, index=False, float_format="%.8g")
    return [plots.save(figure, out / f"{name}.png"), table]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="list the figures and leave")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these figures only")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="where figures and their numbers go")
    parser.add_argument(
        "--demo", type=Path, default=Path("isoloss-demo"), help="folder of the demo's runs, as `isoloss demo --out` leaves it"
    )
    arguments = parser.parse_args()
    alone: dict[str, Callable[[Path], list[Path]]] = {"published-frontier": published_frontier}
    known = {name: function.__doc__ or "" for name, function in alone.items()} | DEMO_FIGURES
    if arguments.list:
        print("\n".join(f"{name:20} {what}" for name, what in known.items()))
        return
    chosen = arguments.only or list(known)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        sys.exit(f"reproduce.py: no figure {unknown[0]!r}; there are {', '.join(known)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    demo: Demo | None = None
    for name in chosen:
        if name in alone:
            written = alone[name](arguments.out)
        else:
            if demo is None:
                if not (arguments.demo / "runs.sqlite").exists():
                    print(
                        f"no runs in {arguments.demo}: training them now, about five minutes on two cores (--demo names another folder)",
                        file=sys.stderr,
                    )
                demo = run_demo(arguments.demo, progress=SweepProgress())
            written = demo_figure(name, demo, arguments.out)
        print(f"{name}: {', '.join(str(path) for path in written)}")


if __name__ == "__main__":
    try:
        main()
    except (InputError, fits.InputError) as error:
        sys.exit(f"reproduce.py: {error}")
