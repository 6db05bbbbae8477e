"""Where a search begins: the law's own starts, or a spread over its exponents with the linear constants solved for."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.optimize import nnls
from scipy.stats import qmc

from fits.laws.base import Inputs, Law, Parameter, to_theta

GRID = 6  # values of each constant where there are one or two to spread
SPREAD = 128  # starts where there are more
ROWS = 500  # of the table that linear constants are solved on


def starts(law: Law, inputs: np.ndarray, output: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Starting thetas within the bounds, (starts, p)."""
    if len(output) > ROWS:
        chosen = np.linspace(0, len(output) - 1, ROWS).astype(int)
        inputs, output = inputs[chosen], output[chosen]
    columns = {name: inputs[:, i] for i, name in enumerate(law.inputs)}
    own = [] if law.start_constants is None else law.start_constants(Inputs(columns), output)
    spread = [_complete(law, each, columns, output) for each in _spread(law)]
    constants = np.array([[each[name] for name in law.constants] for each in [*own, *spread]])
    with np.errstate(divide="ignore", invalid="ignore"):
        theta = to_theta(law, constants)
    inside = np.clip(theta, low, high)
    return inside[np.isfinite(inside).all(axis=1)]


def _spread(law: Law) -> list[dict[str, float]]:
    """Values of the constants that are not linear: a grid for one or two of them, a Sobol sequence for more."""
    spanned = [parameter for parameter in law.parameters if parameter.name not in law.linear]
    if not spanned:
        return [{}]
    if len(spanned) <= 2:
        points = itertools.product(np.linspace(0, 1, GRID), repeat=len(spanned))
    else:
        points = iter(qmc.Sobol(len(spanned), scramble=True, rng=0).random(SPREAD))
    return [{parameter.name: _value(parameter, share) for parameter, share in zip(spanned, point, strict=True)} for point in points]


def _value(parameter: Parameter, share: float) -> float:
    """The value at a share of the way through the start range, by factors where both ends are positive."""
    least, most = parameter.starts
    if least > 0:
        return float(least * (most / least) ** share)
    return float(least + (most - least) * share)


def _complete(law: Law, given: dict[str, float], columns: dict[str, np.ndarray], output: np.ndarray) -> dict[str, float]:
    """`given` with the linear constants that fit best, errors relative to the output; none below a thousandth of it, as zero has no logarithm."""
    if not law.linear:
        return given
    unit = np.array([[float(name == linear) if name in law.linear else given[name] for name in law.constants] for linear in law.linear])
    parts = law.evaluate(unit[:, None, :], columns).T
    scale = np.abs(parts).max(axis=0)
    usable = np.isfinite(parts).all() and (scale > 0).all()
    if not usable:
        return given | dict.fromkeys(law.linear, 1.0)
    size = np.maximum(np.abs(output), 0.1 * np.median(np.abs(output)))  # one tiny output must not own the fit
    size = np.maximum(size, 1e-300)
    solved, _ = nnls(parts / scale / size[:, None], output / size)
    return given | dict(zip(law.linear, np.maximum(solved, 1e-3 * size.min()) / scale, strict=True))
