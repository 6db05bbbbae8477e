"""From a table of runs to a Curve: the global optimum with its certificate, and the bootstrap."""

from __future__ import annotations

import hashlib
import math
import time
from typing import Any

import numpy as np
import pandas as pd

from fits import solve
from fits.curve import Curve
from fits.errors import InputError
from fits.laws import law as find_law
from fits.laws.base import Law
from fits.runs import complete

OBJECTIVES = ("log-huber", "log-squared")
SAME_OPTIMUM = 1e-6  # relative difference of objectives below which two starts ended at the same place


def fit(
    law: str | Law,
    runs: pd.DataFrame,
    *,
    objective: str = "log-huber",
    delta: float = 1e-3,
    bootstrap: int = 0,
    seed: int = 0,
    flops_per_param_token: float | None = None,
) -> Curve:
    """Fits `law` to `runs` (`fits.runs` columns) and returns the Curve.

    The objective is the sum over rows of Huber(log L - log L_hat, delta) as in Hoffmann et al. 2022 (`log-huber`), or of half
    the squares (`log-squared`). `bootstrap` resamples of the rows give `curve.draws`. `flops_per_param_token` is c of
    C = c N D for optima: by default the median of flops / (params tokens) over the rows.
    """
    started = time.perf_counter()
    if bootstrap < 0 or seed < 0:
        raise InputError(f"bootstrap and seed must be 0 or more, got {bootstrap} and {seed}")
    found = find_law(law)
    problem, frame = _problem(found, runs, objective, delta)
    rows = len(frame)
    starts = found.starts(problem.inputs, problem.log_loss)
    minima = solve.minimise(problem, starts, np.ones((len(starts), rows)))
    certificate, best = _certificate(found, minima, rows)
    theta = np.asarray(minima.theta)[best]
    draws = _bootstrap(problem, theta, bootstrap, seed) if bootstrap else None
    residual = _residuals(problem, theta)
    ratio = frame["flops"] / (frame["params"] * frame["tokens"])
    about: dict[str, Any] = {
        "objective": objective,
        "delta": delta if objective == "log-huber" else None,
        "rows": rows,
        "runs_sha256": _digest(frame[[*found.inputs, "loss"]]),
        "bootstrap": bootstrap,
        "bootstrap_converged": None if draws is None else int(np.isfinite(draws).all(axis=1).sum()),
        "seed": seed,
        "derived": frame.attrs.get("derived"),
        "warnings": _mixtures(frame),
    }
    if "corpus" in frame and frame["corpus"].nunique() == 1:
        about["corpus"] = str(frame["corpus"].iloc[0])
    return Curve(
        law=found,
        constants=_constants(found, theta),
        draws=None if draws is None else draws[np.isfinite(draws).all(axis=1)],
        residual_sd=float(np.sqrt(np.sum(residual**2) / max(1, rows - len(found.constants)))),
        flops_per_param_token=float(flops_per_param_token or ratio.median()),
        range={name: [float(frame[name].min()), float(frame[name].max())] for name in ("params", "tokens", "flops", "loss")},
        certificate=certificate,
        about=about | {"seconds": time.perf_counter() - started},
    )


def _mixtures(frame: pd.DataFrame) -> list[str]:
    """What a table mixes that a law is rarely meant for: arms, number formats, runs that were to be held out."""
    found = [(name, frame[name].nunique()) for name in ("arm", "precision", "holdout") if name in frame]
    return [f"the rows mix {count} values of {name!r}; select one with where" for name, count in found if count > 1]


def _problem(law: Law, runs: pd.DataFrame, objective: str, delta: float) -> tuple[solve.Problem, pd.DataFrame]:
    if objective not in OBJECTIVES:
        raise InputError(f"objective {objective!r} is not known; it is one of {', '.join(OBJECTIVES)}")
    if not (math.isfinite(delta) and delta > 0):
        raise InputError(f"delta must be positive and finite, got {delta}")
    frame = complete(runs)
    if "corpus" in frame and frame["corpus"].nunique() > 1:
        raise InputError(
            f"runs: {frame['corpus'].nunique()} corpora in one table; losses on different corpora are not comparable, select one with where"
        )
    missing = [name for name in law.inputs if name not in frame]
    if missing:
        raise InputError(f"runs: law {law.name} needs the column {missing[0]!r}")
    distinct = len(frame[list(law.inputs)].drop_duplicates())
    if distinct <= len(law.constants):
        raise InputError(
            f"runs: {distinct} distinct points ({len(frame)} rows) cannot determine the {len(law.constants)} constants of {law.name}; at least {len(law.constants) + 1} are needed"
        )
    inputs = np.log(frame[list(law.inputs)].to_numpy(float))
    return solve.Problem(law, inputs, np.log(frame["loss"].to_numpy(float)), math.inf if objective == "log-squared" else delta), frame


def _certificate(law: Law, minima: solve.Minimum, rows: int) -> tuple[dict[str, Any], int]:
    """What the search says of itself, and the index of the best start."""
    values = np.where(np.isfinite(minima.objective), minima.objective, np.inf)
    sure = solve.certified(minima, rows)
    best = int(np.argmin(values))
    # Of starts that ended equally low take one whose optimum is certified.
    floor = solve.EXACT * rows
    level = values <= values[best] * (1 + SAME_OPTIMUM) + floor
    if (level & sure).any():
        best = int(np.flatnonzero(level & sure)[0])
    others = values[sure & ~level]
    reason = ""
    if not np.isfinite(values[best]):
        reason = "no start ended at a finite objective"
    elif not minima.curvature[best] > 0:
        reason = f"the Hessian has no positive curvature in some direction (least scaled eigenvalue {minima.curvature[best]:.1e}): the runs leave it undetermined"
    elif not sure[best]:
        reason = f"the Newton decrement is {minima.decrement[best] / values[best]:.1e} of the objective, above {solve.DECREMENT:.0e}"
    at_bound = [name for name, active in zip(law.constants, minima.active[best], strict=True) if active]
    if at_bound and not reason:
        reason = f"{', '.join(at_bound)} ended at the lower bound, which stands for zero: the runs do not show that term"
    certificate = {
        "certified": bool(sure[best]),
        "objective": float(values[best]),
        "optimality": float(minima.decrement[best] / max(values[best], floor)),
        "starts_total": len(values),
        "starts_at_optimum": int((level & sure).sum()),
        "second_best": float(others.min()) if others.size else None,
        "condition": float(minima.condition[best]),
        "active_bounds": at_bound,
        "reason": reason,
    }
    return certificate, best


def _bootstrap(problem: solve.Problem, theta: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Constants of the law refitted to rows drawn with replacement, (resamples, constants); NaN where a refit did not converge."""
    rows = len(problem.log_loss)
    generator = np.random.Generator(np.random.Philox(key=seed))
    weights = generator.multinomial(rows, np.full(rows, 1 / rows), size=resamples)
    # A resample's optimum is near the sample's, so delta is lowered from a few times the residuals only.
    near = 10 * max(float(np.median(np.abs(_residuals(problem, theta)))), 1e-12)
    minima = solve.minimise(problem, np.tile(theta, (resamples, 1)), weights, first_delta=near)
    converged = solve.certified(minima, rows)
    return np.where(converged[:, None], problem.law.to_constants(np.asarray(minima.theta)), np.nan)


def _residuals(problem: solve.Problem, theta: np.ndarray) -> np.ndarray:
    return problem.log_loss - np.asarray(solve.log_loss(problem, theta))


def _constants(law: Law, theta: np.ndarray) -> dict[str, float]:
    return dict(zip(law.constants, (float(value) for value in law.to_constants(theta)), strict=True))


def _digest(frame: pd.DataFrame) -> str:
    return hashlib.sha256(np.ascontiguousarray(frame.to_numpy(np.float64)).tobytes()).hexdigest()
