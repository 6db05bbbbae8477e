"""Bootstrap draws: the law refitted to resamples of the rows, of clusters of rows, or of the residuals' signs (wild).

Rows and clusters are drawn with replacement, which enters the fit as weights; the wild bootstrap keeps the design and flips residuals at random
(Rademacher), each enlarged by its leverage (HC3), which suits few rows and noise that grows with the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from fits import problems, solve
from fits.errors import InputError
from fits.laws.base import to_constants
from fits.sample import Sample

RESAMPLES = ("rows", "clusters", "wild")
PART = 2**22  # weights held at once


def draws(sample: Sample, count: int, kind: str = "rows", seed: int = 0, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
    """Constants refitted to each of `count` resamples, (count, constants); NaN where a refit did not converge. `progress(done, count)` is called on the way."""
    if kind not in RESAMPLES:
        raise InputError(f"resample: {kind!r} is not known; it is one of {', '.join(RESAMPLES)}")
    if kind == "clusters" and sample.clusters is None:
        raise InputError("resample: clusters need cluster, the column (or columns) by which rows belong together")
    assert sample.theta is not None
    problem, found, done = sample.problem, [], 0
    residual = problems.residuals(problem, sample.theta)
    # A resample's optimum is near the sample's, so delta is lowered from a few times the residuals only. An absolute objective is smoothed.
    near = 3 * max(float(np.median(np.abs(residual))), 1e-12)
    delta = problem.objective.delta or 1e-3 * near
    for weights, observed in _resamples(sample, residual, count, kind, np.random.Generator(np.random.Philox(key=seed))):
        size = max(len(weights), len(observed))
        minima = solve.minimise(
            problem, np.tile(sample.theta, (size, 1)), weights, observed=observed, first_delta=max(near, delta), delta=delta
        )
        sure = solve.certified(minima, len(residual))
        found.append(np.where(sure[:, None], to_constants(problem.law, minima.theta), np.nan))
        done += size
        if progress:
            progress(done, count)
    return np.concatenate(found)


def _resamples(
    sample: Sample, residual: np.ndarray, count: int, kind: str, generator: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(weights, targets) part by part, so that memory stays bounded; one row where all members share them."""
    rows = len(residual)
    part = part_of(count, rows)
    for first in range(0, count, part):
        size = min(part, count - first)
        if kind == "rows":
            yield generator.multinomial(rows, np.full(rows, 1 / rows), size=size) * sample.weights, sample.problem.observed[None]
        elif kind == "clusters":
            assert sample.clusters is not None
            clusters = int(sample.clusters.max()) + 1
            times = generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=size)
            yield times[:, sample.clusters] * sample.weights, sample.problem.observed[None]
        else:
            signs = generator.choice([-1.0, 1.0], size=(size, rows))
            yield sample.weights[None], sample.problem.observed - residual + signs * residual / (1 - leverage(sample))


def part_of(count: int, rows: int) -> int:
    """How many of `count` resamples are fitted at once."""
    return min(count, max(1, PART // rows))


def leverage(sample: Sample) -> np.ndarray:
    """Each row's share in determining its own prediction, the diagonal of J (J'WJ)^-1 J'W; at most 0.95."""
    assert sample.theta is not None
    free = sample.problem.low < sample.problem.high
    jacobian = problems.jacobian(sample.problem, sample.theta)[:, free] * np.sqrt(sample.weights)[:, None]
    scaled = jacobian / np.maximum(np.linalg.norm(jacobian, axis=0), 1e-300)
    left, singular, _ = np.linalg.svd(scaled, full_matrices=False)
    return np.minimum(np.sum(left[:, singular > 1e-10 * singular[0]] ** 2, axis=1), 0.95)
