"""What a band is made of: the variance of a quantity, split into parameters, form and assumption.

The law of total variance, Var(Y) = E[Var(Y | form, assumption)] + Var(E[Y | form, assumption]): what is left once law and assumption are known is the
constants' (their draws). The other part belongs to the two together; each gets the mean of what it explains first and of what it explains
after the other (Shapley value of two), so that the three shares sum to one however they interact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

LEVEL = 0.9  # of every band
NOTHING = 1e-14  # variance that rounding makes; there is nothing to share out


class Parts(NamedTuple):
    """The variance, and the shares of it: NaN where there is none."""

    variance: np.ndarray
    parameters: np.ndarray
    form: np.ndarray
    assumption: np.ndarray


class Band(NamedTuple):
    """Weighted quantiles; infinite where that share of the cases is. `infinite` is the weight of the cases that are."""

    median: np.ndarray
    low: np.ndarray
    high: np.ndarray
    infinite: np.ndarray


def parts(values: np.ndarray, weights: np.ndarray) -> Parts:
    """The parts of `values` (forms, draws, assumptions, ...), forms weighted, the others equally likely; infinite values are left out."""
    finite = np.isfinite(values)
    y = np.where(finite, values, 0.0)
    mass = finite * weights.reshape(-1, *(1,) * (values.ndim - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        mass = mass / mass.sum(axis=(0, 1, 2))
        cell = mass.sum(axis=1)  # weights of (forms, assumptions, ...)
        centre = np.where(cell > 0, (mass * y).sum(axis=1) / cell, 0.0)
        within = (mass * (y - centre[:, None]) ** 2).sum(axis=(0, 1, 2))
        mean = (cell * centre).sum(axis=(0, 1))
        between = (cell * (centre - mean) ** 2).sum(axis=(0, 1))
        by_form, by_assumption = (_explained(cell, centre, mean, axis) for axis in (1, 0))
        form, assumption = (by_form + between - by_assumption) / 2, (by_assumption + between - by_form) / 2
        total = within + between
        shares = (np.where(total > NOTHING, np.clip(part / total, 0.0, 1.0), np.nan) for part in (within, form, assumption))
        return Parts(total, *shares)


def _explained(cell: np.ndarray, centre: np.ndarray, mean: np.ndarray, axis: int) -> np.ndarray:
    """The variance of the means over `axis`, the other of the two factors left."""
    weight = cell.sum(axis=axis)
    own = np.where(weight > 0, (cell * centre).sum(axis=axis) / weight, 0.0)
    return (weight * (own - mean) ** 2).sum(axis=0)


def band(values: np.ndarray, weights: np.ndarray, level: float = LEVEL) -> Band:
    """Median and the middle `level` of the cases (forms, draws, assumptions, ...); not a number counts as infinite."""
    shape = values.shape[3:]
    flat = np.where(np.isnan(values), np.inf, values).reshape(-1, *shape)
    mass = np.broadcast_to(weights.reshape(-1, 1, 1), values.shape[:3]).ravel()
    order = np.argsort(flat, axis=0, kind="stable")
    ordered, below = np.take_along_axis(flat, order, axis=0), np.cumsum(mass[order] / mass.sum(), axis=0)
    found = [
        np.take_along_axis(ordered, np.argmax(below >= share - 1e-12, axis=0)[None], axis=0)[0]
        for share in (0.5, (1 - level) / 2, (1 + level) / 2)
    ]
    infinite = (mass.reshape(-1, *(1,) * len(shape)) * np.isinf(flat)).sum(axis=0) / mass.sum()
    return Band(*found, infinite)


def likely(centre: float, low: float, high: float, count: int = 9, level: float = LEVEL) -> np.ndarray:
    """`count` equally likely values of a lognormal around `centre` whose middle `level` is as wide as low to high: the mean of each part in logarithms."""
    spread = np.log(high / low) / (2 * ndtri((1 + level) / 2))
    edges = ndtri(np.linspace(0, 1, count + 1))
    density = np.exp(-(edges**2) / 2) / np.sqrt(2 * np.pi)
    return centre * np.exp(spread * count * (density[:-1] - density[1:]))
