"""How well laws foretell larger runs, on public tables: `ISOLOSS_DATA=FOLDER python benchmarks/extrapolation.py [--only NAME ...] [--out DIR]`.

One protocol for all: below every cut between budgets (or eighths of the runs by compute) each law is fitted by log-Huber with delta 1e-3, and
above it the median of |log L - log Lhat| is taken; a table's error is the median over the cuts at which every law can be fitted. The ensembles are weighted, at each cut, by
forecasts of budgets below that cut only. Runs with less than a token a parameter are left out: they have hardly begun to learn, and one law for
them and for the rest fits neither. Prints Markdown.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fits.comparison import Roll, roll_forward, rolling_extrapolation
from fits.datasets import dataset
from fits.ensembles import EXACT, Mixture, weigh
from fits.laws import law
from fits.laws.base import Law, amplitude, exponent
from fits.laws.broken import broken_power_law
from fits.laws.saturating import saturating
from fits.selection import select
from scaling.plots import save

LAWS = ("chinchilla", "chinchilla-tied", "outer-exponent", "kaplan-joint", "farseer", "saturating-compute")
ENSEMBLES = {"default ensemble": ("outer-exponent", "kaplan-joint", "chinchilla-tied"), "ensemble of all": LAWS}
LEVEL = 0.95
POWER = Law(
    name="power",
    formula="A * examples^-alpha",
    function=lambda c, x: c["A"] * x.power("examples", -c["alpha"]),
    parameters=(amplitude("A"), exponent("alpha", starts=(0.03, 1.0))),
    inputs=("examples",),
    linear=("A",),
)
ONE_INPUT = (POWER, saturating("saturating-examples", "examples"), broken_power_law(1, "examples"))


def _both_counts(frame: pd.DataFrame) -> pd.DataFrame:
    """Where a table has one count of parameters, laws of the other count read it too; flops of a table without them are 6 times count and tokens."""
    for name, other in (("params", "non_embedding_params"), ("non_embedding_params", "params")):
        if name not in frame:
            frame[name] = frame[other]
    if "flops" not in frame:
        frame["flops"] = 6 * frame["params"] * frame["tokens"]
    return frame


def _gadre(corpus: str) -> pd.DataFrame:
    return select(dataset("gadre-overtraining"), f'corpus = "{corpus}"')


def _porian(corpus: str) -> pd.DataFrame:
    return select(dataset("porian-isoflops"), f'corpus = "{corpus}" and hparams = "tuned" and param_count = "standard"')


def _datablations(epochs: float) -> pd.DataFrame:
    frame = dataset("datablations-c4", recipe=True)
    return frame[frame["tokens"] <= epochs * 1.01 * frame["unique_tokens"]]


# By name: the runs, and the laws that are tried beside LAWS.
TABLES: dict[str, tuple[Callable[[], pd.DataFrame], tuple[str, ...]]] = {
    "chinchilla-epoch": (lambda: dataset("chinchilla-epoch", recipe=True), ()),
    "misfitting": (lambda: dataset("misfitting-final", recipe=True), ()),
    "gadre c4": (lambda: _gadre("c4_original"), ()),
    "gadre redpajama": (lambda: _gadre("rpj"), ()),
    "gadre refinedweb": (lambda: _gadre("rw_original"), ()),
    "datablations, 1 epoch": (lambda: _datablations(1), ()),
    "datablations, to 4 epochs": (lambda: _datablations(4), ("data-constrained", "data-constrained-tied")),
    "porian refinedweb": (lambda: _porian("rw"), ()),
    "porian openwebtext2": (lambda: _porian("owt2"), ()),
    "olmo-ladder": (lambda: dataset("olmo-ladder", recipe=True), ()),
    "steplaw": (lambda: dataset("steplaw-dense", recipe=True), ()),
}


def forecasts(name: str, fewest: float = 1.0) -> list[Roll]:
    """Every law at every cut of a table, of the runs with at least so many tokens a parameter."""
    load, more = TABLES[name]
    frame = _both_counts(load())
    frame = frame[frame["tokens"] >= fewest * frame["params"]].reset_index(drop=True)
    return list(roll_forward(frame, [law(each) for each in (*LAWS, *more)]))


def pooled(rolls: Sequence[Roll], names: Sequence[str], cover: bool = True) -> pd.DataFrame:
    """Errors of an ensemble at every cut, its weights and growth from the cuts before; whether intervals cover, once there is such a cut."""
    rows = []
    for cut in sorted({roll.cut for roll in rolls}):
        able = [roll for roll in rolls if roll.cut == cut and roll.trial.law.name in names and np.isfinite(roll.trial.errors).all()]
        if not able:
            continue
        before = [roll for roll in rolls if roll.cut < cut and roll.trial.law.name in names]
        known = int(able[0].groups[~able[0].held].max())
        weights, growth = weigh(before, known)
        shares = np.array([weights.get(roll.trial.law.name, 0.0 if weights else 1.0) for roll in able])
        shares = np.full(len(able), 1 / len(able)) if not shares.sum() else shares / shares.sum()
        errors = np.stack([roll.trial.errors for roll in able])
        line = {"cut": cut, "error": float(np.median(np.abs(shares @ errors))), "equal": float(np.median(np.abs(errors.mean(axis=0))))}
        far = able[0].groups[able[0].held] == able[0].groups.max()
        line |= {"farthest": float(np.median(np.abs((shares @ errors)[far]))), "covered": 0, "asked": 0}
        if before and cover:
            line |= {"covered": _covered(able, shares, growth), "asked": errors.shape[1]}
        rows.append(line)
    return pd.DataFrame(rows)


def _covered(able: Sequence[Roll], shares: np.ndarray, growth: dict[str, float]) -> int:
    """How many runs lie within the mixture's interval."""
    inside = 0
    for run, ahead in enumerate(able[0].ahead):
        means = np.array([-roll.trial.errors[run] for roll in able])
        scatter = np.array([roll.trial.curve.residual_sd if roll.trial.curve else 0.0 for roll in able], float)
        grown = np.array([growth.get(roll.trial.law.name, 0.0) * max(0.0, ahead) for roll in able])
        share = Mixture(means, np.maximum(np.hypot(scatter, grown), EXACT), shares).share_below(0.0)
        inside += (1 - LEVEL) / 2 <= share <= (1 + LEVEL) / 2
    return inside


def summary(name: str, rolls: Sequence[Roll]) -> tuple[dict[str, object], dict[str, object], pd.DataFrame]:
    """A table's line of errors over all runs ahead, its line over the largest budget, and its cuts law by law."""
    first, cuts = rolls[0], sorted({roll.cut for roll in rolls})
    ahead = [float(roll.ahead.max()) for roll in rolls if roll.trial.law is first.trial.law]
    line: dict[str, object] = {"table": name, "runs": len(first.groups), "cuts": len(cuts), "decades": f"{min(ahead):.1f}-{max(ahead):.1f}"}
    far = dict(line)
    long = pd.DataFrame(
        [
            {
                "table": name,
                "law": roll.trial.law.name,
                "cut": roll.cut,
                "decades_ahead": float(roll.ahead.max()),
                "error": float(np.median(np.abs(roll.trial.errors))),
                "farthest": float(np.median(np.abs(roll.trial.errors[roll.groups[roll.held] == roll.groups.max()]))),
                "baseline_error": roll.baseline,
                "certified": bool(roll.trial.curve and roll.trial.curve.certificate and roll.trial.curve.certificate["certified"]),
                "reason": roll.trial.reason,
            }
            for roll in rolls
        ]
    )
    common = _common(long)
    shared = set(common["cut"])
    line["cuts"] = far["cuts"] = f"{len(shared)}" + (f" of {len(cuts)}" if len(shared) < len(cuts) else "")
    line["baseline"] = f"{100 * common['baseline_error'].median():.2f}"
    for each, part in common.groupby("law", sort=False):
        line[str(each)], far[str(each)] = (f"{100 * part[column].median():.2f}" for column in ("error", "farthest"))
    for title, names in ENSEMBLES.items():
        table = pooled(rolls, names)
        table = table[table["cut"].isin(shared)]
        line[title], far[title] = f"{100 * table['error'].median():.2f}", f"{100 * table['farthest'].median():.2f}"
        line[f"{title}, equal weights"] = f"{100 * table['equal'].median():.2f}"
        line[f"{title}, {LEVEL:.0%} covers"] = f"{100 * table['covered'].sum() / max(1, table['asked'].sum()):.0f}%"
        line[f"{title}, weights"] = ", ".join(
            f"{key} {value:.2f}" for key, value in weigh([r for r in rolls if r.trial.law.name in names])[0].items()
        )
    return line, far, long


def one_input() -> pd.DataFrame:
    """Learning curves, each cut where its authors cut it: median error of every law over the curves of a domain."""
    frame, rows = dataset("revisiting-lang"), []
    for key, part in frame.groupby(["domain", "task", "model"]):
        domain, task, model = map(str, key if isinstance(key, tuple) else (key,))
        if "2-shot" in task:  # the same models and tasks as with one shot
            continue
        part = part[["examples", "loss", "Training"]].reset_index(drop=True)
        cut = part.loc[part["Training"] == 0, "examples"].min()
        rows.append(
            rolling_extrapolation(part, ONE_INPUT, by="examples", cuts=[cut]).assign(domain=domain, curve=f"{domain} {task} {model}")
        )
    addition = dataset("bnsl-4digit-addition").drop(columns="split")
    cut = float(np.sort(addition["examples"])[-3])
    rows.append(rolling_extrapolation(addition, ONE_INPUT, by="examples", cuts=[cut]).assign(domain="addition", curve="addition"))
    long = pd.concat(rows, ignore_index=True)
    table = (100 * long.pivot_table(index="domain", columns="law", values=["error"], aggfunc="median")["error"]).round(2)
    table["baseline"] = (100 * long.groupby("domain")["baseline_error"].median()).round(2)
    table.insert(0, "curves", long.groupby("domain")["curve"].nunique())
    return table.reset_index()


def by_law(long: pd.DataFrame) -> pd.DataFrame:
    """Per law the median and the worst over tables of error / best law's error, of error / baseline, and how often the runs determine it."""
    common = _common(long[long["law"].isin(LAWS)])
    errors = common.pivot_table(index="table", columns="law", values="error", aggfunc="median", sort=False)
    guess = common.groupby("table", sort=False)["baseline_error"].median()
    relative = errors.div(errors.min(axis=1), axis=0)
    rows = {
        "error / best law, median": relative.median().round(2),
        "error / best law, worst": relative.max().round(2),
        "error / baseline, median": errors.div(guess, axis=0).median().round(2),
        "tables won": relative.eq(1.0).sum(),
        "certified, %": (100 * common.groupby("law")["certified"].mean()).round(0),
    }
    return pd.DataFrame(rows).sort_values("error / best law, median").reset_index()


def choose(rolls: Mapping[str, Sequence[Roll]], able: Sequence[str]) -> list[tuple[str, float]]:
    """The default laws in the order in which they enter, each with the error of the ensemble so far: the best law, then whichever lowers the error most.

    The error is the geometric mean over tables of the median over the cuts at which every law can be fitted, from the second on.
    """
    failed = {name: {roll.cut for roll in each if not np.isfinite(roll.trial.errors).all()} for name, each in rolls.items()}
    shared = {name: sorted({roll.cut for roll in each} - failed[name])[1:] for name, each in rolls.items()}

    @functools.cache
    def error(names: frozenset[str]) -> float:
        errors = []
        for name, each in rolls.items():
            table = pooled(each, sorted(names), cover=False)
            errors.append(table.loc[table["cut"].isin(shared[name]), "error"].median())
        return float(np.exp(np.mean(np.log(errors))))

    chosen: list[tuple[str, float]] = []
    while rest := [name for name in able if name not in dict(chosen)]:
        found = [(name, error(frozenset([*dict(chosen), name]))) for name in rest]
        best = min(found, key=lambda pair: pair[1])
        if chosen and best[1] >= chosen[-1][1]:
            break
        chosen.append(best)
    return chosen


def choice(rolls: Mapping[str, Sequence[Roll]], laws: pd.DataFrame) -> str:
    """What is chosen, and how often each law is chosen again when one table is left out, in Markdown."""
    able = list(laws.loc[laws["certified, %"] >= 50, "law"])
    chosen = choose(rolls, able)
    again = [dict(choose({name: each for name, each in rolls.items() if name != left}, able)) for left in rolls] if len(rolls) > 1 else []
    rows = [(name, f"{100 * error:.3f}", f"{sum(name in other for other in again)} of {len(again)}") for name, error in chosen]
    others = [(name, "", f"{sum(name in other for other in again)} of {len(again)}") for name in able if name not in dict(chosen)]
    return markdown(
        pd.DataFrame([*rows, *others], columns=["law enters", "error of the ensemble with it, %", "chosen with one table left out"])
    )


def _common(long: pd.DataFrame) -> pd.DataFrame:
    """The cuts at which every law has forecasts: laws are compared on the same runs only."""
    return long[long["error"].notna().groupby([long["table"], long["cut"]]).transform("all")]


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table of the values as they are."""
    lines = [
        [str(name) for name in table.columns],
        ["---"] * len(table.columns),
        *([str(value) for value in row] for row in table.itertuples(index=False)),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(TABLES), metavar="NAME", default=list(TABLES), help="these tables only")
    parser.add_argument("--out", type=Path, help="a folder for the forecasts (CSV) and their figure")
    parser.add_argument(
        "--fewest", type=float, default=1.0, metavar="RATIO", help="tokens a parameter from which runs count (1; 0: all runs)"
    )
    options = parser.parse_args()
    started, lines, farthest, parts, kept = time.perf_counter(), [], [], [], {}
    for name in options.only:
        kept[name] = forecasts(name, options.fewest)
        line, far, long = summary(name, kept[name])
        lines.append(line)
        farthest.append(far)
        parts.append(long)
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    long = pd.concat(parts, ignore_index=True)
    print("\nMedian error over all runs ahead, percent\n\n" + markdown(pd.DataFrame(lines).fillna("")))
    print("\nMedian error at the largest budget, percent\n\n" + markdown(pd.DataFrame(farthest).fillna("")))
    laws = by_law(long)
    print("\nLaws\n\n" + markdown(laws))
    print("\nDefault laws, from those certified at half of the cuts\n\n" + choice(kept, laws))
    print("\nOne input, cut as by the authors, percent\n\n" + markdown(one_input()))
    print(f"\n{time.perf_counter() - started:.0f} s in all")
    if options.out:
        from scaling.fit_plots import extrapolation_figure

        options.out.mkdir(parents=True, exist_ok=True)
        long.to_csv(options.out / "extrapolation.csv", index=False, float_format="%.8g")
        save(extrapolation_figure(long), options.out / "extrapolation.png")


if __name__ == "__main__":
    main()
