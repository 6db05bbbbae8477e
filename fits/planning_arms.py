"""What a plan of runs rests on: an arm (a law, its constants, the runs it has, their noise) and the quantity to be known better.

Both are linearised: derivatives of a run's prediction, over its noise, and of the quantity, by the constants in the solver's coordinates.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import norm

from fits import frontier, problems
from fits.curve import Curve, positive
from fits.errors import InputError
from fits.laws.base import Law, to_constants, to_theta
from fits.objectives import Objective, objective
from fits.runs import complete


@dataclasses.dataclass(frozen=True, eq=False)
class Arm:
    """A law with its constants, the inputs of the runs it has, and the effective standard deviation of a run's residual."""

    name: str
    curve: Curve
    objective: Objective
    theta: np.ndarray
    free: np.ndarray
    done: np.ndarray  # (rows, inputs)
    weights: np.ndarray
    noise: float
    extras: dict[str, float]
    sign: float = 1.0  # of its part in the quantity

    @property
    def law(self) -> Law:
        return self.curve.law

    def inputs(self, params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """(rows, inputs) in the law's order."""
        values = {**self.extras, str(self.law.size): params, "tokens": tokens}
        return np.stack([np.broadcast_to(np.asarray(values[name], float), np.shape(params)) for name in self.law.inputs], axis=1)

    def information(self, inputs: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """Derivatives of predictions by the free constants over the noise, (rows, free)."""
        if not len(inputs):
            return np.zeros((0, int(self.free.sum())))
        problem = problems.Problem(self.law, self.objective, inputs, np.ones(len(inputs)), theta, theta)
        return problems.jacobian(problem, theta)[:, self.free] / self.noise

    def moved(self, shift: np.ndarray) -> np.ndarray:
        """The constants, the free ones moved, within the law's bounds."""
        theta = self.theta.copy()
        theta[self.free] += shift
        low, high = _law_bounds(self.law)
        return np.where(self.free, np.clip(theta, low, high), theta)


@dataclasses.dataclass(frozen=True)
class Goal:
    """The quantity, and where."""

    quantity: str
    at: float | None
    product: float  # size times tokens at which a local exponent is taken

    def value(self, arm: Arm, theta: np.ndarray) -> np.ndarray:
        """The arm's part in the quantity at thetas (..., p)."""
        law, constants, c = arm.law, to_constants(arm.law, theta), arm.curve.flops_per_param_token
        if self.quantity == "exponent":
            return frontier.allocation_exponent(law, constants, self.product, arm.extras)
        assert self.at is not None
        if self.quantity == "loss":
            return frontier.loss_on_frontier(law, constants, self.at / c, arm.extras)
        if self.quantity == "params":
            return np.log(frontier.optimal_size(law, constants, self.at / c, arm.extras))
        return arm.sign * np.log(c * frontier.product_for(law, constants, self.at, arm.extras))

    def gradient(self, arm: Arm, theta: np.ndarray) -> np.ndarray:
        """Its derivatives by the free constants, by central differences in the solver's coordinates."""
        step = 1e-4 * np.eye(len(theta))[arm.free]
        with np.errstate(invalid="ignore"):
            return (self.value(arm, theta + step) - self.value(arm, theta - step)) / 2e-4


def arm_of(
    name: str, source: Curve | pd.DataFrame, law: str | Law, runs: pd.DataFrame | None, noise: float | None, extras: Mapping[str, float]
) -> Arm:
    """An arm of a curve, with its own runs or those given, or of a table, which is fitted."""
    if isinstance(source, pd.DataFrame):
        from fits.fitting import fit

        source = fit(law, source)
    found, sample = source.law, source.sample
    if found.size is None:
        raise InputError(f"law {found.name} does not divide compute between a size and tokens, so there is no frontier to plan for")
    others = {key: float(value) for key, value in source._inputs(dict(extras), without=(found.size, "tokens")).items()}
    kind = sample.problem.objective if sample is not None else _objective_of(source)
    if noise is not None:
        noise = float(positive("noise", noise))
    if sample is not None and runs is None:
        theta, low, high = sample.theta, sample.problem.low, sample.problem.high
        assert theta is not None
        done, weights = sample.problem.inputs, sample.weights
        noise = noise or scatter(problems.residuals(sample.problem, theta), kind.delta, int((low < high).sum()))
    else:
        theta = to_theta(found, source.vector)
        low, high = _law_bounds(found)
        frame = None if runs is None else complete(runs, needs=found.inputs, output=found.output)
        done = np.zeros((0, len(found.inputs))) if frame is None else frame[list(found.inputs)].to_numpy(float)
        weights, noise = np.ones(len(done)), noise or source.residual_sd
    if not noise or noise < 1e-9:
        raise InputError(
            f"noise: curve {source.name!r} has no runs from whose scatter to take it; give the standard deviation of a run's log loss, such as 0.005"
        )
    free = (low < high) & (theta > low) & (theta < high)
    return Arm(name, source, kind, theta, free, done, weights, noise * math.sqrt(inefficiency(noise, kind)), others)


def _objective_of(curve: Curve) -> Objective:
    """The objective of a saved fit; least squares of the log loss where a curve does not say."""
    return objective(str(curve.about.get("objective") or "log-squared"), float(curve.about.get("delta") or 1e-3))


def scatter(residual: np.ndarray, delta: float, constants: int) -> float:
    """The residuals' standard deviation; from their median where the objective does not count them all in full."""
    freedom = max(1, len(residual) - constants)
    if (np.abs(residual) <= delta).all():
        return float(np.sqrt(np.sum(residual**2) / freedom))
    return float(np.median(np.sort(np.abs(residual))[len(residual) - freedom :])) / 0.6745


def inefficiency(noise: float, kind: Objective) -> float:
    """Variance of an estimate under Huber's function over that under least squares, for normal noise: E[psi^2] / (E[psi']^2 sigma^2)."""
    k = kind.delta / noise
    if not math.isfinite(k):
        return 1.0
    if k < 1e-6:
        return math.pi / 2
    inside = float(norm.cdf(k) - norm.cdf(-k))
    return (inside - 2 * k * float(norm.pdf(k)) + k**2 * (1 - inside)) / inside**2


def _law_bounds(law: Law) -> tuple[np.ndarray, np.ndarray]:
    low, high = (np.array([getattr(parameter, side) for parameter in law.parameters]) for side in ("low", "high"))
    return to_theta(law, low), to_theta(law, high)
