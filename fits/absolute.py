"""Absolute-value (L1) and quantile fits: sequential linear programming from a smooth fit, with a duality gap as the certificate.

At theta the residuals are linearised, r - J s, and the best step s within a box is a linear program (HiGHS). At an optimum no step
helps: the program's value equals the objective, and their difference is the duality gap of the linearised problem.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from fits import problems

GAP = 1e-9  # certified: duality gap over objective
ROUNDS = 60


class Vertex(NamedTuple):
    """Where the programs ended; `gap` is relative to the objective."""

    theta: np.ndarray
    objective: float
    gap: float


def absolute(problem: problems.Problem, theta: np.ndarray, weights: np.ndarray) -> float:
    """The sum of weighted absolute residuals, over-predictions counted `over` times."""
    r = problems.residuals(problem, theta)
    value = float(np.sum(weights * np.where(r < 0, problem.objective.over, 1.0) * np.abs(r)))
    return value if np.isfinite(value) else np.inf


def polish(problem: problems.Problem, theta: np.ndarray, weights: np.ndarray) -> Vertex:
    """The local optimum near `theta` (p,)."""
    value, box, gap = absolute(problem, theta, weights), 0.1, np.inf
    for _ in range(ROUNDS):
        step, promised = _program(problem, theta, weights, box)
        gap = max(0.0, (value - promised) / value) if value > 0 else 0.0
        if gap < 1e-14:
            break
        moved = np.clip(theta + step, problem.low, problem.high)
        reached = absolute(problem, moved, weights)
        if reached < value:
            # Trust the linear picture further when it told the truth.
            box = min(1.0, box * 2) if value - reached > 0.5 * (value - promised) else box
            theta, value = moved, reached
        else:
            box /= 8
        if box < 1e-14:
            break
    # The certificate asks about a box that is wide for what is left to gain.
    _, promised = _program(problem, theta, weights, 1e-6)
    return Vertex(theta, value, max(0.0, (value - promised) / value) if value > 0 else 0.0)


def _program(problem: problems.Problem, theta: np.ndarray, weights: np.ndarray, box: float) -> tuple[np.ndarray, float]:
    """The step within the box (in units of what moves a prediction by its own size) of least linearised objective, and that objective."""
    r, jacobian = problems.residuals(problem, theta), problems.jacobian(problem, theta)
    scale = 1 / np.maximum(np.abs(jacobian).max(axis=0), 1e-12)
    rows, p = jacobian.shape
    size = max(float(np.abs(r).max()), 1e-300)
    costs = np.concatenate([np.zeros(p), weights, weights * problem.objective.over])
    # Sparse, as the two identities of a table of ten thousand rows would fill gigabytes.
    equations = sparse.hstack([sparse.csr_array(jacobian * scale / size), sparse.eye_array(rows), -sparse.eye_array(rows)], format="csr")
    low = np.maximum(-box, (problem.low - theta) / scale)
    high = np.minimum(box, (problem.high - theta) / scale)
    limits = [*zip(low, high, strict=True), *([(0, None)] * (2 * rows))]
    found = linprog(
        costs,
        A_eq=equations,
        b_eq=r / size,
        bounds=limits,
        method="highs-ds",
        options={"dual_feasibility_tolerance": 1e-10, "primal_feasibility_tolerance": 1e-10},
    )
    if found.x is None:
        return np.zeros(p), -np.inf  # nothing is known of what a step could gain, so nothing is certified
    step = found.x[:p] * scale
    left = r - jacobian @ step
    return step, float(np.sum(weights * np.where(left < 0, problem.objective.over, 1.0) * np.abs(left)))
