"""Laws against each other on the same runs: information criteria in sample, and errors on runs that a fit did not see.

Errors are differences of logarithms, log L - log Lhat: 0.01 is one percent, and positive means that the law promised too low a loss.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import erf

from fits import problems, solve, starts
from fits.certificate import certificate, say_what_is_open
from fits.curve import Curve
from fits.errors import InputError
from fits.fitting import fit
from fits.laws import law as find_law
from fits.laws.base import Law, to_constants
from fits.objectives import Objective
from fits.objectives import objective as find_objective
from fits.runs import TRIPLE, complete
from fits.sample import prepare
from fits.selection import select

MIN_ROWS = 8  # rows below a cut from which it counts
MIN_BUDGETS = 3  # and budgets: with fewer, the runs say little of how loss falls with compute
SAME_BUDGET = 0.05  # decades: runs nearer than this to their neighbour have one budget
WIDEST_BUDGET = 0.15  # decades: wider than this, a chain of neighbours is no budget
QUANTILES = 8  # groups of rows where compute is continuous
FEWEST_PADDED = 32
PROMISING = 8  # starts of the many fits below cuts
STAGES = 6  # in which delta is lowered by a factor of 3 each


def compare(
    runs: pd.DataFrame,
    laws: Sequence[str | Law],
    holdout: str | None = None,
    *,
    objective: str = "log-huber",
    delta: float = 1e-3,
    bootstrap: int = 0,
    seed: int = 0,
) -> pd.DataFrame:
    """One row a law, all fitted to the rows outside `holdout` (a row filter such as "flops > 1e20") and asked about those inside.

    Columns: law, constants (free ones), rows, certified, reason, objective, rms_log (in sample), aicc, bic; heldout_rows, heldout_error (median
    |log L - log Lhat|), heldout_rms, heldout_bias (mean of log L - log Lhat), and baseline_error: that of the better of two guesses
    without a law, the least loss seen and the loss of the nearest run seen. Curves by law are in `attrs["curves"]`.

    aicc and bic assume independent residuals of density exp(-h(r) / s) / Z(s), h being the objective (Huber 1964: normal within delta, Laplace
    outside), for which the fit is the most likely; s is fitted too. With K the free constants and s: aicc = 2K - 2 log L + 2K(K+1)/(n-K-1)
    (Hurvich & Tsai 1989), infinite if n <= K + 1; bic = K log n - 2 log L (Schwarz 1978). Compare them between laws of one table and objective.
    A law that cannot be fitted is a row with a reason. Raises InputError for a bad filter, an unknown law or objective.
    """
    found, goal = _distinct(laws), find_objective(objective, delta)
    frame = ready(runs, found[0].output)
    held = np.isin(np.arange(len(frame)), _chosen(frame, holdout)) if holdout else np.zeros(len(frame), bool)
    if holdout and (held.all() or not held.any()):
        raise InputError(
            f"holdout = {holdout!r} selects {'all' if held.all() else 'none'} of the {len(frame)} rows; some must be fitted and some held out"
        )
    guess = _quantile_error(baseline_errors(frame, ~held, held, found))
    tried = [
        attempt(each, frame, ~held, held, objective=objective, delta=delta, quick=False, bootstrap=bootstrap, seed=seed) for each in found
    ]
    table = pd.DataFrame([_comparison(trial, goal, guess) for trial in tried])
    table.attrs["curves"] = {trial.law.name: trial.curve for trial in tried if trial.curve is not None}
    return table


def leave_budget_out(
    runs: pd.DataFrame,
    law: str | Law,
    budgets: str | None = None,
    *,
    by: str = "flops",
    objective: str = "log-huber",
    delta: float = 1e-3,
) -> pd.DataFrame:
    """Every budget left out in turn: one row each, with budget (the geometric mean of `by` over its rows), rows_fitted, rows_predicted, error (median
    |log L - log Lhat|), rms, bias, baseline_error, certified, reason.

    `budgets` is a column; by default "budget" where there is one, else runs of near-equal `by` (or eighths of the rows where it is continuous).
    """
    found = find_law(law)
    frame = ready(runs, found.output)
    groups = budget_groups(frame, by, budgets)
    if groups.max() == 0:
        raise InputError(f"leave_budget_out: all {len(frame)} rows have one budget; two at least are needed")
    lines = []
    for group in range(groups.max() + 1):
        held = groups == group
        trial = attempt(found, frame, ~held, held, objective=objective, delta=delta)
        line = {"budget": float(np.exp(np.log(frame.loc[held, by].to_numpy(float)).mean())), "rows_fitted": int((~held).sum())}
        lines.append(line | _errors(trial, _quantile_error(baseline_errors(frame, ~held, held, [found]))) | _verdict(trial))
    return pd.DataFrame(lines)


def rolling_extrapolation(
    runs: pd.DataFrame,
    laws: Sequence[str | Law],
    *,
    cuts: Sequence[float] | None = None,
    min_rows: int = MIN_ROWS,
    by: str = "flops",
    budgets: str | None = None,
    objective: str = "log-huber",
    delta: float = 1e-3,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Fit below every cut, predict above: one row a law and cut.

    Columns: law, cut (runs with `by` below it are fitted), rows_fitted, rows_predicted, decades_ahead (from the largest `by` fitted to the largest
    predicted), error (median |log L - log Lhat|), rms, bias, error_of_farthest (median over the largest budget), baseline_error (`compare`),
    certified, reason. Cuts lie between budgets (`leave_budget_out`) by default, the first above three of them; those with fewer than
    `min_rows` rows below are left out. A law that cannot be fitted below a cut is a row with a reason.
    """
    found = _distinct(laws)
    frame = ready(runs, found[0].output)
    lines = []
    for roll in roll_forward(frame, found, cuts, min_rows, by, budgets, objective=objective, delta=delta, progress=progress):
        far = roll.groups[roll.held] == roll.groups.max()
        line = {"law": roll.trial.law.name, "cut": roll.cut, "rows_fitted": int((~roll.held).sum())}
        errors = _errors(roll.trial, roll.baseline) | {"error_of_farthest": _quantile_error(roll.trial.errors[far])}
        lines.append(line | {"decades_ahead": float(roll.ahead.max())} | errors | _verdict(roll.trial))
    return pd.DataFrame(lines)


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """A law fitted to some rows and asked about others: its curve, or the reason why there is none; errors are log L - log Lhat of the others."""

    law: Law
    curve: Curve | None
    reason: str
    residuals: np.ndarray  # of the rows fitted, in logarithms
    errors: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Roll:
    """One law at one cut: what is held out (a mask of the rows), their budgets' numbers, and decades beyond the rows fitted."""

    trial: Trial
    cut: float
    held: np.ndarray
    groups: np.ndarray  # of all rows
    ahead: np.ndarray  # of the rows held out
    baseline: float


def roll_forward(
    frame: pd.DataFrame,
    laws: Sequence[Law],
    cuts: Sequence[float] | None = None,
    min_rows: int = MIN_ROWS,
    by: str = "flops",
    budgets: str | None = None,
    *,
    objective: str = "log-huber",
    delta: float = 1e-3,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Roll]:
    """`rolling_extrapolation` before it is summed up: law by law, and cut by cut. `frame` comes from `ready`."""
    groups = budget_groups(frame, by, budgets)
    values = frame[by].to_numpy(float)
    between = (
        [float(values[groups > group].min()) for group in range(MIN_BUDGETS - 1, groups.max())]
        if cuts is None
        else sorted(map(float, cuts))
    )
    kept = [cut for cut in dict.fromkeys(between) if min_rows <= (values < cut).sum() < len(values)]
    if not kept:
        raise InputError(
            f"rolling extrapolation: no cut of {by} has {min_rows} of the {len(values)} rows below it and one above; give cuts, or a lower min_rows"
        )
    guesses = {cut: _quantile_error(baseline_errors(frame, values < cut, values >= cut, laws)) for cut in kept}
    done = 0
    for each in laws:
        for cut in kept:
            held = values >= cut
            trial = attempt(each, frame, ~held, held, objective=objective, delta=delta)
            yield Roll(trial, cut, held, groups, np.log10(values[held] / values[~held].max()), guesses[cut])
            done += 1
            if progress:
                progress(done, len(laws) * len(kept))


def ready(runs: pd.DataFrame, output: str = "loss") -> pd.DataFrame:
    """The finished rows with the third of params, tokens and flops where two are there; what else a law needs is its own affair."""
    return complete(runs, needs=[name for name in TRIPLE if name in runs], output=output)


def budget_groups(frame: pd.DataFrame, by: str = "flops", budgets: str | None = None) -> np.ndarray:
    """The number of every row's budget, from 0 for the smallest: of a column, of clusters of near-equal `by`, or of its quantiles."""
    for name in (by, budgets):
        if name is not None and name not in frame:
            raise InputError(f"runs: no column {name!r} to order the budgets by; there are {', '.join(map(str, frame.columns))}")
    values = pd.to_numeric(frame[by], errors="coerce").to_numpy(float)
    if not (np.isfinite(values) & (values > 0)).all():
        raise InputError(f"runs: column {by!r} must be positive and finite in every row to order the budgets by")
    if budgets is None and "budget" in frame and by == "flops":
        budgets = "budget"
    if budgets is not None:
        middle = pd.Series(values).groupby(frame[budgets].to_numpy()).transform("median").to_numpy()
        return np.unique(middle, return_inverse=True)[1]
    logs = np.log10(values)
    order = np.argsort(logs, kind="stable")
    clusters = np.empty(len(logs), int)
    clusters[order] = np.concatenate([[0], np.cumsum(np.diff(logs[order]) > SAME_BUDGET)])
    width = pd.Series(logs).groupby(clusters).agg(np.ptp)
    if width.max() <= WIDEST_BUDGET and (len(width) <= QUANTILES or len(logs) >= 3 * len(width)):
        return clusters
    # Equal values stay together: every row takes the quantile of the first row of its value.
    first = np.searchsorted(logs[order], logs, side="left")
    return np.unique(first * min(QUANTILES, len(logs)) // len(logs), return_inverse=True)[1]


def attempt(
    law: Law,
    frame: pd.DataFrame,
    fitted: np.ndarray,
    held: np.ndarray,
    *,
    objective: str,
    delta: float,
    quick: bool = True,
    bootstrap: int = 0,
    seed: int = 0,
) -> Trial:
    """`law` fitted to the rows `fitted` and asked about `held`; never an exception because of the law or the rows.

    `quick` searches from fewer starts than `fits.fit` does; its curve is for predictions, without draws.
    """
    rows, goal = frame[fitted], find_objective(objective, delta)
    nothing = np.full(len(rows), np.nan), np.full(int(held.sum()), np.nan)
    try:
        if quick and goal.smooth:
            curve = _quick_fit(law, rows, goal)
        else:
            curve = fit(law, rows, objective=objective, delta=delta, bootstrap=bootstrap, seed=seed)
    except InputError as error:
        return Trial(law, None, str(error), *nothing)
    except (ArithmeticError, RuntimeError, np.linalg.LinAlgError) as error:  # a search that broke down on these rows
        return Trial(law, None, " ".join(f"{type(error).__name__}: {error}".split())[:200], *nothing)
    # Held-out rows may lack a column or value that the fitted ones have.
    try:
        asked = complete(frame[held], needs=law.inputs, output=law.output) if held.any() else frame[held]
    except InputError as error:
        return Trial(law, None, f"held-out rows: {error}", *nothing)
    reason = str((curve.certificate or {}).get("reason") or "")
    return Trial(law, curve, reason, log_errors(curve, complete(rows, needs=law.inputs, output=law.output)), log_errors(curve, asked))


def log_errors(curve: Curve, rows: pd.DataFrame) -> np.ndarray:
    """log L - log Lhat of every row; infinite where the law has no positive finite output."""
    law = curve.law
    with np.errstate(all="ignore"):
        predicted = law.evaluate(curve.vector, {name: rows[name].to_numpy(float) for name in law.inputs})
        errors = np.log(rows[law.output].to_numpy(float)) - np.log(predicted)
    return np.where(np.isfinite(errors), errors, np.inf)


def baseline_errors(frame: pd.DataFrame, fitted: np.ndarray, held: np.ndarray, laws: Sequence[Law]) -> np.ndarray:
    """log L - log guess at the rows held out, of the guess with the lesser median: the least loss seen, or that of the nearest run seen.

    Nearest is by the logarithms of the laws' inputs that the table has.
    """
    log_loss = np.log(frame[laws[0].output].to_numpy(float))
    if not held.any():
        return np.array([])
    names = [name for name in dict.fromkeys(name for law in laws for name in law.inputs) if name in frame]
    numbers = frame[names].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    logs = np.log(numbers[:, (np.isfinite(numbers) & (numbers > 0)).all(axis=0)])
    nearest = np.argmin(((logs[held][:, None] - logs[fitted][None]) ** 2).sum(axis=2), axis=1)
    guesses = [log_loss[held] - log_loss[fitted].min(), log_loss[held] - log_loss[fitted][nearest]]
    return min(guesses, key=_quantile_error)


def log_likelihood(objective: Objective, value: float, rows: int) -> float:
    """The greatest log likelihood over s of `rows` residuals of density exp(-h(r) / s) / Z(s) whose h sum to `value`."""
    # An exact fit is as good as rounding lets it be, and no better.
    value = max(value, solve.EXACT * rows)
    delta = objective.delta

    def negative(log_s: float) -> float:
        s = math.exp(log_s)
        if delta == 0:
            normaliser = math.log(s * (1 + 1 / objective.over))
        elif math.isinf(delta):
            normaliser = 0.5 * math.log(2 * math.pi * s)
        else:
            inside = math.sqrt(2 * math.pi * s) * erf(delta / math.sqrt(2 * s))
            normaliser = math.log(inside + 2 * s / delta * math.exp(-(delta**2) / (2 * s)))
        return rows * normaliser + value / s

    # s is the mean of h for pure Laplace residuals, and twice that for normal ones.
    middle = math.log(value / rows)
    best = minimize_scalar(negative, bounds=(middle - 0.1, middle + math.log(2) + 0.1), method="bounded", options={"xatol": 1e-10})
    return -float(best.fun)


def _quick_fit(law: Law, rows: pd.DataFrame, goal: Objective) -> Curve:
    """`fit` for many cuts of one table: from the few most promising starts only, and on few shapes, so that few programs are compiled.

    The rows are filled up to a power of two with copies at weight zero. The search sees neither the copies nor any other rows; only the
    verdict on flat directions counts the copies.
    """
    sample = prepare(law, rows, goal)
    problem, count = sample.problem, len(sample.frame)
    begin = _promising(law, problem, starts.starts(law, problem.inputs, problem.target, problem.low, problem.high))
    size = max(FEWEST_PADDED, 1 << (count - 1).bit_length())
    place = np.arange(size) % count
    padded = dataclasses.replace(problem, inputs=problem.inputs[place], target=problem.target[place])
    stages = math.ceil(max(STAGES, math.log(problem.spread / goal.delta, 3))) if math.isfinite(goal.delta) else 0
    minima = solve.minimise(padded, begin, (np.arange(size) < count).astype(float)[None], first_delta=goal.delta * 3.0**stages)
    statement, best = certificate(padded, minima, count)
    theta = minima.theta[best]
    free = problem.low < problem.high
    say_what_is_open(padded, theta, statement)
    residual = problems.residuals(padded, theta)[:count]
    return Curve(
        law=law,
        constants=dict(zip(law.constants, map(float, to_constants(law, theta)), strict=True)),
        residual_sd=float(np.sqrt(np.sum(residual**2) / max(1, count - int(free.sum())))),
        range={name: [float(sample.frame[name].min()), float(sample.frame[name].max())] for name in (*law.inputs, law.output)},
        certificate=statement,
        about={"objective": goal.name, "delta": goal.delta, "rows": count, "free": int(free.sum())},
        sample=dataclasses.replace(sample, theta=theta),
    )


def _promising(law: Law, problem: problems.Problem, begin: np.ndarray) -> np.ndarray:
    """The PROMISING starts that lie nearest to the rows, by mean absolute residual."""
    if not len(begin):
        raise InputError(f"law {law.name}: no start has a finite output on these rows")
    columns = {name: problem.inputs[:, i] for i, name in enumerate(law.inputs)}
    predicted = law.evaluate(to_constants(law, begin)[:, None, :], columns)
    with np.errstate(all="ignore"):
        apart = np.abs((np.log(predicted) if problem.objective.log else predicted) - problem.observed).mean(axis=1)
    return begin[np.argsort(np.where(np.isfinite(apart), apart, np.inf), kind="stable")[:PROMISING]]


def _comparison(trial: Trial, goal: Objective, guess: float) -> dict[str, Any]:
    curve, rows = trial.curve, len(trial.residuals)
    free = curve.about["free"] if curve else len(trial.law.constants)
    value = float(curve.certificate["objective"]) if curve and curve.certificate else math.nan
    aicc = bic = math.nan
    if math.isfinite(value):
        twice, count = 2 * log_likelihood(goal, value, rows), free + 1
        aicc = 2 * count - twice + 2 * count * (count + 1) / (rows - count - 1) if rows > count + 1 else math.inf
        bic = count * math.log(rows) - twice
    line = {"law": trial.law.name, "constants": free, "rows": rows} | _verdict(trial)
    line |= {"objective": value, "rms_log": _rms(trial.residuals), "aicc": aicc, "bic": bic}
    errors = _errors(trial, guess)
    names = {"rows_predicted": "heldout_rows", "error": "heldout_error", "rms": "heldout_rms", "bias": "heldout_bias"}
    return line | {names.get(name, name): value for name, value in errors.items()}


def _errors(trial: Trial, guess: float) -> dict[str, Any]:
    errors = trial.errors
    summary = {"error": _quantile_error(errors), "rms": _rms(errors), "bias": float(errors.mean()) if errors.size else math.nan}
    return {"rows_predicted": len(errors)} | summary | {"baseline_error": guess}


def _verdict(trial: Trial) -> dict[str, Any]:
    sure = bool(trial.curve and trial.curve.certificate and trial.curve.certificate["certified"])
    return {"certified": sure, "reason": trial.reason}


def _quantile_error(errors: np.ndarray) -> float:
    return float(np.median(np.abs(errors))) if errors.size else math.nan


def _rms(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors**2))) if errors.size else math.nan


def _chosen(frame: pd.DataFrame, where: str) -> np.ndarray:
    """Positions of the rows that a filter selects; their index may repeat."""
    numbered = frame.set_axis(pd.RangeIndex(len(frame)), axis=0)
    return select(numbered, where).index.to_numpy()


def _distinct(laws: Sequence[str | Law]) -> list[Law]:
    if isinstance(laws, (str, Law)) or not len(laws):
        raise InputError("laws: give a list of laws, such as ['chinchilla', 'outer-exponent']")
    found = list({each.name: each for each in map(find_law, laws)}.values())
    outputs = {each.output for each in found}
    if len(outputs) > 1:
        raise InputError(f"laws: they predict different things ({', '.join(sorted(outputs))}); compare laws of one output")
    return found
