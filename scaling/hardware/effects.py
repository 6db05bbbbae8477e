"""What the time law does not explain, by stack, chip and age of the software: effects on the logarithm of the speed, shrunken to zero.

A level that the table never showed has effect zero, so an unknown framework or chip falls back to its family's or generation's, and at last to
the law alone. The estimate is the best linear unbiased predictor of a mixed model with given variances, made robust by Huber weights.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from scaling.hardware.workload import Workload

NOISE = 0.12  # spread of a row's log residual
ROBUST = 1.5  # residuals beyond so many spreads count linearly
# Prior spread of each effect; names joined by * are levels of their own.
GROUPS = {
    "stack": 0.22,
    "family": 0.12,
    "chip": 0.10,
    "generation": 0.08,
    "moe": 0.15,
    "stack*moe": 0.15,
    "generation*moe": 0.15,
    "bits": 0.08,
    "stack*bits": 0.09,
    "stack*generation": 0.15,
    "stack*chip": 0.1,
}
# Slopes of their own for every level of a group, in the covariates of `sizes`.
GROUP_SLOPES = {("stack", "width"): 0.05, ("stack", "sequence"): 0.05, ("stack", "chips"): 0.02}
SLOPES = {"year": 0.1, "young": 0.2, "hours": 0.2, "micro_batch": 0.1, "batch": 0.1}


@dataclasses.dataclass(frozen=True)
class Effects:
    """Fitted effects by level ("stack=maxtext") and slope, on the log of tokens per second."""

    values: dict[str, float]

    def __call__(self, work: Workload, inferred: Sequence[str] = ()) -> float:
        """The sum of the effects on a job."""
        return sum(self.values.get(name, 0.0) * value for name, value in terms(work, inferred).items())


def terms(work: Workload, inferred: Sequence[str]) -> dict[str, float]:
    """Every effect that touches the job, and by what it is multiplied."""
    known = {
        "stack": work.software.stack,
        "family": work.software.family,
        "chip": work.device.name,
        "generation": work.device.generation,
        "moe": "yes" if work.architecture.moe_layers else "no",
        "bits": str(work.bits),
    }
    found = {}
    for group in GROUPS:
        names = group.split("*")
        if all(known[name] for name in names):
            found["|".join(f"{name}={known[name]}" for name in names)] = 1.0
    size = sizes(work)
    for group, covariate in GROUP_SLOPES:
        if known[group]:
            found[f"{group}={known[group]}/{covariate}"] = size[covariate]
    return found | slopes(work, inferred)


def spread_of(name: str) -> float:
    """The prior spread of an effect."""
    if name in SLOPES:
        return SLOPES[name]
    level, _, covariate = name.partition("/")
    group = "*".join(part.split("=")[0] for part in level.split("|"))
    return GROUP_SLOPES[group, covariate] if covariate else GROUPS[group]


def sizes(work: Workload) -> dict[str, float]:
    """Logarithms of a job's sizes, zero at a usual one."""
    return {
        "width": math.log(work.architecture.width / 4096),
        "sequence": math.log(work.sequence / 4096),
        "chips": math.log(work.chips / 64),
    }


def slopes(work: Workload, inferred: Sequence[str]) -> dict[str, float]:
    """The job's values of the covariates: years of software, youth of the chip's software, what was unknown."""
    year = work.software.year
    return {
        "year": min(year - 2024, 2.0),
        "young": math.exp(-max(0.0, year - work.device.released)),
        "hours": float(work.measured_hours),
        "micro_batch": float("micro_batch_seqs" in inferred),
        "batch": float("global_batch_seqs" in inferred),
    }


def design(jobs: Sequence[tuple[Workload, Sequence[str]]]) -> tuple[np.ndarray, list[str], np.ndarray]:
    """The matrix (jobs, effects), the effects' names and their prior spreads."""
    rows = [terms(work, inferred) for work, inferred in jobs]
    names = sorted({name for row in rows for name in row})
    matrix = np.array([[row.get(name, 0.0) for name in names] for row in rows])
    return matrix, names, np.array([spread_of(name) for name in names])


def solve(matrix: np.ndarray, spread: np.ndarray, residual: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The effects: ridge regression by their prior spreads, rows reweighted by Huber's rule until they settle."""
    found = np.zeros(matrix.shape[1])
    for _ in range(8):
        scaled = np.abs(residual - matrix @ found) / NOISE
        counted = weights * np.minimum(1.0, ROBUST / np.maximum(scaled, 1e-9)) / NOISE**2
        normal = (matrix * counted[:, None]).T @ matrix + np.diag(spread**-2.0)
        found = np.linalg.solve(normal, (matrix * counted[:, None]).T @ residual)
    return found
