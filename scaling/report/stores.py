"""What a store of runs says, also while it is empty or half finished: how far it is, what is missing, what there is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from scaling.report.page import Section, rows
from scaling.store import integrity, open_existing
from scaling.store.rows import DIVERGED, DONE, FAILED, PLANNED, RUNNING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ROWS = 500
LEAST_BUDGETS = 3  # of a ladder that a law can be fitted to
_SHOWN = [
    "run_id",
    "arm",
    "precision",
    "seed",
    "width",
    "params",
    "budget",
    "tokens",
    "flops",
    "loss",
    "loss_se",
    "train_seconds",
    "holdout",
    "status",
]


def store_section(path: Path) -> Section:
    """The section of a store. Raises InputError for a file that is none."""
    with open_existing(path) as store:
        runs, check = store.frame(), integrity.check(store)
        failed = store.records(states=(FAILED,))
        versions = _versions(store.records(states=(DONE,)))
    done = runs[runs["status"] == DONE]
    problems = [f"{each['run_id'] or 'the file'}: {each['problem']}" for each in check.problems]
    whole = f"isoloss runs {path} --check lists all {len(problems)} problems"
    counts = {str(state): int(count) for state, count in runs["status"].value_counts().items()}
    facts = rows({"runs": str(len(runs)), **counts})
    if len(done):
        facts += _best(done)
    tables = []
    if len(runs):
        tables.append(("How far it is: runs that are done, of those known", _progress(runs)))
        tables.append((f"Runs{f', the first {MOST_ROWS} of {len(runs)}' if len(runs) > MOST_ROWS else ''}", _listed(runs)))
    return Section(
        kind="store",
        source=str(path),
        title=f"Runs in {path.name}",
        facts=facts,
        warnings=(*_missing(runs, done), *_failures(failed), *_doubts(done, versions), *_few(problems, whole)),
        figures=(("runs", _figure(done), f"{len(done)} finished runs; hollow points are held out."),) if len(done) else (),
        tables=tuple(tables),
        provenance=rows(_provenance(done, versions)),
    )


def finished(path: Path) -> pd.DataFrame:
    """The runs of a store that are done."""
    with open_existing(path) as store:
        runs = store.frame()
    return runs[runs["status"] == DONE].reset_index(drop=True)


def _figure(done: pd.DataFrame) -> Figure:
    from scaling.report.figures import runs_figure

    return runs_figure(done)


def _missing(runs: pd.DataFrame, done: pd.DataFrame) -> list[str]:
    """What is not there yet, and the command that would make it."""
    if runs.empty:
        return ["The store holds no runs: isoloss sweep PLAN --store STORE plans and trains them."]
    said = []
    counts = runs["status"].value_counts()
    waiting = int(counts.get(PLANNED, 0))
    if waiting:
        said.append(f"{waiting} of {len(runs)} runs are planned and not trained yet: the same isoloss sweep command carries on with them.")
    if running := int(counts.get(RUNNING, 0)):
        said.append(f"{running} runs are being trained now; what they find is not in this report.")
    if done.empty:
        said.append("No run is finished, so there are no losses, figures or fits to show.")
        return said
    if arms := [str(arm) for arm in runs["arm"].dropna().unique() if arm not in set(done["arm"])]:
        said.append(f"No run is finished of {'arms' if len(arms) > 1 else 'arm'} {', '.join(arms)}.")
    budgets = done.loc[~done["holdout"].eq(True), "budget"].dropna().nunique()
    if budgets < LEAST_BUDGETS:
        said.append(
            f"Runs at {budgets} budget{'s' if budgets != 1 else ''} are finished: a law needs at least {LEAST_BUDGETS} to be fitted to with any trust."
        )
    held = runs["holdout"].eq(True)
    if held.any() and not (held & (runs["status"] == DONE)).any():
        said.append("No held-out run is finished: nothing tests a fit beyond its range yet.")
    if diverged := int(counts.get(DIVERGED, 0)):
        said.append(f"{diverged} runs diverged: they are listed and not drawn.")
    return said


def _failures(failed: list[dict[str, Any]]) -> list[str]:
    said = [f"run {entry['run_id']} failed: {entry.get('reason') or 'no reason was kept'}" for entry in failed]
    return _few(said, f"{len(said)} runs failed in all")


def _doubts(done: pd.DataFrame, versions: dict[str, set[str]]) -> list[str]:
    """What a reader of the losses should know."""
    said = []
    repeated = done[done["unique_tokens"] < done["tokens"]]
    if len(repeated):
        most = (repeated["tokens"] / repeated["unique_tokens"]).max()
        said.append(f"{len(repeated)} runs repeat their data, up to {most:.1f} epochs: a law without repetition does not describe them.")
    if (corpora := len(_names(done["corpus"]))) > 1:
        said.append(f"Runs on {corpora} corpora: their losses are not to be compared with each other.")
    if len(done) and done.groupby(["arm", "width", "budget"], dropna=False)["seed"].nunique().max() < 2:
        said.append("One seed only: the noise between seeds is not known.")
    if len(numerics := versions.get("numerics", set())) > 1:
        said.append(
            f"Runs were made with versions {', '.join(sorted(numerics))} of the training numerics: equal settings may differ slightly."
        )
    return said


def _few(texts: list[str], whole: str, most: int = 3) -> list[str]:
    return [*texts[:most], f"... {whole}."] if len(texts) > most else texts


def _best(done: pd.DataFrame) -> tuple[tuple[str, str], ...]:
    best = done.sort_values("loss").iloc[0]
    return rows(
        {
            "compute": f"{done['flops'].min():.3g} to {done['flops'].max():.3g} FLOP a run, {done['flops'].sum():.3g} in all",
            "sizes": f"{done['params'].nunique()} shapes, {done['params'].min():,.0f} to {done['params'].max():,.0f} parameters",
            "least loss": f"{best['loss']:.4f} nats a token ({best['arm']}, {best['flops']:.3g} FLOP)",
            "training time": f"{done['train_seconds'].sum():,.0f} s in all",
        }
    )


def _progress(runs: pd.DataFrame) -> pd.DataFrame:
    """One row an arm, one column a budget: done / known."""
    budgets = runs["budget"].map(lambda value: "no budget" if pd.isna(value) else f"{value:.3g} FLOP")
    order = list(dict.fromkeys(budgets[runs["budget"].fillna(0).sort_values().index]))
    keys = [runs["arm"].fillna("?"), budgets]
    known, finished = runs.groupby(keys).size(), (runs["status"] == DONE).groupby(keys).sum()
    text = (finished.astype(str) + " of " + known.astype(str)).unstack(fill_value="")[order]
    return text.rename_axis(None, axis=1).rename_axis("arm").reset_index()


def _listed(runs: pd.DataFrame) -> pd.DataFrame:
    order = ["status", "arm", "budget", "params", "seed"]  # what is done comes first
    return runs[_SHOWN].sort_values(order, key=lambda column: column.ne(DONE) if column.name == "status" else column).head(MOST_ROWS)


def _versions(records: list[dict[str, Any]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for record in records:
        for name, version in (record.get("versions") or {}).items():
            found.setdefault(name, set()).add(str(version))
    return found


def _provenance(done: pd.DataFrame, versions: dict[str, set[str]]) -> dict[str, str]:
    known = {name: ", ".join(sorted(values)) for name, values in versions.items()}
    return {"corpus": ", ".join(_names(done["corpus"])), "device": ", ".join(_names(done["device"]))} | known


def _names(column: pd.Series) -> list[str]:
    return sorted(map(str, column.dropna().unique()))
