"""The joint fit of two sets of runs: nested models of `scaling.two_sides`, tests between them, and draws and profiles for intervals.

What is fitted are the mean log losses of cells, runs of one side, size and tokens: seeds of a cell share what the law misses there, so that cells and not
runs are the independent errors (a row a run on request). The objective is least squares of log loss.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import nnls
from scipy.stats import f as f_distribution

from fits import bootstrap, problems, profile, solve
from fits.laws.base import to_constants, to_theta
from fits.objectives import objective
from fits.sample import Sample
from scaling.errors import InputError
from scaling.two_sides import PLACE, TWO_SIDES, Side, constants_of, sides

SQUARES = objective("log-squared")
BATCH = 64  # fits at once; all are of this size, so that they share a program
EXPONENTS = (0.08, 0.15, 0.25, 0.4, 0.65, 1.0)  # from which a search begins
STARTS = 10  # the best of their pairs
_LEAST = 1e-3  # share of the loss that a term has at least in a start, because the search moves its logarithm


class Model(NamedTuple):
    """What a model leaves free beside the baseline's five constants, and how its penalty splits into m and k where `tilt` is held."""

    freed: tuple[str, ...]
    split: float = 0.5


OUTER = ", outer exponent"  # ends the names of models of the form E + (A N^-alpha + B D^-beta)^outer
_PLAIN = {
    "equal": Model(()),
    "one factor": Model(("penalty",)),  # m = k, which stands for any pair where only the product is known
    "structure alone": Model(("penalty",), split=1.0),
    "data alone": Model(("penalty",), split=0.0),
    "two factors": Model(("penalty", "tilt")),
    "scale-dependent": Model(("penalty", "tilt", "growth")),
    "own exponents": Model(("penalty", "tilt", "growth", "shape")),
    "own laws": Model(("penalty", "tilt", "growth", "shape", "irreducible_ratio")),
}
MODELS = _PLAIN | {name + OUTER: Model((*model.freed, "outer"), model.split) for name, model in _PLAIN.items()}
_BASELINE = ("irreducible", "size", "product", "alpha", "beta")


@dataclasses.dataclass(frozen=True, eq=False)
class Cells:
    """Cells of both sides: size, tokens, log of the (geometric) mean loss, 0 or 1 for the variant, and how many runs each holds."""

    size: np.ndarray
    tokens: np.ndarray
    log_loss: np.ndarray
    variant: np.ndarray
    runs: np.ndarray

    def of(self, side: int) -> np.ndarray:
        return self.variant == side

    def inputs(self, split: float) -> np.ndarray:
        """Rows for TWO_SIDES."""
        return np.stack([self.size, self.tokens, self.variant, np.full(len(self.size), split)], axis=1)


def cells(baseline: pd.DataFrame, variant: pd.DataFrame, by: Sequence[str] = ("size", "tokens")) -> Cells:
    """Runs (size, tokens, loss) as cells."""
    parts = []
    for side, frame in enumerate((baseline, variant)):
        logs = frame.assign(**{f"log_{name}": np.log(frame[name]) for name in ("size", "tokens", "loss")})
        groups = logs.groupby(list(by), sort=True)[["log_size", "log_tokens", "log_loss"]]
        parts.append(groups.mean().assign(variant=float(side), runs=groups.size()))
    table = pd.concat(parts)
    columns = [table[name].to_numpy(float) for name in ("log_size", "log_tokens", "log_loss", "variant", "runs")]
    return Cells(np.exp(columns[0]), np.exp(columns[1]), *columns[2:])


@dataclasses.dataclass(frozen=True, eq=False)
class Joint:
    """One fitted model around one loss: the problem with the model's bounds, its optimum, and half the sum of squares there."""

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
        return self.sides_of(self.theta)

    def sides_of(self, theta: np.ndarray) -> tuple[Side, Side]:
        """Baseline and variant of thetas (..., p), such as draws."""
        return sides(to_constants(TWO_SIDES, theta), self.loss, self.split)

    @property
    def residual_sd(self) -> float:
        """Of log loss, what the model leaves over."""
        return math.sqrt(2 * self.squares / self.freedom)

    def constant(self, name: str) -> float:
        return float(to_constants(TWO_SIDES, self.theta)[PLACE[name]])

    def around(self, loss: float, split: float) -> Joint:
        """The same laws, written around another loss and with another split of the penalty."""
        theta = to_theta(TWO_SIDES, constants_of(*(side.at(loss) for side in self.sides), split))
        inputs = self.problem.inputs.copy()
        inputs[:, 3] = split
        problem = dataclasses.replace(self.problem, inputs=inputs, target=self.problem.target * self.loss / loss)
        return dataclasses.replace(self, loss=loss, split=split, problem=problem, theta=np.clip(theta, problem.low, problem.high))


def fit_models(data: Cells, models: Sequence[str], loss: float) -> dict[str, Joint]:
    """The models' global optima, written around `loss`. Raises InputError where the cells are too few for one of them."""
    for model in models:
        _check_enough(data, model)
    found: dict[str, Joint] = {}
    for split in dict.fromkeys(MODELS[model].split for model in models):
        found |= _fit(data, [model for model in models if MODELS[model].split == split], loss, split)
    return {model: found[model] for model in models}


def _fit(data: Cells, models: Sequence[str], loss: float, split: float) -> dict[str, Joint]:
    """Models of one split from many starts, all at once."""
    begin = to_theta(TWO_SIDES, _starts(data, loss, split))
    low, high = (np.repeat(np.array(ends), len(begin), axis=0) for ends in zip(*map(_bounds, models), strict=True))
    starts = np.clip(np.tile(begin, (len(models), 1)), low, high)
    base = problems.Problem(TWO_SIDES, SQUARES, data.inputs(split), np.exp(data.log_loss) / loss, low[0], high[0])
    observed = np.repeat(base.observed[None], len(starts), axis=0)
    theta = refit(base, starts, observed, (low, high))
    squares = half_squares(base, theta, observed)
    found = {}
    for place, model in enumerate(models):
        best = place * len(begin) + int(np.argmin(squares[place * len(begin) : (place + 1) * len(begin)]))
        problem = dataclasses.replace(base, low=low[best], high=high[best])
        found[model] = Joint(model, loss, split, problem, theta[best], float(squares[best]))
    return found


def refit(problem: problems.Problem, starts: np.ndarray, observed: np.ndarray, bounds: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Local optima from `starts` (M, p) for log losses (M, rows) within bounds (M, p)."""
    one = np.ones((1, len(problem.target)))
    found = []
    for first in range(0, len(starts), BATCH):
        part = slice(first, first + BATCH)
        own = bounds[0][part], bounds[1][part]
        minimum = solve.minimise(
            problem, starts[part], one, observed=observed[part], bounds=own, first_delta=math.inf, describe=False, room=BATCH
        )
        found.append(minimum.theta)
    return np.concatenate(found)


def half_squares(problem: problems.Problem, theta: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Half the sum of squared residuals of log loss, (M,); infinite where a prediction is none."""
    values = 0.5 * np.sum((observed - problems.predictions(problem, theta)) ** 2, axis=1)
    return np.where(np.isfinite(values), values, np.inf)


def draws(joint: Joint, count: int, seed: int) -> np.ndarray:
    """Thetas refitted to wild resamples of the cells, (count, p).

    Every cell keeps its place and gets its residual back with a random sign, enlarged by its leverage (HC3; Rademacher signs: Davidson & Flachaire 2008), which
    allows for noise that differs between cells and needs no cell to be drawn twice.
    """
    problem = joint.problem
    predicted = problems.predictions(problem, joint.theta[None])[0]
    residual = (problem.observed - predicted) / (1 - bootstrap.leverage(_sample(joint)))
    signs = np.random.Generator(np.random.Philox(key=seed)).choice([-1.0, 1.0], size=(count, len(residual)))
    low, high = (np.tile(ends, (count, 1)) for ends in (problem.low, problem.high))
    return refit(problem, np.tile(joint.theta, (count, 1)), predicted + signs * residual, (low, high))


def profiles(joint: Joint, level: float) -> dict[str, tuple[float, float]]:
    """Profile intervals of the model's constants by Student's t (`fits.profile`), open where the runs do not bound one."""
    return profile.constant_intervals(_sample(joint), level)


def _sample(joint: Joint) -> Sample:
    return Sample(joint.problem, pd.DataFrame(), np.ones(len(joint.problem.target)), theta=joint.theta)


def f_test(smaller: Joint, larger: Joint) -> float:
    """p value of the F test that the larger model's further constants are not needed."""
    extra = larger.free - smaller.free
    if larger.freedom < 1 or larger.squares <= solve.EXACT * len(larger.problem.target):
        return math.nan  # nothing is left to judge by
    ratio = (smaller.squares - larger.squares) / extra / (larger.squares / larger.freedom)
    return float(f_distribution.sf(max(ratio, 0.0), extra, larger.freedom))


def bic(joint: Joint) -> float:
    """Bayesian information criterion, n ln(RSS / n) + p ln n, n being cells."""
    n = len(joint.problem.target)
    return n * math.log(max(2 * joint.squares / n, 1e-300)) + joint.free * math.log(n)


def constants_free(model: str) -> int:
    """How many constants a model fits."""
    return len(_BASELINE) + len(MODELS[model].freed)


def _bounds(model: str) -> tuple[np.ndarray, np.ndarray]:
    """Bounds in the solver's coordinates; what the model does not free is held at one."""
    freed = {*_BASELINE, *MODELS[model].freed}
    low, high = (np.array([getattr(p, end) if p.name in freed else 1.0 for p in TWO_SIDES.parameters]) for end in ("low", "high"))
    return to_theta(TWO_SIDES, low), to_theta(TWO_SIDES, high)


def _check_enough(data: Cells, model: str) -> None:
    free, counts = constants_free(model), [int(data.of(side).sum()) for side in (0, 1)]
    if sum(counts) <= free or min(counts) < 2:
        raise InputError(
            f"multiplier: {counts[0]} distinct runs of the baseline and {counts[1]} of the variant are too few for the {free} constants of"
            f" {model!r}; at least {free + 1} in all are needed, and 2 on either side"
        )


def _starts(data: Cells, loss: float, split: float) -> np.ndarray:
    """Constants for the best pairs of exponents: E + A N^-alpha + B D^-beta, A and B by side, by least squares relative to the loss."""
    target, candidates = np.exp(data.log_loss), []
    middle = np.median(data.size), np.median(data.tokens)
    n, d = data.size / middle[0], data.tokens / middle[1]  # near one, so that columns are of one size
    for powers in itertools.product(EXPONENTS, EXPONENTS):
        terms = [np.where(data.of(side), x**-power, 0.0) for side in (0, 1) for x, power in zip((n, d), powers, strict=True)]
        design = np.stack([np.ones_like(target), *terms], axis=1) / target[:, None]
        solved, misfit = nnls(design, np.ones_like(target))
        factors = np.maximum(solved[1:], _LEAST * target.min() / np.array([term.max() for term in terms]))
        rest = max(loss - max(solved[0], _LEAST * loss), 0.02 * loss)
        both = [_around(rest, factors[2 * side : 2 * side + 2], powers, loss, middle) for side in (0, 1)]
        candidates.append((misfit, constants_of(*both, split)))
    candidates.sort(key=lambda pair: pair[0])
    return np.array([constants for _, constants in candidates[:STARTS]])


def _around(rest: float, factors: np.ndarray, powers: tuple[float, float], loss: float, middle: tuple[float, float]) -> Side:
    """loss - rest + A (N / middle)^-alpha + B (D / middle)^-beta as a side around `loss`."""
    alpha, beta = powers
    size = middle[0] * ((alpha + beta) * factors[0] / (beta * rest)) ** (1 / alpha)
    tokens = middle[1] * ((alpha + beta) * factors[1] / (alpha * rest)) ** (1 / beta)
    return Side(loss, loss - rest, size, tokens, alpha, beta)
