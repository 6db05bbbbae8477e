"""Compute penalties that are known beforehand, measured: `python benchmarks/planted.py --store FILE | --runs FILE [--coverage N] [--figure FILE]`.

`--store` makes the runs of `planted.toml` (180; those that the store has are not made again) with one worker of one thread and writes their table
to `--out`; `--runs` takes such a table in place of training. Either way the estimator (`scaling.measurement`) gets two tables of nominal parameters,
tokens, FLOP, loss and seed, one of the leader's and one of a follower's, for each replicate and each follower: nine penalties with 95% intervals, and
whether these hold 2, 2 and 4. The text is English prose from the folder that ISOLOSS_CORPORA names, as a user's own; without it, `python-source`.

`--coverage N` asks how often the intervals hold the truth, on N simulated replicates of each follower: losses of one law on the live sizes and tokens, plus
noise drawn from what was measured. "seeds": deviations of runs from the mean of their cell (seeds of one arm, size and budget), widened for the mean
having been estimated. "seeds and misfit": and each cell's own deviation of that mean from the law, dealt out anew, because no law is exact.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import fits
from scaling import joint_fit, measurement, plots, sweeps
from scaling.measured import Band, Measurement
from scaling.progress import SweepProgress
from scaling.toml_files import read_toml

PLAN = Path(__file__).with_suffix(".toml")
PROSE = "pd-prose-v1-train.txt.xz"
LEADER = "leader"
LIMIT = 1.25  # asked of an interval's half-width, a factor
MODEL = "two factors"  # L(N / m, D / k) with one law for both, which is what was planted and what the design was chosen for
NOISES = ("seeds", "seeds and misfit")
SIMULATED_DRAWS = 400
ARROWS = {"data2": 1.1e11, "structure2": 4.2e11, "both2": 2.2e11}  # where they begin, FLOP of the leader
SEEN = ["params", "tokens", "flops", "loss", "seed"]  # all that the estimator is given
KEPT = ["arm", "budget", "corpus", *SEEN, "loss_se", "train_seconds"]


class Handicap(NamedTuple):
    structure: int
    data: int

    @property
    def penalty(self) -> int:
        return self.structure * self.data


PLANTED = {"data2": Handicap(1, 2), "structure2": Handicap(2, 1), "both2": Handicap(2, 2)}
NAMES = {LEADER: "leader", "data2": "2x in data", "structure2": "2x in structure", "both2": "2x in both"}


def trained(store: str) -> pd.DataFrame:
    """The plan's runs, made where the store lacks them."""
    plan = read_toml(PLAN)
    folder = os.environ.get("ISOLOSS_CORPORA")
    if folder and (Path(folder) / PROSE).exists():
        plan["corpus"] = str(Path(folder) / PROSE)
    else:
        print(f"planted: no {PROSE} in ISOLOSS_CORPORA, so the text is {plan['corpus']}", file=sys.stderr)
    frame = sweeps.sweep(plan, store, workers=1, progress=SweepProgress())
    lost = frame[frame["status"] != "done"]
    if len(lost):
        print(f"planted: {len(lost)} runs have no loss, the first: {lost['reason'].iloc[0]}", file=sys.stderr)
    return frame.loc[frame["status"] == "done", KEPT].sort_values(["arm", "seed", "budget", "params"], ignore_index=True)


def replicate(runs: pd.DataFrame) -> pd.Series:
    """Seeds are 0 to 2 for the leader, 10 to 12, 20 to 22 and 30 to 32 for the followers: no two runs share one."""
    return runs["seed"] % 10


def measured(runs: pd.DataFrame, arm: str, model: str | None = MODEL, **options: Any) -> Measurement:
    """What the estimator says of a follower; it sees nothing but the columns SEEN."""
    leader, follower = (runs.loc[runs["arm"] == name, SEEN] for name in (LEADER, arm))
    return measurement.measure_multiplier(leader, follower, model=model, **options)


def intervals(runs: pd.DataFrame, model: str | None = MODEL) -> pd.DataFrame:
    """The penalty of each follower in each replicate, its interval, and whether that holds what was planted."""
    rows = []
    for number, own in runs.groupby(replicate(runs)):
        for arm, handicap in PLANTED.items():
            found = measured(own, arm, model)
            value, low, high = found.penalty
            rows.append(
                {"replicate": number, "arm": arm, "planted": handicap.penalty, "penalty": value, "low": low, "high": high}
                | {"half_width": math.sqrt(high / low), "holds": low <= handicap.penalty <= high, "model": found.model}
                | {"structure": found.structure.value, "data": found.data.value, "scale_p": found.scale_p}
            )
    return pd.DataFrame(rows)


def live(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs as those of the live networks: what only the planter knows. `params` is FLOP a token / 6, as the estimator counts."""
    structure, data = _factors(runs["arm"])
    params = runs["flops"] / (6 * runs["tokens"]) / structure
    return runs.assign(params=params, tokens=runs["tokens"] / data, flops=runs["flops"] / structure / data)


def _factors(arms: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Structure and data handicap of each row."""
    handicaps = np.array([PLANTED.get(arm, Handicap(1, 1)) for arm in arms])
    return handicaps[:, 0], handicaps[:, 1]


class Errors(NamedTuple):
    """Cells (arm, live params and tokens, log loss by the law) and the errors of log loss that were measured."""

    cells: pd.DataFrame
    seeds: np.ndarray
    misfits: np.ndarray
    curve: fits.Curve


def errors(runs: pd.DataFrame) -> Errors:
    """One law of all live runs, and what runs and cells deviate from it."""
    table = live(runs)
    curve = fits.fit("chinchilla", table, objective="log-squared")
    table["log_loss"] = np.log(table["loss"])
    logs = table.groupby(["arm", "budget", "params"])["log_loss"]
    seeds = (table["log_loss"] - logs.transform("mean")) * np.sqrt(logs.transform("size") / (logs.transform("size") - 1))
    cells = logs.mean().rename("mean").reset_index().merge(table.groupby(["arm", "budget", "params"])["tokens"].first().reset_index())
    cells["law"] = np.log(curve.loss(params=cells["params"].to_numpy(), tokens=cells["tokens"].to_numpy()))
    return Errors(cells, seeds.to_numpy(), (cells["mean"] - cells["law"]).to_numpy(), curve)


def spreads(found: Errors) -> dict[str, float]:
    """Standard deviations of log loss: of a run about its cell, and of a cell's mean about the law beyond what seeds explain."""
    seed = float(np.sqrt(np.mean(found.seeds**2)))
    law = float(np.sum(found.misfits**2)) / (len(found.misfits) - 5)
    return {"seed_sd": seed, "misfit_sd": math.sqrt(max(0.0, law - seed**2 / 3))}


def coverage(runs: pd.DataFrame, replicates: int, noise: str, seed: int = 0) -> pd.DataFrame:
    """How often intervals of simulated replicates hold the planted penalty, by follower."""
    found = errors(runs)
    generator = np.random.Generator(np.random.Philox(key=seed))
    rows = []
    for arm, handicap in PLANTED.items():
        table = nominal(found.cells[found.cells["arm"].isin([LEADER, arm])])
        holds, widths = [], []
        for _ in range(replicates):
            deviations = generator.choice(found.seeds, len(table))
            if noise != NOISES[0]:
                deviations += generator.choice(_beyond_seeds(found), len(table))
            _, low, high = interval_alone(table.assign(loss=np.exp(table["law"] + deviations)), arm)
            holds.append(low <= handicap.penalty <= high)
            widths.append(math.sqrt(high / low))
        rows.append(
            {"noise": noise, "arm": arm, "planted": handicap.penalty, "replicates": replicates, "coverage": np.mean(holds)}
            | {"half_width_median": np.median(widths), "half_width_90%": np.quantile(widths, 0.9)}
            | {"within_limit": np.mean(np.array(widths) <= LIMIT)}
        )
        print(rows[-1], file=sys.stderr, flush=True)
    return pd.DataFrame(rows)


def nominal(cells: pd.DataFrame) -> pd.DataFrame:
    """The inverse of `live`: parameters, tokens and FLOP with all that is computed, one run a cell."""
    structure, data = _factors(cells["arm"])
    params, tokens = cells["params"] * structure, cells["tokens"] * data
    return cells.assign(size=params, params=params, tokens=tokens, flops=6 * params * tokens, seed=0)


def interval_alone(runs: pd.DataFrame, arm: str, draws: int = SIMULATED_DRAWS) -> Band:
    """The penalty and interval of `measured`, without all else that it answers: a tenth of its time."""
    cells = joint_fit.cells(runs[runs["arm"] == LEADER], runs[runs["arm"] == arm])
    joint = joint_fit.fit_models(cells, [MODEL], float(np.exp(cells.log_loss.mean())))[MODEL]
    bands = measurement._Bands(joint, measurement._Interval("bootstrap", 0.95, draws, 0))
    return bands.of("penalty", joint.loss, joint.split)


def _beyond_seeds(found: Errors) -> np.ndarray:
    """The cells' misfits, scaled to the spread that is left when the seeds' share of a mean of three is taken off."""
    return found.misfits / max(1e-12, float(np.std(found.misfits))) * spreads(found)["misfit_sd"]


def figure(runs: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Loss against all compute that was paid for, of leader and followers, with the planted factors as arrows; and the numbers of all three.

    Points are means over seeds; lines are the frontier of the law of all live runs, moved right by what was planted.
    """
    import matplotlib
    from matplotlib import pyplot as plt

    frontier = errors(runs).curve
    colours = dict(zip((LEADER, *PLANTED), (plots.BLACK, plots.BLUE, plots.ORANGE, plots.RED), strict=True))
    rows = []
    with matplotlib.rc_context(plots.STYLE):
        drawn, axes = plt.subplots(figsize=(7.5, 5))
        for arm, colour in colours.items():
            own = runs[runs["arm"] == arm]
            penalty = PLANTED[arm].penalty if arm != LEADER else 1
            means = own.groupby(["budget", "params"]).mean(numeric_only=True)
            axes.scatter(means["flops"], means["loss"], s=16, color=colour, label=NAMES[arm])
            flops = np.geomspace(own["flops"].min(), own["flops"].max(), 60)
            losses = [frontier.optimal(flops=each / penalty).loss for each in flops]
            rows.append(means[["flops", "loss"]].reset_index().assign(what="run", arm=arm))
            rows.append(pd.DataFrame({"flops": flops, "loss": losses, "what": "line", "arm": arm}))
            axes.plot(flops, losses, color=colour, linewidth=1, linestyle=(0, (4, 4)) if arm == "structure2" else "-")  # on data2's line
            if arm != LEADER:
                start = ARROWS[arm]
                loss = float(frontier.optimal(flops=start).loss)
                arrow = {"planted": penalty, "loss": loss, "leader_flops": start, "follower_flops": start * penalty}
                rows.append(pd.DataFrame({"what": "arrow", "arm": arm} | arrow, index=[0]))
                _arrow(axes, start, penalty, loss, colour)
        axes.set(xscale="log", xlabel="training compute, all that was paid for (FLOP)", ylabel="validation loss (nats per token)")
        axes.set_title("Planted handicaps: runs, and their common frontier moved by 2x and 4x")
        axes.legend(title="points: runs, means over seeds\nlines: their common frontier, moved", title_fontsize=9, fontsize=9)
    return drawn, pd.concat(rows, ignore_index=True)


def _arrow(axes: Axes, start: float, penalty: int, loss: float, colour: str) -> None:
    """From the leader's compute to the follower's at one loss."""
    style: Any = {"arrowstyle": "->", "color": colour, "linewidth": 1.5}
    axes.annotate("", (start * penalty, loss), (start, loss), arrowprops=style)
    middle = start * math.sqrt(penalty), loss
    axes.annotate(f"{penalty}x", middle, (0, 4), textcoords="offset points", color=colour, ha="center", weight="bold")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--store", metavar="FILE", help="make the runs, or carry on with them, in this store")
    source.add_argument("--runs", metavar="FILE", help="a table of runs that --out has written")
    parser.add_argument("--out", metavar="FILE", help="write the table of runs here (.csv)")
    parser.add_argument("--coverage", metavar="N", type=int, default=0, help="simulated replicates of each follower")
    parser.add_argument("--figure", metavar="FILE", help="draw loss against compute (.png)")
    arguments = parser.parse_args()
    runs = trained(arguments.store) if arguments.store else pd.read_csv(arguments.runs)
    if arguments.out:
        runs.to_csv(arguments.out, index=False)
    minutes = runs.groupby(replicate(runs))["train_seconds"].sum() / 60
    print(f"{len(runs)} runs; minutes of training steps by replicate: {', '.join(f'{each:.1f}' for each in minutes)}")
    print("spread of log loss:", {name: round(value, 5) for name, value in spreads(errors(runs)).items()})
    for model in (MODEL, None):
        started = time.perf_counter()
        table = intervals(runs, model)
        print(f"\nmodel: {model or 'as the F tests choose'}, {time.perf_counter() - started:.0f} s")
        print(table.to_string(index=False, float_format="%.3f"))
        print(f"{table['holds'].sum()} of {len(table)} hold; half-width at most {table['half_width'].max():.3f}")
    if arguments.coverage:
        started = time.perf_counter()
        table = pd.concat([coverage(runs, arguments.coverage, noise) for noise in NOISES])
        print(f"\n{table.to_string(index=False, float_format='%.3f')}\n{time.perf_counter() - started:.0f} s")
    if arguments.figure:
        drawn, shown = figure(runs)
        print(shown[shown["what"] == "arrow"].dropna(axis=1).to_string(index=False))
        plots.save(drawn, arguments.figure)


if __name__ == "__main__":
    main()
