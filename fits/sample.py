"""What a fit is made from: the rows as arrays, their weights and clusters, and the bounds of the constants."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fits import problems
from fits.errors import InputError
from fits.laws.base import Law, to_theta
from fits.objectives import Objective
from fits.runs import complete


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """A table of runs, ready to be fitted and fitted again."""

    problem: problems.Problem
    frame: pd.DataFrame
    weights: np.ndarray  # (rows,)
    clusters: np.ndarray | None = None  # (rows,) of cluster numbers
    theta: np.ndarray | None = None  # the optimum, once found


def prepare(
    law: Law,
    runs: pd.DataFrame,
    objective: Objective,
    *,
    fixed: Mapping[str, float] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    weights: str | Sequence[float] | None = None,
    cluster: str | Sequence[str] | None = None,
) -> Sample:
    """The sample for a fit; InputError says what is wrong with the table or the arguments."""
    # A table for a law of params and tokens also gets its flops, for optima.
    frame = complete(runs, needs=None if set(law.inputs) == {"params", "tokens"} else law.inputs, output=law.output)
    row_weights = _weights(frame, weights)
    # A row of no weight is no row, for counts and ranges too; and only the proportions of weights matter, so that the noise is of their mean.
    frame, row_weights = frame[row_weights > 0], row_weights[row_weights > 0]
    row_weights = row_weights * len(frame) / row_weights.sum()
    if "corpus" in frame and frame["corpus"].nunique(dropna=False) > 1:
        raise InputError(
            f"runs: {frame['corpus'].nunique()} corpora in one table; losses on different corpora are not comparable, select one with where"
        )
    output = frame[law.output].to_numpy(float)
    if objective.log and not (output > 0).all():
        raise InputError(
            f"runs: column {law.output!r} holds values that are not positive, which have no logarithm; give a raw objective such as huber or squared"
        )
    low, high = _bounds(law, fixed or {}, bounds or {})
    free = int((low < high).sum())
    distinct = len(frame[list(law.inputs)].drop_duplicates())
    if distinct <= free:
        raise InputError(
            f"runs: {distinct} distinct points ({len(frame)} rows) cannot determine the {free} constants of {law.name}; at least {free + 1} are needed"
        )
    problem = problems.Problem(law, objective, frame[list(law.inputs)].to_numpy(float), output, low, high)
    return Sample(problem, frame, row_weights, _clusters(frame, cluster))


def _bounds(law: Law, fixed: Mapping[str, float], bounds: Mapping[str, tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of every parameter in the solver's coordinates; a fixed one has both at its value."""
    ends = {parameter.name: (parameter.low, parameter.high) for parameter in law.parameters}
    for name, pair in bounds.items():
        own = ends[law.parameter(name).name]
        if math.isnan(pair[0]) or math.isnan(pair[1]):
            raise InputError(f"bounds: {name} needs two numbers, got {pair[0]} and {pair[1]}")
        ends[name] = (max(own[0], pair[0]), min(own[1], pair[1]))
        if not ends[name][0] <= ends[name][1]:
            raise InputError(
                f"bounds: {name} has no value between {pair[0]} and {pair[1]} that law {law.name} allows ({own[0]} to {own[1]})"
            )
    for name, value in fixed.items():
        low, high = ends[law.parameter(name).name]
        if not low <= value <= high:
            raise InputError(f"fixed: {name} = {value} lies outside {low} to {high}")
        ends[name] = (value, value)
    low, high = (np.array([ends[name][side] for name in law.constants]) for side in (0, 1))
    with np.errstate(divide="ignore"):
        return to_theta(law, low), to_theta(law, high)


def _weights(frame: pd.DataFrame, weights: str | Sequence[float] | None) -> np.ndarray:
    if weights is None:
        return np.ones(len(frame))
    if isinstance(weights, str):
        if weights not in frame:
            raise InputError(f"weights: no column {weights!r}; there are {', '.join(map(str, frame.columns))}")
        weights = frame[weights].tolist()
    try:
        values = np.asarray(weights, float)
    except (TypeError, ValueError) as error:
        raise InputError(f"weights: {error}; {len(frame)} numbers are needed") from None
    if values.shape != (len(frame),) or not (np.isfinite(values) & (values >= 0)).all() or not values.any():
        raise InputError(f"weights: {len(frame)} finite numbers of 0 or more are needed, not all zero")
    return values


def _clusters(frame: pd.DataFrame, cluster: str | Sequence[str] | None) -> np.ndarray | None:
    if cluster is None:
        return None
    names = [cluster] if isinstance(cluster, str) else list(cluster)
    missing = [name for name in names if name not in frame]
    if missing:
        raise InputError(f"cluster: no column {missing[0]!r}; there are {', '.join(map(str, frame.columns))}")
    numbers = frame.groupby(names, dropna=False).ngroup().to_numpy()
    if len(np.unique(numbers)) < 5:
        raise InputError(f"cluster: {len(np.unique(numbers))} clusters by {', '.join(names)} are too few to resample; 5 at least")
    return numbers


def digest(frame: pd.DataFrame) -> str:
    """sha256 of the numbers of a table."""
    return hashlib.sha256(np.ascontiguousarray(frame.to_numpy(np.float64)).tobytes()).hexdigest()
