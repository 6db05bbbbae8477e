"""From a table of runs to a Curve: the global optimum with its certificate, and the bootstrap."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fits import absolute, problems, solve, starts
from fits.bootstrap import draws as bootstrap_draws
from fits.bootstrap import part_of
from fits.certificate import certificate, say_what_is_open
from fits.curve import Curve
from fits.errors import InputError
from fits.laws import law as find_law
from fits.laws.base import Law, to_constants
from fits.objectives import objective as find_objective
from fits.sample import Sample, digest, prepare

SEARCH_ROWS = 5000  # a larger table is searched on so many of its rows, and the best few optima are then polished on all
POLISHED = 3


def fit(
    law: str | Law,
    runs: pd.DataFrame,
    *,
    objective: str = "log-huber",
    delta: float = 1e-3,
    over: float = 10.0,
    fixed: Mapping[str, float] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    weights: str | Sequence[float] | None = None,
    bootstrap: int = 0,
    resample: str = "rows",
    cluster: str | Sequence[str] | None = None,
    seed: int = 0,
    flops_per_param_token: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Curve:
    """Fits `law` to `runs` (`fits.runs` columns) and returns the Curve.

    objective: one of `fits.objectives.OBJECTIVES`, a sum over rows; "log-huber" with delta 1e-3 as in Hoffmann et al. 2022. delta: its threshold.
    over: how often an asymmetric objective counts over-predicted rows. fixed: constants held at a value; bounds: {name: (low, high)}. weights: a column or
    numbers. bootstrap: so many resamples ("rows", "clusters" of the columns `cluster`, "wild") give `curve.draws`. flops_per_param_token: c of C = c N D
    for optima, by default the median of flops / (size tokens) over the rows. Raises InputError.
    """
    started = time.perf_counter()
    if bootstrap < 0 or not 0 <= seed < 2**63:
        raise InputError(f"bootstrap and seed must be 0 or more, got {bootstrap} and {seed}")
    if flops_per_param_token is not None and not flops_per_param_token > 0:
        raise InputError(f"flops_per_param_token must be positive, got {flops_per_param_token}")
    if not isinstance(runs, pd.DataFrame):
        raise InputError(f"runs must be a pandas.DataFrame, got {type(runs).__name__}; read a file with fits.read_runs")
    found, goal = find_law(law), find_objective(objective, delta, over)
    sample = prepare(found, runs, goal, fixed=fixed, bounds=bounds, weights=weights, cluster=cluster)
    theta, statement = _optimum(sample, bootstrap)
    sample = dataclasses.replace(sample, theta=theta)
    draws = bootstrap_draws(sample, bootstrap, resample, seed, progress) if bootstrap and np.isfinite(statement["objective"]) else None
    frame, rows = sample.frame, len(sample.frame)
    residual = problems.residuals(sample.problem, theta)
    about: dict[str, Any] = {
        "objective": objective,
        "delta": delta if "huber" in objective else None,
        "over": over if "asymmetric" in objective else None,
        "rows": rows,
        "fixed": dict(fixed or {}),
        "bounds": {name: list(pair) for name, pair in (bounds or {}).items()},
        "weights": weights if isinstance(weights, str) else None if weights is None else "given",
        "runs_sha256": digest(frame[[*found.inputs, found.output]]),
        "bootstrap": bootstrap,
        "resample": resample if bootstrap else None,
        "cluster": cluster if cluster is None or isinstance(cluster, str) else list(cluster),
        "bootstrap_converged": None if draws is None else int(np.isfinite(draws).all(axis=1).sum()),
        "seed": seed,
        "derived": frame.attrs.get("derived"),
        "prepared": frame.attrs.get("prepared", []),
        "warnings": [*frame.attrs.get("warnings", []), *_mixtures(frame)],
    }
    if "corpus" in frame and frame["corpus"].nunique() == 1:
        about["corpus"] = str(frame["corpus"].iloc[0])
    free = int((sample.problem.low < sample.problem.high).sum())
    return Curve(
        law=found,
        constants=dict(zip(found.constants, map(float, to_constants(found, theta)), strict=True)),
        draws=None if draws is None else draws[np.isfinite(draws).all(axis=1)],
        residual_sd=float(np.sqrt(np.sum(sample.weights * residual**2) / max(1, rows - free))),
        flops_per_param_token=float(flops_per_param_token or _flops_per_param_token(found, frame)),
        range={name: [float(frame[name].min()), float(frame[name].max())] for name in _ranged(found, frame)},
        certificate=statement,
        about=about | {"free": free, "seconds": time.perf_counter() - started},
        sample=sample,
    )


def _optimum(sample: Sample, resamples: int) -> tuple[np.ndarray, dict[str, Any]]:
    """The best theta that the search finds, and what it says of itself; `resamples` are going to be fitted after it."""
    problem, rows = sample.problem, len(sample.frame)
    searched = _subsample(sample) if rows > SEARCH_ROWS else sample
    begin = starts.starts(problem.law, searched.problem.inputs, searched.problem.target, problem.low, problem.high)
    if not len(begin):
        raise InputError(f"law {problem.law.name}: no start has a finite output on these rows")
    # An absolute objective is searched as a Huber one of small threshold, and then followed to its kink.
    smooth = problem.objective.delta or 1e-4 * problem.spread
    room = part_of(resamples, rows) if searched is sample else 0
    minima = solve.minimise(searched.problem, begin, searched.weights[None], delta=smooth, room=room)
    statement, best = certificate(problem, minima, len(searched.frame))
    if searched is not sample:
        order = np.argsort(np.where(np.isfinite(minima.objective), minima.objective, np.inf))[:POLISHED]
        search = {name: statement[name] for name in ("starts_total", "starts_at_optimum", "second_best")}
        minima = solve.minimise(problem, minima.theta[order], sample.weights[None], delta=smooth, first_delta=smooth)
        statement, best = certificate(problem, minima, rows)
        statement |= search | {"searched_rows": SEARCH_ROWS}
    theta = minima.theta[best]
    if not problem.objective.smooth and np.isfinite(statement["objective"]):
        theta = _follow_to_kink(sample, minima, statement)
    say_what_is_open(problem, theta, statement)
    return theta, statement


def _subsample(sample: Sample) -> Sample:
    chosen = np.sort(np.random.Generator(np.random.Philox(key=0)).choice(len(sample.frame), SEARCH_ROWS, replace=False))
    problem = dataclasses.replace(sample.problem, inputs=sample.problem.inputs[chosen], target=sample.problem.target[chosen])
    return dataclasses.replace(sample, problem=problem, frame=sample.frame.iloc[chosen], weights=sample.weights[chosen])


def _follow_to_kink(sample: Sample, minima: solve.Minimum, statement: dict[str, Any]) -> np.ndarray:
    """The L1 optimum from the best few smooth ones; the statement then speaks of the duality gap."""
    order, seen = np.argsort(np.where(np.isfinite(minima.objective), minima.objective, np.inf)), []
    for index in order:
        if len(seen) < POLISHED and all(abs(minima.objective[index] / minima.objective[other] - 1) > 1e-6 for other in seen):
            seen.append(int(index))
    ends = [absolute.polish(sample.problem, minima.theta[index], sample.weights) for index in seen]
    best = min(ends, key=lambda end: end.objective)
    sure = best.gap <= absolute.GAP
    statement |= {"certified": sure, "objective": best.objective, "optimality": best.gap}
    statement["reason"] = "" if sure else f"the duality gap is {best.gap:.1e} of the objective, above {absolute.GAP:.0e}"
    return best.theta


def _flops_per_param_token(law: Law, frame: pd.DataFrame) -> float:
    size = law.size or "params"
    if {"flops", size, "tokens"} <= set(frame.columns):
        return float((frame["flops"] / (frame[size] * frame["tokens"])).median())
    return 6.0


def _ranged(law: Law, frame: pd.DataFrame) -> list[str]:
    """Columns whose range the curve keeps: its inputs and output, and the usual ones where they are numbers."""
    usual = [name for name in ("params", "tokens", "flops", "loss") if name in frame and pd.api.types.is_numeric_dtype(frame[name])]
    return list(dict.fromkeys([*law.inputs, *usual, law.output]))


def _mixtures(frame: pd.DataFrame) -> list[str]:
    """What a table mixes that a law is rarely meant for: arms, number formats, runs that were to be held out."""
    found = [(name, frame[name].nunique()) for name in ("arm", "precision", "holdout") if name in frame]
    return [f"the rows mix {count} values of {name!r}; select one with where" for name, count in found if count > 1]
