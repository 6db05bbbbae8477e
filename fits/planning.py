"""The next runs worth making: those that most reduce the standard error of one stated quantity, within a budget of training FLOP.

Linearised: a run at x adds g g' / sigma^2 to the information M on a law's constants, g being the derivative of its prediction, and the
variance of a quantity with gradient c is c' M^-1 c. A design that makes it small is c-optimal (Elfving 1952; Pukelsheim 2006, chapter 2).
Because g and c depend on the constants, the criterion is the mean of the log variance over draws of them (Chaloner & Verdinelli 1995).
Costs differ between runs by orders of magnitude; `fits.designs` searches under them.

Model error. Far from the runs a prediction rests on the law's form, and a design that is best under the form need not be best in truth.
Measured on eight planted forms (Chinchilla itself, outer exponents, a term in the product, steep terms of small runs, drifting exponents, a
wiggle, Kaplan's), 16 runs so far, a budget of 1e21 and the loss at 1e23 FLOP: the unguarded c-optimal design had 0.80 times the error of an
isoFLOP grid of equal FLOP where the form was right, and 1.25 times over all forms (geometric mean of root mean squared errors). With 0.9 of
the budget near the frontier at the largest scale, and no run of less than a tenth of the budget but those of a grid, it was 0.89 and 0.74.
So losses are guarded in that way (`frontier_share`), and computes and multipliers, for which it was not measured, with them. For the
optimal size the unguarded design was as good as any, right form (0.68) and over all (0.67): params are not guarded, nor is the exponent,
for which it was not measured.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import t

from fits import designs
from fits.curve import Curve, positive
from fits.errors import InputError
from fits.laws.base import Law
from fits.planning_arms import Arm, Goal, arm_of
from fits.planning_menu import GRID_SIZES, given, isoflop_grid, log_grid, no_smaller

QUANTITIES = {"loss": "at_flops", "params": "at_flops", "compute": "at_loss", "exponent": None, "multiplier": "at_loss"}
LOGARITHMS = ("params", "compute", "multiplier")  # whose standard error is that of the natural logarithm
MAX_RUNS = 20  # as many as the isoFLOP grid of four budgets
MAX_REPEATS = 3  # of a point: more seeds of one run do not average out what the law misses there
FRONTIER_SHARE = {"loss": 0.9, "compute": 0.9, "multiplier": 0.9, "params": 0.0, "exponent": 0.0}
NEAR_BUDGET, NEAR_SIZE = 10.0, 2.0  # "near the frontier": so much of the budget a run at least, by so much off the optimal size at most
DECADES, GUARDED_DECADES = 3, 1  # of costs, below the budget
GRID_BUDGETS = (3, 4)  # profiles of the isoFLOP grid, whichever is the better
DRAWS = 16
WIDER = 3.0  # draws are spread no wider than so many times what an isoFLOP grid would leave
PRIOR_SD = 10.0  # of every constant in the solver's coordinates: keeps an open direction finite in the search
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Expected:
    """A standard error (of the natural log for params, compute and multiplier) and the bounds of the 95% interval around the estimate."""

    se: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, eq=False)
class Proposal:
    """Runs to make, in the order of their gain per FLOP, and what is expected of them.

    `runs` has a row a run: arm (for a multiplier), params (in the law's count), tokens, flops, repeat (1 for the first at its point),
    share (of the budget), gain (factor by which the standard error falls), cumulative_flops, expected_se_after. `reduction` is before.se
    / after.se. What is not determined has an infinite standard error. `grid_se` is expected of an isoFLOP grid of `grid_flops` in all,
    whose runs are `grid`.
    """

    quantity: str
    at: float | None
    value: float
    runs: pd.DataFrame
    before: Expected
    after: Expected
    reduction: float
    grid_se: float
    grid_flops: float
    grid: pd.DataFrame
    noise: float
    reading: str
    warnings: list[str]


def plan_runs(
    curve_or_runs: Curve | pd.DataFrame,
    *,
    budget: float,
    quantity: str = "loss",
    at_flops: float | None = None,
    at_loss: float | None = None,
    baseline: Curve | pd.DataFrame | None = None,
    law: str | Law = "chinchilla",
    runs: pd.DataFrame | None = None,
    max_runs: int | None = None,
    max_repeats: int = MAX_REPEATS,
    candidates: pd.DataFrame | None = None,
    noise: float | None = None,
    frontier_share: float | None = None,
    seed: int = 0,
    **extras: float,
) -> Proposal:
    """The runs within `budget` FLOP in all that most reduce the standard error of a quantity.

    curve_or_runs: a fit, which has its runs with it; a table of runs, to which `law` is fitted; or a curve without runs, taken for the
    truth, with `runs` as those made so far, if any. quantity: "loss" (nats/token) or "params" on the frontier at `at_flops`; "compute"
    for `at_loss`; the allocation "exponent" of params; "multiplier", the compute of `baseline` over the curve's at `at_loss`. max_runs:
    20 (40 for two arms) by default. candidates: params, tokens (and flops, arm) to choose from, by default a log grid of costs and tokens
    per parameter, none smaller than the smallest run so far. noise: the standard deviation of a run's log loss (of its loss under a raw
    objective), by default the fit's, or the residual_sd that a curve carries. frontier_share: of the budget, for runs of a tenth of it or
    more within a factor 2 of the optimal size; 0 takes the form of the law for certain (the module says what was measured, and the
    defaults). extras: other inputs of the law. Raises InputError.
    """
    share = FRONTIER_SHARE.get(quantity, 0.0) if frontier_share is None else frontier_share
    _check(quantity, max_runs, max_repeats, share, baseline)
    budget, at = float(positive("budget", budget)), _at(quantity, at_flops, at_loss)
    arms = [arm_of("curve", curve_or_runs, law, runs, noise, extras)]
    if baseline is not None:
        arms = [dataclasses.replace(arms[0], sign=-1.0), arm_of("baseline", baseline, law, None, noise, extras)]
    goal = Goal(quantity, at, budget / arms[0].curve.flops_per_param_token)
    for arm in arms:
        if not np.isfinite(goal.value(arm, arm.theta)):
            raise InputError(f"at_loss: no compute reaches a loss of {at} by the {arm.name}; give a greater loss")
    own = log_grid(arms, budget, GUARDED_DECADES if share else DECADES) if candidates is None else given(candidates, arms, budget)
    grids = [isoflop_grid(arms, budget, count) for count in GRID_BUDGETS]
    menu = pd.concat([own, *grids], ignore_index=True)
    places = [list(map(int, place)) for place in np.split(menu.index, np.cumsum([len(own), *map(len, grids)])[:-1])]
    model = _linearise(arms, goal, menu, seed)
    # The grids' runs are candidates too; without a guard the grids are also designs to improve, so that none is better than the proposal.
    fine = no_smaller(menu, arms) if candidates is None else (menu.index < len(own))
    starts = [] if share else [place for place in places[1:] if fine[place].all()]
    cost = menu["flops"].to_numpy(float)
    near = (cost >= budget / len(arms) / NEAR_BUDGET) & (np.abs(np.log(menu["over"].to_numpy(float))) <= math.log(NEAR_SIZE) + 0.01)
    chosen = designs.Search(model, cost, np.flatnonzero(fine), budget, max_runs or MAX_RUNS * len(arms), max_repeats, near, share).best(
        starts
    )
    return _report(arms, goal, model, menu, model.in_order(chosen, cost), min(places[1:], key=model.standard_error), budget)


def _check(quantity: str, max_runs: int | None, max_repeats: int, share: float, baseline: Curve | pd.DataFrame | None) -> None:
    if quantity not in QUANTITIES:
        raise InputError(f"quantity {quantity!r} is not known; it is one of {', '.join(QUANTITIES)}")
    if min(1 if max_runs is None else max_runs, max_repeats) < 1:
        raise InputError(f"max_runs and max_repeats must be 1 or more, got {max_runs} and {max_repeats}")
    if not 0 <= share <= 1:
        raise InputError(f"frontier_share must lie between 0 and 1, got {share}")
    if (quantity == "multiplier") != (baseline is not None):
        raise InputError("quantity 'multiplier' and baseline, the other arm's curve or runs, go together")


def _at(quantity: str, at_flops: float | None, at_loss: float | None) -> float | None:
    given = {"at_flops": at_flops, "at_loss": at_loss}
    needed = QUANTITIES[quantity]
    for name, value in given.items():
        if name == needed and value is None:
            raise InputError(f"quantity {quantity!r} needs {name}")
        if name != needed and value is not None:
            raise InputError(f"quantity {quantity!r} takes {needed or 'neither at_flops nor at_loss'}, not {name}")
    return None if needed is None else float(positive(needed, given[needed] or 0.0))


def _linearise(arms: Sequence[Arm], goal: Goal, menu: pd.DataFrame, seed: int) -> designs.Linear:
    """The problem at the estimate and at draws of the constants, arms side by side."""
    stated = [arm.theta for arm in arms]
    here = _member(arms, goal, menu, stated)
    grid = here[1][menu.index >= len(menu) - len(arms) * len(GRID_SIZES) * GRID_BUDGETS[-1]]
    information = here[0].T @ here[0] + grid.T @ grid / WIDER**2 + np.eye(len(here[2])) / PRIOR_SD**2
    root = np.linalg.cholesky(np.linalg.inv(information))
    generator = np.random.Generator(np.random.Philox(key=seed))
    members = [here]
    for shift in generator.standard_normal((DRAWS, len(root))) @ root.T:
        parts = np.split(shift, np.cumsum([int(arm.free.sum()) for arm in arms])[:-1])
        member = _member(arms, goal, menu, [arm.moved(part) for arm, part in zip(arms, parts, strict=True)])
        if all(np.isfinite(array).all() for array in member):
            members.append(member)
    return designs.Linear(*(np.stack(arrays) for arrays in zip(*members, strict=True)), ridge=PRIOR_SD**-2)


def _member(arms: Sequence[Arm], goal: Goal, menu: pd.DataFrame, thetas: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows made (n, p), rows of the menu (menu, p) and the gradient (p,), p counting the free constants of all arms."""
    ends = np.cumsum([0, *(int(arm.free.sum()) for arm in arms)])
    made, rows, slope = [], np.zeros((len(menu), ends[-1])), np.zeros(ends[-1])
    for arm, theta, first, last in zip(arms, thetas, ends, ends[1:], strict=False):
        own = (menu["arm"] == arm.name).to_numpy()
        points = arm.inputs(menu["params"].to_numpy(float)[own], menu["tokens"].to_numpy(float)[own])
        derivatives = arm.information(np.concatenate([arm.done, points]), theta)
        part = np.zeros((len(arm.done), ends[-1]))
        part[:, first:last] = derivatives[: len(arm.done)] * np.sqrt(arm.weights)[:, None]
        made.append(part)
        rows[own, first:last] = derivatives[len(arm.done) :]
        slope[first:last] = goal.gradient(arm, theta)
    return np.concatenate(made), rows, slope


def _report(
    arms: Sequence[Arm], goal: Goal, model: designs.Linear, menu: pd.DataFrame, order: list[int], grid: list[int], budget: float
) -> Proposal:
    value = float(sum(goal.value(arm, arm.theta) for arm in arms))
    errors = np.array([model.standard_error(order[:count]) for count in range(len(order) + 1)])
    freedom = [sum(len(arm.done) for arm in arms) + count - model.slope.shape[1] for count in (0, len(order))]
    before, after = (_expected(goal, value, float(se), free) for se, free in zip(errors[[0, -1]], freedom, strict=True))
    runs = menu.loc[order, ["arm", "params", "tokens", "flops"]].reset_index(drop=True)
    runs["repeat"] = runs.groupby(["arm", "params", "tokens"]).cumcount() + 1
    runs["share"] = runs["flops"] / budget
    with np.errstate(invalid="ignore"):
        runs["gain"] = errors[:-1] / errors[1:]
    runs["cumulative_flops"], runs["expected_se_after"] = runs["flops"].cumsum(), errors[1:]
    table = menu.loc[grid, ["arm", "params", "tokens", "flops"]].reset_index(drop=True)
    found = Proposal(
        quantity=goal.quantity,
        at=goal.at,
        value=math.exp(value) if goal.quantity in LOGARITHMS else value,
        runs=runs if len(arms) > 1 else runs.drop(columns="arm"),
        before=before,
        after=after,
        reduction=math.inf if math.isinf(before.se) else before.se / after.se,
        grid_se=model.standard_error(grid),
        grid_flops=float(table["flops"].sum()),
        grid=table if len(arms) > 1 else table.drop(columns="arm"),
        noise=arms[0].noise,
        reading="",
        warnings=_warnings(arms, goal, runs, value),
    )
    return dataclasses.replace(found, reading=_reading(found))


def _expected(goal: Goal, value: float, se: float, freedom: int) -> Expected:
    """The interval by Student's t at the rows' degrees of freedom."""
    wide = float(t.ppf((1 + LEVEL) / 2, max(freedom, 1))) * se
    low, high = value - wide, value + wide
    return (
        Expected(se, math.exp(low), math.exp(min(high, 700.0)) if math.isfinite(high) else high)
        if goal.quantity in LOGARITHMS
        else Expected(se, low, high)
    )


def _warnings(arms: Sequence[Arm], goal: Goal, runs: pd.DataFrame, value: float) -> list[str]:
    """What the standard errors do not say: extrapolation beyond the runs, constants held at a bound, and an assumed truth."""
    said = []
    for arm in arms:
        own = f"{arm.name}: " if len(arms) > 1 else ""
        held = [p.name for p, free in zip(arm.law.parameters, arm.free, strict=True) if not free]
        if held:
            said.append(f"{own}{', '.join(held)} fixed or at a bound: held there, as if known")
        if not len(arm.done):
            said.append(f"{own}no runs so far: the curve is taken for the truth, and a run's noise for {arm.noise:.2g}")
        target = (
            goal.at if goal.quantity in ("loss", "params") else math.exp(arm.sign * float(goal.value(arm, arm.theta))) if goal.at else None
        )
        costs = arm.curve.flops_per_param_token * np.prod(
            arm.done[:, [arm.law.inputs.index(str(arm.law.size)), arm.law.inputs.index("tokens")]], axis=1
        )
        largest = max([*costs, *runs.loc[runs["arm"] == arm.name, "flops"]], default=math.nan)
        if target and target > 3 * largest:
            said.append(
                f"{own}{target:.3g} FLOP is {math.log10(target / largest):.1f} decades beyond the largest run: these errors trust the law's form that far"
            )
    return said


def _reading(found: Proposal) -> str:
    at = "" if found.at is None else f"{found.at:.4g}"
    name = {
        "loss": f"the loss at {at} FLOP",
        "params": f"the optimal size at {at} FLOP",
        "compute": f"the compute for a loss of {at}",
        "multiplier": f"the compute multiplier at a loss of {at}",
        "exponent": "the allocation exponent",
    }[found.quantity]
    before, after, grid = (_error_in_words(found, se) for se in (found.before.se, found.after.se, found.grid_se))
    times = f", {found.reduction:.2g} times less" if math.isfinite(found.reduction) else ""
    return (
        f"Now {name} is {before}; after {len(found.runs)} runs of {found.runs['flops'].sum():.3g} FLOP in all it is expected to be {after}{times}."
        f" An isoFLOP grid of {len(found.grid)} runs, {found.grid_flops:.3g} FLOP, would leave it {grid}."
    )


def _error_in_words(found: Proposal, se: float) -> str:
    if math.isinf(se):
        return "not determined"
    if found.quantity not in LOGARITHMS:
        return f"known to a standard error of {se:.2g}"
    return f"known to a standard error of {100 * se:.2g}%" if se < 0.5 else f"known to a factor {math.exp(se):.2g} (one standard error)"
