"""Runs to choose from, and the isoFLOP grid to compare with: tables of arm, params, tokens, flops and `over`, size over optimal size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from fits import frontier
from fits.errors import InputError
from fits.laws.base import to_constants
from fits.planning_arms import Arm
from fits.runs import complete

PER_DECADE = 4  # costs, below the budget
WIDEST = 30.0  # tokens per parameter over the optimum's, either way
GRID_SIZES = np.array([0.25, 0.5, 1.0, 2.0, 4.0])  # of an isoFLOP profile, over its optimum
GRID_STEP = 3.0


def _points(arm: Arm, flops: np.ndarray, over: np.ndarray) -> pd.DataFrame:
    """Runs of a cost and of `over` times the optimal size for it; to three digits, costs rounded down."""
    c = arm.curve.flops_per_param_token
    optimal = frontier.optimal_size(arm.law, to_constants(arm.law, arm.theta), flops / c, arm.extras)
    params = _three_digits(optimal * over, np.round)
    tokens = _three_digits(flops / (c * params), np.floor)
    return pd.DataFrame({"arm": arm.name, "params": params, "tokens": tokens, "flops": c * params * tokens, "over": over})


def _three_digits(values: np.ndarray, rounding: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    unit = 10.0 ** (np.floor(np.log10(values)) - 2)
    return rounding(values / unit * (1 + 1e-12)) * unit


def log_grid(arms: Sequence[Arm], budget: float, decades: int) -> pd.DataFrame:
    """Candidates: costs up to the budget, tokens per parameter around the optimum's, none smaller than the smallest run so far."""
    costs = budget / 10 ** (np.arange(PER_DECADE * decades + 1) / PER_DECADE)
    shifts = np.exp(np.linspace(-0.5, 0.5, 13) * math.log(WIDEST))
    kept = []
    for arm in arms:
        points = _points(arm, *(axis.ravel() for axis in np.meshgrid(costs, shifts)))
        kept.append(points[(points["params"] >= 1) & (points["tokens"] >= 1)])
    found = pd.concat(kept, ignore_index=True)
    found = found[no_smaller(found, arms)].reset_index(drop=True)
    if found.empty:
        raise InputError(f"budget: {budget:g} FLOP is too little for a run as large as the smallest so far; give more, or candidates")
    return found


def no_smaller(points: pd.DataFrame, arms: Sequence[Arm]) -> np.ndarray:
    """Which points have no fewer params and tokens than the smallest run so far of their arm."""
    fine = np.ones(len(points), bool)
    for arm in arms:
        own = (points["arm"] == arm.name).to_numpy()
        for name, column in (("params", str(arm.law.size)), ("tokens", "tokens")):
            if len(arm.done):
                least = arm.done[:, arm.law.inputs.index(column)].min()
                fine &= ~own | (points[name].to_numpy(float) >= 0.99 * least)
    return fine


def given(candidates: pd.DataFrame, arms: Sequence[Arm], budget: float) -> pd.DataFrame:
    """The user's candidates that the budget can pay for."""
    points = complete(candidates.assign(loss=1.0), "candidates", needs=["params", "tokens"])
    if "arm" not in points and len(arms) > 1:
        points = pd.concat([points.assign(arm=arm.name) for arm in arms])
    points["arm"] = points["arm"] if len(arms) > 1 else arms[0].name
    kept = []
    for arm in arms:
        own = points[points["arm"] == arm.name].copy()
        c = arm.curve.flops_per_param_token
        if "flops" not in candidates:
            own["flops"] = c * own["params"] * own["tokens"]
        constants = to_constants(arm.law, arm.theta)
        own["over"] = own["params"] / frontier.optimal_size(arm.law, constants, (own["params"] * own["tokens"]).to_numpy(), arm.extras)
        kept.append(own[["arm", "params", "tokens", "flops", "over"]])
    found = pd.concat(kept, ignore_index=True)
    if found.empty:
        raise InputError(f"candidates: column 'arm' names none of {', '.join(arm.name for arm in arms)}")
    if not (found["flops"] <= budget).any():
        raise InputError(f"budget: {budget:g} FLOP is too little for any candidate; the cheapest takes {found['flops'].min():g}")
    return found[found["flops"] <= budget].reset_index(drop=True)


def isoflop_grid(arms: Sequence[Arm], budget: float, count: int) -> pd.DataFrame:
    """Standard practice: five sizes around the optimum at `count` budgets a factor 3 apart, of `budget` in all; arms share alike."""
    shares = GRID_STEP ** -np.arange(count)
    costs = budget / len(arms) / len(GRID_SIZES) * shares / shares.sum()
    flops, over = (axis.ravel() for axis in np.meshgrid(costs, GRID_SIZES))
    return pd.concat([_points(arm, flops, over) for arm in arms], ignore_index=True)
