"""The curves that ship in fits/own, each fitted to rows of fits/own/runs.csv, and their cards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

import fits
from fits.curve import Curve

PROSE, SOURCE, GRM, DEEP = "pd-prose-v1-train", "python-source", "grm@", "grm-order14"
RECIPE = "Adam, CompleteP, WSD (decay 0.3), peak 0.0034 at every size and horizon, context 64, batch by scaling.recipe; benchmarks/plans"
DRAWS = 400


@dataclasses.dataclass(frozen=True)
class Own:
    """A curve to be fitted: its law, the rows it is fitted to, and what its card says it may not be used for."""

    name: str
    law: str
    rows: Callable[[pd.DataFrame], pd.Series]
    title: str
    limits: str
    fixed: Callable[[pd.DataFrame], dict[str, float]] = lambda runs: {}  # constants that are held, from all runs


def dense_rows(runs: pd.DataFrame, corpus: str) -> pd.Series:
    """Which rows are dense runs on a corpus at the tuned rate."""
    tuned = np.isclose(runs["learning_rate"], 0.0034) & (runs["precision"] == "fp32")
    return runs["corpus"].str.startswith(corpus) & (runs["arm"] == "dense") & tuned


def _with(runs: pd.DataFrame, start: tuple[str, ...]) -> pd.Series:
    """Arms of these names on prose, and the dense runs."""
    return dense_rows(runs, PROSE) | (runs["corpus"].str.startswith(PROSE) & runs["arm"].str.startswith(start))


def _alone(runs: pd.DataFrame) -> dict[str, float]:
    """What a student reaches without a teacher: the dense runs' law of non-embedding parameters (the distillation law's terms without a suffix)."""
    curve = fits.fit("chinchilla-on-non-embedding-params", runs[dense_rows(runs, PROSE)])
    return curve.constants | {"gamma": 1.0, "gamma_student": 1.0}


SMALL = (
    "Models of {least} to {most} parameters, bytes, context 64: exponents and ratios hold for this scale. E is that of 64 bytes of context, not of the text,"
    " and not determined at this scale: the curves that share the dense runs differ in it by half a nat."
)
UNITS = {
    "params": "all parameters, embeddings and head included",
    "active_params": "parameters that a token meets",
    "non_embedding_params": "parameters without embeddings and head",
    "tokens": "bytes trained on (grm: symbols)",
    "unique_tokens": "different bytes among them",
    "experts": "experts a layer, 1 for dense",
    "bits_weights": "bits in training",
    "bits_activations": "bits in training",
    "bits_cache": "bits in training",
    "teacher_loss": "nats a byte",
}
CURVES = (
    Own("own-dense-prose", "chinchilla", lambda runs: dense_rows(runs, PROSE), "Dense models on English prose", SMALL),
    Own("own-dense-source", "chinchilla", lambda runs: dense_rows(runs, SOURCE), "Dense models on Python source", SMALL),
    Own(
        "own-dense-grm",
        "chinchilla",
        lambda runs: dense_rows(runs, GRM),
        "Dense models on a Markov source of order 7, whose entropy is 1.3563 nats",
        "The truth of E is known: a check of the fit, not a text.",
    ),
    Own(
        "own-dense-grm-deep",
        "chinchilla",
        lambda runs: dense_rows(runs, DEEP),
        "Dense models on a Markov source of order 14, whose entropy is 1.3348 +- 0.0001 nats",
        "The truth of E is known, and the fit misses it by 0.057 nats, outside its interval. Why is not known; what orders 8 to 14 add, 0.021 nats, is out of reach of models of this size and explains a part.",
    ),
    Own(
        "own-moe",
        "moe-joint",
        lambda runs: _with(runs, ("moe4", "moe8", "moe16", "moe32", "moe64")) & ~runs["arm"].str.contains("fine"),
        "Mixtures of 4 to 64 experts, two a token, beside dense models",
        SMALL + " Two widths of MoE (32 and 48), at most 1e12 FLOP; no saturation in experts (E_start 1 and E_max 1e6 held).",
        fixed=lambda runs: {"E_start": 1.0, "E_max": 1e6},
    ),
    Own(
        "own-precision",
        "precision",
        lambda runs: _with(runs, ("bf16", "fp8", "int8", "int4", "w3", "w4", "w6")),
        "Number formats in training",
        SMALL
        + " Formats are emulated to the bit on a CPU: losses are real, speeds are not those of an accelerator. No run keeps less than 16 bits of cache: gamma_kv is held where that costs nothing.",
        fixed=lambda runs: {"gamma_kv": 1.0},
    ),
    Own(
        "own-repetition",
        "data-constrained",
        lambda runs: _with(runs, ("unique-",)) & (runs["tokens"] <= 16 * runs["unique_tokens"]),
        "Few unique tokens, repeated",
        SMALL + " At most 16 epochs, two widths: beyond, the loss rises again, which the law cannot say. R_N is open.",
    ),
    Own(
        "own-distillation",
        "distillation",
        lambda runs: runs["corpus"].str.startswith(PROSE) & runs["arm"].str.startswith("distilled:"),
        "Students of four teachers, without next-token loss",
        SMALL
        + " Teachers of 43 to 382 thousand parameters. The law of training alone is held at the dense runs' fit, whose uncertainty the intervals leave out; gamma_student is 1.",
        fixed=_alone,
    ),
)


def fit_all(folder: Path) -> None:
    """Fits every curve whose rows are there, and writes FOLDER/NAME.json and the cards."""
    runs, cards = fits.own_runs(), []
    for own in CURVES:
        rows = runs[own.rows(runs)].assign(experts=lambda table: table["experts"].clip(lower=1))
        if rows["arm"].nunique() < (1 if own.law == "chinchilla" else 2):
            print(f"{own.name}: no runs yet")
            continue
        curve = _fitted(own, rows, own.fixed(runs))
        curve.save(folder / f"{own.name}.json")
        cards.append(card(curve, own, rows))
        print(cards[-1], flush=True)
    (folder / "README.md").write_text("# Curves fitted to this project's own runs\n\n" + HEADER + "\n".join(cards))


def _fitted(own: Own, rows: pd.DataFrame, fixed: dict[str, float]) -> Curve:
    curve = fits.fit(own.law, rows, fixed=fixed, bootstrap=DRAWS, resample="clusters", cluster=["params", "tokens", "arm"])
    about = curve.about | {
        "title": own.title,
        "source": "this project's own runs, fits/own/runs.csv",
        "grade": "own: measured here",
        "recipe": RECIPE,
        "limits": _limits(own, rows),
        "units": "; ".join(f"{name}: {UNITS[name]}" for name in curve.law.inputs) + "; loss: nats a byte (grm: a symbol)",
    }
    return dataclasses.replace(curve, name=own.name, about=about)


HEADER = """`runs.csv` holds every run with all that it was made from; `python benchmarks/own.py sweep` makes them, `python benchmarks/own.py fit` these curves
and this page. `fits.own()` lists the curves, `fits.load(NAME)` loads one, `fits.own_runs(where=...)` reads the runs. Intervals: 95%, percentiles of 400 resamples of clusters
(runs of one size, horizon and arm are drawn together); constants without one are held. A row's `settings` and columns make its run again to the identity (`tests/fits/test_own.py`), and to
the bit on the same processor and versions with the same number of threads: `isoloss sweep` trains with one a worker.

"""


def card(curve: Curve, own: Own, rows: pd.DataFrame) -> str:
    """Data, range, recipe, constants, residuals and limits of one curve."""
    interval = curve.interval(0.95)
    constants = "\n".join(f"| {name} | {value:.4g} | {_band(interval.get(name))} |" for name, value in curve.constants.items())
    spans = ", ".join(f"{name} {low:.3g} to {high:.3g}" for name, (low, high) in curve.range.items())
    return f"""## {own.name}

{own.title}: law `{own.law}`, {len(rows)} runs, {rows["flops"].sum():.2g} FLOP. Corpus {", ".join(sorted(rows["corpus"].unique()))}.

| constant | value | 95% |
|---|---|---|
{constants}

Range: {spans}. Residuals: {100 * (curve.residual_sd or 0):.2f}% of the loss (standard deviation). {_certificate(curve)} Recipe: {RECIPE}. Limits: {curve.about["limits"]}
"""


def _limits(own: Own, rows: pd.DataFrame) -> str:
    return own.limits.format(least=f"{rows['params'].min() / 1e3:.0f} thousand", most=f"{rows['params'].max() / 1e6:.2g} million")


def _certificate(curve: Curve) -> str:
    """What the search and the resamples say of themselves."""
    said = curve.certificate or {}
    known = f"Optimum certified, found from {said['starts_at_optimum']} of {said['starts_total']} starts."
    made, converged = curve.about["bootstrap"], curve.about["bootstrap_converged"]
    lost = "" if converged == made else f" {made - converged} of {made} resamples did not converge: the intervals rest on the others."
    return (known if said["certified"] else f"Optimum NOT certified: {said['reason']}.") + lost


def _band(pair: tuple[float, float] | None) -> str:
    return "" if pair is None else f"{pair[0]:.4g} to {pair[1]:.4g}"
