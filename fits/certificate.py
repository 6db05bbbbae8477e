"""What a search says of itself: whether its optimum is one for certain, how it was found, and which directions the runs leave open."""

from __future__ import annotations

from typing import Any

import numpy as np

from fits import problems, solve
from fits.laws.base import Law

SAME_OPTIMUM = 1e-6  # relative difference of objectives below which two starts ended at the same place
SINGULAR = 1e-8  # least over greatest singular value of the scaled Jacobian below which rounding hides a direction
OPEN = 20.0  # standard error, in the solver's coordinates (logarithms, exponents), from which a direction counts as undetermined
UNCERTAIN = 1.0  # ... and from which a constant counts as part of such a direction
_BOUNDS = {"lower": "which stands for zero: the runs do not show that term", "upper": "the runs ask for more than it allows"}
FEW = 3  # starts that should agree on an optimum, of many
ONE_LINE = 1e-3  # thickness over length of the design, in logarithms, below which it is a line


def certificate(problem: problems.Problem, minima: solve.Minimum, rows: int) -> tuple[dict[str, Any], int]:
    """The statement on a search, and the index of the best start."""
    values = np.where(np.isfinite(minima.objective), minima.objective, np.inf)
    sure = solve.certified(minima, rows)
    best = int(np.argmin(values))
    # Of starts that ended equally low take one whose optimum is certified.
    floor = solve.EXACT * rows
    level = values <= values[best] * (1 + SAME_OPTIMUM) + floor
    if (level & sure).any():
        best = int(np.flatnonzero(level & sure)[0])
    others = values[sure & ~level]
    held = problem.low == problem.high
    at_bound = {
        name: "lower" if low else "upper"
        for name, active, low in zip(problem.law.constants, minima.active[best] & ~held, minima.theta[best] <= problem.low, strict=True)
        if active
    }
    statement = {
        "certified": bool(sure[best]),
        "objective": float(values[best]),
        "optimality": float(minima.decrement[best] / max(values[best], floor)),
        "starts_total": len(values),
        "starts_at_optimum": int((level & sure).sum()),
        "second_best": float(others.min()) if others.size else None,
        "condition": float(minima.condition[best]),
        "active_bounds": list(at_bound),
        "flat": [],
        "open": [],
        "reason": _reason(minima, values, sure, best, at_bound),
    }
    return statement, best


def _reason(minima: solve.Minimum, values: np.ndarray, sure: np.ndarray, best: int, at_bound: dict[str, str]) -> str:
    if not np.isfinite(values[best]):
        return "no start ended at a finite objective"
    if not minima.curvature[best] > 0:
        return f"the Hessian has no positive curvature in some direction (least scaled eigenvalue {minima.curvature[best]:.1e}): the runs leave it undetermined"
    if not sure[best]:
        return f"the Newton decrement is {minima.decrement[best] / values[best]:.1e} of the objective, above {solve.DECREMENT:.0e}"
    agreeing = int((values <= values[best] * (1 + SAME_OPTIMUM)).sum())
    if agreeing < FEW and len(values) >= 5 * FEW:
        return f"only {agreeing} of {len(values)} starts ended there: a lower optimum may have been missed"
    if at_bound:
        return "; ".join(f"{name} ended at the {side} bound: {_BOUNDS[side]}" for name, side in at_bound.items())
    return ""


def flat_directions(problem: problems.Problem, theta: np.ndarray, free: np.ndarray) -> list[dict[str, float]]:
    """Directions that the runs do not determine, each as weights of the constants that take part in it.

    They are those of large standard error, (J'J)^-1 times the residual variance, in logarithms and exponents.
    """
    jacobian = problems.jacobian(problem, theta)[:, free]
    if not jacobian.size or not np.isfinite(jacobian).all():
        return []
    size = np.linalg.norm(jacobian, axis=0)
    scale = np.maximum(size, max(1e-12 * size.max(), 1e-300))
    _, singular, directions = np.linalg.svd(jacobian / scale, full_matrices=False)
    freedom = max(1, len(jacobian) - len(scale))
    # Without noise an error is still as large as rounding makes it.
    noise = max(float(np.sqrt(np.sum(problems.residuals(problem, theta) ** 2) / freedom)), 1e-9)
    names, found = [name for name, kept in zip(problem.law.constants, free, strict=True) if kept], []
    for value, direction in zip(singular[::-1], directions[::-1] / scale, strict=True):
        if value > SINGULAR * singular[0] and noise / max(value, 1e-300) * np.linalg.norm(direction) < OPEN:
            continue
        weights = direction / direction[np.argmax(np.abs(direction))]
        errors = noise / max(value, 1e-300) * np.abs(direction)
        taking_part = (np.abs(weights) > 1e-3) & (errors > UNCERTAIN)
        named = {name: round(float(weight), 3) for name, weight, part in zip(names, weights, taking_part, strict=True) if part}
        if named and named not in found:
            found.append(named)
    return found


def design_line(problem: problems.Problem) -> tuple[str, bool]:
    """How the rows' inputs are tied together, if they are: an input without variety, or (True) all rows on one line in logarithms."""
    varied = [(name, np.log(problem.inputs[:, i])) for i, name in enumerate(problem.law.inputs) if (problem.inputs[:, i] > 0).all()]
    fixed = [name for name, logs in varied if np.ptp(logs) < 1e-6]
    if fixed:
        return f"{' and '.join(fixed)} {'is' if len(fixed) == 1 else 'are'} the same in every row", False
    if len(varied) != 2:
        return "", False
    centred = np.stack([logs - logs.mean() for _, logs in varied], axis=1)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    if singular[1] > ONE_LINE * singular[0]:
        return "", False
    return f"all rows lie on one line, {varied[1][0]} ~ {varied[0][0]}^{directions[0][1] / directions[0][0]:.3g}", True


def say_what_is_open(problem: problems.Problem, theta: np.ndarray, statement: dict[str, Any]) -> None:
    """Adds flat directions and a design that is a line: their constants are open and the fit is not certified, however low the objective."""
    if not np.isfinite(statement["objective"]):
        return
    free = (problem.low < problem.high) & ~np.isin(problem.law.constants, statement["active_bounds"])
    flat, (line, tied) = flat_directions(problem, theta, free), design_line(problem)
    if not flat and not tied:
        return
    names = {name for direction in flat for name in direction}
    if tied:
        names |= {
            name for name, kept in zip(problem.law.constants, problem.low < problem.high, strict=True) if kept
        }  # any term can stand in for any other
    what = " and ".join(_in_words(direction, problem.law) for direction in flat)
    reason = f"the runs do not determine {what}" if flat else "the runs do not tell the terms of the law apart"
    statement |= {
        "certified": False,
        "flat": flat,
        "open": [name for name in problem.law.constants if name in names],
        "reason": f"{reason}{f': {line}' if line else ''}; predictions near the runs stand, these constants do not",
    }


def _in_words(direction: dict[str, float], law: Law) -> str:
    """`1 log B +0.04 beta`"""
    parts = [f"{weight:+.3g} {'log ' if law.parameter(name).log else ''}{name}" for name, weight in direction.items()]
    return " ".join(parts).lstrip("+")
