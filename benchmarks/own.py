"""This project's own runs: plans to runs, runs to curves, predictions before and after.

    python benchmarks/own.py sweep --store own.sqlite        the plans of benchmarks/plans, with the teacher; carries on where it stopped
    python benchmarks/own.py export --store own.sqlite       writes fits/own/runs.csv
    python benchmarks/own.py fit                             fits/own/*.json and their cards, from the table
    python benchmarks/own.py register --width 96 --flops 3e13
                                                             the loss that the curve predicts of a run that has not been made
    python benchmarks/own.py score                           predictions beside runs

The English prose is a text of one's own: `isoloss data build TEXT --name pd-prose` (here: pd-prose-v1-train.txt.xz of ISOLOSS_CORPORA).
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

import fits
import models
from models.config import ModelConfig
from scaling.data.corpora import Options, load_corpus
from scaling.errors import InputError
from scaling.finished import record_of
from scaling.progress import SweepProgress
from scaling.run import RunConfig
from scaling.store import Store
from scaling.sweeps import sweep
from scaling.training import train

HERE = Path(__file__).parent
OWN = HERE.parent / "fits" / "own"
PLANS = ("rates", "dense", "largest", "arms", "laggard", "distilled", "taught", "grm", "grm-deep", "source")
TEACHERS = {  # width, tokens
    "teacher-32": (32, 1_162_240),
    "teacher-48": (48, 2_086_400),
    "teacher": (96, 1_271_296),
    "teacher-96": (96, 4_238_552),
}
COLUMNS = [
    "run_id",
    "corpus",
    "arm",
    "precision",
    "seed",
    "width",
    "layers",
    "experts",
    "params",
    "active_params",
    "non_embedding_params",
    "tokens",
    "unique_tokens",
    "flops",
    "loss",
    "loss_se",
    "bits_per_byte",
    "status",
    "reason",
    "steps",
    "batch",
    "learning_rate",
    "optimizer",
    "budget",
    "train_seconds",
    "threads",
    "device",
    "bits_weights",
    "bits_activations",
    "bits_cache",
    "tokens_asked",
    "teacher",
    "teacher_loss",
    "layout",
    "versions",
    "settings",
]
PREDICTIONS = OWN / "predictions.csv"
LADDER = 'arm = "dense" and corpus = "pd-prose-v1-train@6056ca6b" and learning_rate = 0.0034 and flops < 4e12'
BY = ("ensemble", "chinchilla", "outer-exponent")  # the first is the prediction, the others are what its members or rivals say


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("sweep", "export"):
        commands.add_parser(name).add_argument("--store", default="own.sqlite")
    commands.add_parser("fit")
    commands.add_parser("score")
    register = commands.add_parser("register")
    register.add_argument("--width", type=int, required=True)
    register.add_argument("--flops", type=float, required=True)
    register.add_argument("--where", default=LADDER)
    given = parser.parse_args()
    if given.command == "sweep":
        make(Path(given.store))
    elif given.command == "export":
        export(Path(given.store))
    elif given.command == "fit":
        from own_curves import fit_all

        fit_all(OWN)
    elif given.command == "register":
        print(prediction(given.width, given.flops, given.where))
    else:
        print(scores().to_string(index=False))


def prose() -> None:
    """Builds the corpus of English prose, unless it has been."""
    try:
        load_corpus("pd-prose")
    except InputError:
        folder = os.environ.get("ISOLOSS_CORPORA")
        if folder is None:
            raise SystemExit("own: build the prose first: isoloss data build TEXT --name pd-prose, or set ISOLOSS_CORPORA") from None
        load_corpus(str(Path(folder) / "pd-prose-v1-train.txt.xz"), Options(name="pd-prose"))


def make(store: Path) -> None:
    """All plans into one store, in the order in which one needs the other."""
    prose()
    for name in PLANS:
        if name == "distilled":
            make_teachers()
        sweep(HERE / "plans" / f"{name}.toml", store, progress=SweepProgress())


def make_teachers() -> None:
    """Trains the teachers that are not there, each into a folder of its name."""
    for folder, (width, tokens) in TEACHERS.items():
        if not Path(folder).exists():
            shape = models.ladder(width, context=64)
            train(RunConfig(shape, tokens, "pd-prose", seed=7, arm="teacher", learning_rate=0.0034, kernels=True), save=folder)


def export(store: Path) -> None:
    """Every finished run as a row of fits/own/runs.csv, with the teachers, which are read from their folders.

    `settings` holds what differs from the defaults of RunConfig and ModelConfig, and the folder of a teacher.
    """
    teachers = {folder: record_of(folder) for folder in TEACHERS if Path(folder).exists()}
    losses = {record["run_id"]: record["loss"] for record in teachers.values()}
    rows = [row(record, losses) for record in Store(store).records()]
    rows += [row(record, losses, {"saved_as": folder}) for folder, record in teachers.items()]
    table = pd.DataFrame(rows)[COLUMNS].sort_values(["corpus", "arm", "budget", "params", "learning_rate", "seed"])
    OWN.mkdir(exist_ok=True)
    table.to_csv(OWN / "runs.csv", index=False)  # all digits: a run's identity is made of them
    print(f"{len(table)} runs, {table['flops'].sum():.3g} FLOP: {OWN / 'runs.csv'}")


def row(record: Mapping[str, Any], teachers: Mapping[str, float], more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A record as a row of the table; `teachers`: losses by run."""
    found = dict(record) | {f"bits_{place}": bits for place, bits in record["bits"].items()}
    found["settings"] = settings(record["config"], more or {})
    found["tokens_asked"] = record["config"]["tokens"]
    found["teacher_loss"] = teachers.get(record["teacher"])
    found["versions"] = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return found


def settings(config: dict, more: Mapping[str, Any]) -> str:
    """What a run's configuration sets, as JSON; with the columns it makes the run again (tests/fits/test_own.py does so)."""
    plain = {field.name: field.default for kind in (ModelConfig, RunConfig) for field in dataclasses.fields(kind)}
    flat = {key: value for key, value in config.items() if key != "model"} | config["model"]
    shown = {key: value for key, value in flat.items() if key not in COLUMNS and value != plain.get(key)}
    return json.dumps(shown | dict(more), sort_keys=True)


def prediction(width: int, flops: float, where: str) -> str:
    """A line of predictions.csv: the loss of a run that has not been made, by an ensemble of laws fitted to runs far below it, and by two laws alone."""
    runs = fits.own_runs(where)
    shape = models.ladder(width, context=64)
    tokens = int(flops / models.training_flops(shape).training)
    params = models.count_params(shape).total
    pooled = fits.ensemble(runs, bootstrap=200)
    told = {name: fits.fit(name, runs, bootstrap=1000).predict(params=params, tokens=tokens) for name in BY[1:]}
    told = {BY[0]: pooled.predict(params=params, tokens=tokens)} | told
    line = {
        "registered": datetime.date.today().isoformat(),
        "fitted_to": where,
        "rows": len(runs),
        "most_flops": runs["flops"].max(),
        "width": width,
        "params": params,
        "tokens": tokens,
        "flops": flops,
        "times_beyond": flops / runs["flops"].max(),
    }
    for name, band in told.items():
        line |= {name: band.value, f"{name}_low": band.low, f"{name}_high": band.high}
    table = pd.DataFrame([line])
    if PREDICTIONS.exists():
        table = pd.concat([pd.read_csv(PREDICTIONS), table])
    table.to_csv(PREDICTIONS, index=False, float_format="%.6g")
    return pd.Series(line).to_string()


def scores() -> pd.DataFrame:
    """Every registered prediction beside the mean of the runs that were made of it."""
    told, runs = pd.read_csv(PREDICTIONS), fits.own_runs('arm = "dense"')
    rows = []
    for line in told.to_dict("records"):
        made = runs[
            (runs["width"] == line["width"])
            & ((runs["flops"] / line["flops"] - 1).abs() < 0.01)
            & runs["corpus"].str.startswith("pd-prose")
        ]
        loss = made["loss"].mean()
        row = {"flops": line["flops"], "width": line["width"], "times beyond": line["times_beyond"], "runs": len(made), "loss": loss}
        for name in BY:
            inside = line[f"{name}_low"] <= loss <= line[f"{name}_high"]
            row |= {name: line[name], f"{name} error %": 100 * (line[name] / loss - 1), f"{name} band holds": inside}
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
