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
}
SLOPES = {"moe_year": 0.6, "year": 0.1, "young": 0.2, "hours": 0.2, "micro_batch": 0.1, "batch": 0.1}


@dataclasses.dataclass(frozen=True)
class Effects:
    """Fitted effects by level ("stack=maxtext") and slope, on the log of tokens per second."""

    values: dict[str, float]

    def __call__(self, work: Workload, inferred: Sequence[str] = ()) -> float:
        """The sum of the effects on a job."""
        total = sum(self.values.get(level, 0.0) for level in levels(work))
        return total + sum(self.values.get(name, 0.0) * value for name, value in slopes(work, inferred).items())


def levels(work: Workload) -> list[str]:
    """The job's level of every group that it has one in."""
    known = {
        "stack": work.software.stack,
        "family": work.software.family,
        "chip": work.device.name,
        "generation": work.device.generation,
        "moe": "yes" if work.architecture.moe_layers else "no",
        "bits": str(work.bits),
    }
    found = []
    for group in GROUPS:
        names = group.split("*")
        if all(known[name] for name in names):
            found.append("|".join(f"{name}={known[name]}" for name in names))
    return found


def slopes(work: Workload, inferred: Sequence[str]) -> dict[str, float]:
    """The job's values of the covariates: years of software for experts and for all, youth of the chip's software, what was unknown."""
    year = work.software.year
    return {
        "moe_year": (year - 2025.5) * bool(work.architecture.moe_layers),
        "year": min(year - 2024, 2.0),
        "young": math.exp(-max(0.0, year - work.device.released)),
        "hours": float(work.measured_hours),
        "micro_batch": float("micro_batch_seqs" in inferred),
        "batch": float("global_batch_seqs" in inferred),
    }


def design(jobs: Sequence[tuple[Workload, Sequence[str]]]) -> tuple[np.ndarray, list[str], np.ndarray]:
    """The matrix (jobs, effects), the effects' names and their prior spreads."""
    own = [levels(work) for work, _ in jobs]
    names = sorted({level for each in own for level in each})
    index = {name: i for i, name in enumerate(names)}
    matrix = np.zeros((len(jobs), len(names) + len(SLOPES)))
    for row, (each, (work, inferred)) in enumerate(zip(own, jobs, strict=True)):
        matrix[row, [index[level] for level in each]] = 1.0
        matrix[row, len(names) :] = list(slopes(work, inferred).values())
    spread = [GROUPS["*".join(part.split("=")[0] for part in name.split("|"))] for name in names]
    return matrix, [*names, *SLOPES], np.array([*spread, *SLOPES.values()])


def solve(matrix: np.ndarray, spread: np.ndarray, residual: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The effects: ridge regression by their prior spreads, rows reweighted by Huber's rule until they settle."""
    found = np.zeros(matrix.shape[1])
    for _ in range(8):
        scaled = np.abs(residual - matrix @ found) / NOISE
        counted = weights * np.minimum(1.0, ROBUST / np.maximum(scaled, 1e-9)) / NOISE**2
        normal = (matrix * counted[:, None]).T @ matrix + np.diag(spread**-2.0)
        found = np.linalg.solve(normal, (matrix * counted[:, None]).T @ residual)
    return found
