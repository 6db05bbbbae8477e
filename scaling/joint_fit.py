"""The joint fit of two sets of runs: nested models of `scaling.two_sides`, tests between them, and intervals.

What is fitted are the mean log losses of cells, runs of one side, size and tokens: seeds of a cell share what the law misses there, so that cells and not runs are
the independent errors (a row per run on request). The objective is least squares of log loss.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import nnls
from scipy.stats import f as f_distribution

from fits import problems, solve
from fits.laws.base import to_constants, to_theta
from fits.objectives import objective
from fits.profile import constant_intervals
from fits.sample import Sample
from scaling.errors import InputError
from scaling.two_sides import PLACE, TWO_SIDES, Side, constants_of, sides

SQUARES = objective("log-squared")
EXPONENTS = (0.08, 0.15, 0.25, 0.4, 0.65, 1.0)  # from which a search begins
STARTS = 10  # the best of their pairs
BATCH = 64  # fits at once
_LEAST = 1e-3  # share of the loss that a term has at least in a start, because the search moves its logarithm

# What every model leaves free beside the baseline's five constants (or four and the outer exponent, "-outer").
MODELS: dict[str, tuple[str, ...]] = {
    "equal": (),
    "one factor": ("penalty",),
    "two factors": ("penalty", "tilt"),
    "scale-dependent": ("penalty", "tilt", "growth"),
    "own exponents": ("penalty", "tilt", "growth", "shape"),
    "own laws": ("penalty", "tilt", "growth", "shape", "irreducible_ratio"),
}
_BASELINE = ("irreducible", "size", "product", "alpha", "beta")


@dataclasses.dataclass(frozen=True, eq=False)
class Cells:
    """Cells of both sides: size, tokens, log of the mean loss (geometric), 0 or 1, and how many runs each holds."""

    size: np.ndarray
    tokens: np.ndarray
    log_loss: np.ndarray
    variant: np.ndarray
    runs: np.ndarray

    def of(self, side: int) -> np.ndarray:
        return self.variant == side

    def inputs(self, split: float) -> np.ndarray:
        return np.stack([self.size, self.tokens, self.variant, np.full(len(self.size), split)], axis=1)


def cells(baseline: pd.DataFrame, variant: pd.DataFrame, by: Sequence[str] = ("size", "tokens")) -> Cells:
    """Runs (size, tokens, loss) as cells."""
    parts = []
    for side, frame in enumerate((baseline, variant)):
        logs = frame.assign(log_loss=np.log(frame["loss"]), log_size=np.log(frame["size"]), log_tokens=np.log(frame["tokens"]))
        groups = logs.groupby(list(by), sort=True)[["log_size", "log_tokens", "log_loss"]]
        parts.append(groups.mean().assign(variant=float(side), runs=groups.size()))
    table = pd.concat(parts)
    columns = [table[name].to_numpy(float) for name in ("log_size", "log_tokens", "log_loss", "variant", "runs")]
    return Cells(np.exp(columns[0]), np.exp(columns[1]), *columns[2:])


@dataclasses.dataclass(frozen=True, eq=False)
class Joint:
    """One fitted model around one loss: the problem with the model's bounds, its optimum, and the half sum of squares there."""

    model: str
    loss: float  # the anchor, nats/token
    split: float
    problem: problems.Problem
    theta: np.ndarray
    squares: float

    @property
    def free(self) -> int:
        return int((self.problem.low < self.problem.high).sum())

    @property
    def freedom(self) -> int:
        return len(self.problem.target) - self.free

    @property
    def sides(self) -> tuple[Side, Side]:
        return sides(to_constants(TWO_SIDES, self.theta), self.loss, self.split)

    @property
    def residual_sd(self) -> float:
        return math.sqrt(2 * self.squares / self.freedom)

    def constant(self, name: str) -> float:
        return float(to_constants(TWO_SIDES, self.theta)[PLACE[name]])

    def around(self, loss: float, split: float | None = None) -> Joint:
        """The same laws, written around another loss or with another split of the penalty."""
        split = self.split if split is None else split
        theta = to_theta(TWO_SIDES, constants_of(*(side.at(loss) for side in self.sides), split))
        low, high = _bounds(self.model, outer=None if "outer" in self._freed else self.constant("outer"))
        inputs = self.problem.inputs.copy()
        inputs[:, 3] = split
        target = self.problem.target * self.loss / loss
        problem = dataclasses.replace(self.problem, inputs=inputs, target=target, low=low, high=high)
        return dataclasses.replace(self, loss=loss, split=split, problem=problem, theta=np.clip(theta, low, high))

    @property
    def _freed(self) -> set[str]:
        return {name for name, low, high in zip(TWO_SIDES.constants, self.problem.low, self.problem.high, strict=True) if low < high}


def fit_models(data: Cells, models: Sequence[str], loss: float, *, split: float = 0.5, outer: bool = False) -> dict[str, Joint]:
    """The models' global optima, all in one batch, written around `loss`; `split` matters to "one factor" only. `outer` frees the outer exponent.

    Raises InputError where the cells are too few for the largest model.
    """
    begin = to_theta(TWO_SIDES, _starts(data, loss, split))
    bounds = [_bounds(model, outer=None if outer else 1.0) for model in models]
    _check_enough(data, models, bounds)
    low, high = (np.repeat(np.array(ends), len(begin), axis=0) for ends in zip(*bounds, strict=True))
    starts = np.clip(np.tile(begin, (len(models), 1)), low, high)
    base = problems.Problem(TWO_SIDES, SQUARES, data.inputs(split), np.exp(data.log_loss) / loss, low[0], high[0])
    theta = refit(base, starts, np.repeat(base.observed[None], len(starts), axis=0), (low, high))
    squares = half_squares(base, theta, base.observed[None])
    found = {}
    for place, model in enumerate(models):
        own = slice(place * len(begin), (place + 1) * len(begin))
        best = int(np.argmin(squares[own])) + own.start
        problem = dataclasses.replace(base, low=low[best], high=high[best])
        found[model] = Joint(model, loss, split, problem, theta[best], float(squares[best]))
    return found


def refit(problem: problems.Problem, starts: np.ndarray, observed: np.ndarray, bounds: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Local optima from `starts` (M, p) for targets (M, rows) within bounds (M, p), in parts of one size, which share a program."""
    one = np.ones((1, len(problem.target)))
    found = []
    for first in range(0, len(starts), BATCH):
        part = slice(first, first + BATCH)
        low, high = (ends[part] for ends in bounds)
        minimum = solve.minimise(
            problem, starts[part], one, observed=observed[part], bounds=(low, high), first_delta=math.inf, describe=False, room=BATCH
        )
        found.append(minimum.theta)
    return np.concatenate(found)


def half_squares(problem: problems.Problem, theta: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Half the sum of squared residuals of log loss, (M,); infinite where a prediction is none."""
    values = 0.5 * np.sum((observed - problems.predictions(problem, theta)) ** 2, axis=1)
    return np.where(np.isfinite(values), values, np.inf)


def intervals(joint: Joint, level: float) -> dict[str, tuple[float, float]]:
    """Profile intervals of the model's constants by Student's t (`fits.profile`), open where the runs do not bound one."""
    sample = Sample(joint.problem, pd.DataFrame(), np.ones(len(joint.problem.target)), theta=joint.theta)
    return constant_intervals(sample, level)


def f_test(smaller: Joint, larger: Joint) -> float:
    """p value of the F test that the larger model's further constants are not needed."""
    extra = larger.free - smaller.free
    ratio = (smaller.squares - larger.squares) / extra / (larger.squares / larger.freedom)
    return float(f_distribution.sf(max(ratio, 0.0), extra, larger.freedom))


def bic(joint: Joint) -> float:
    """Bayesian information criterion, n ln(RSS / n) + p ln n, n being cells."""
    n = len(joint.problem.target)
    return n * math.log(2 * joint.squares / n) + joint.free * math.log(n)


def _bounds(model: str, outer: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Bounds in the solver's coordinates; what the model does not free is held at one."""
    freed = {*_BASELINE, *MODELS[model]}
    held = {name: 1.0 for name in TWO_SIDES.constants if name not in freed}
    held = {name: value for name, value in held.items() if name != "outer"} | ({} if outer is None else {"outer": outer})
    low, high = (np.array([held.get(p.name, getattr(p, side)) for p in TWO_SIDES.parameters]) for side in ("low", "high"))
    return to_theta(TWO_SIDES, low), to_theta(TWO_SIDES, high)


def _check_enough(data: Cells, models: Sequence[str], bounds: list[tuple[np.ndarray, np.ndarray]]) -> None:
    rows = len(data.size)
    for model, (low, high) in zip(models, bounds, strict=True):
        free = int((low < high).sum())
        if rows <= free:
            raise InputError(
                f"multiplier: {int((1 - data.variant).sum())} and {int(data.variant.sum())} distinct runs are too few for the {free} constants of"
                f" the model {model!r}; {free + 1} are needed in all"
            )


def _starts(data: Cells, loss: float, split: float) -> np.ndarray:
    """For pairs of exponents the best coefficients of E + A N^-alpha + B D^-beta, A and B by side, by least squares relative to the loss."""
    target = np.exp(data.log_loss)
    candidates = []
    for alpha, beta in itertools.product(EXPONENTS, EXPONENTS):
        # Powers of what is near one keep the columns of one size.
        n, d = data.size / np.median(data.size), data.tokens / np.median(data.tokens)
        one = np.ones_like(target)
        columns = [one, *(power * data.of(side) for side in (0, 1) for power in (n**-alpha, d**-beta))]
        design = np.stack(columns, axis=1) / target[:, None]
        solved, misfit = nnls(design, one)
        e, *terms = np.maximum(solved, _LEAST * target.min() / np.maximum(np.array([c.max() for c in columns]), 1e-300))
        e = min(e, 0.98 * loss)
        both = [_around(e, terms[2 * side : 2 * side + 2], (alpha, beta), loss, data) for side in (0, 1)]
        candidates.append((misfit, constants_of(*both, split)))
    candidates.sort(key=lambda pair: pair[0])
    return np.array([each for _, each in candidates[:STARTS]])


def _around(e: float, terms: list[float], powers: tuple[float, float], loss: float, data: Cells) -> Side:
    """E + A (N / median)^-alpha + B (D / median)^-beta as a side around `loss`."""
    alpha, beta = powers
    size, tokens = (
        np.median(values) * ((alpha + beta) * term / (other * (loss - e))) ** (1 / power)
        for values, term, power, other in ((data.size, terms[0], alpha, beta), (data.tokens, terms[1], beta, alpha))
    )
    return Side(loss, e, float(size), float(tokens), alpha, beta)
