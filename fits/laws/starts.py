"""Starts for searches: least squares where part of a law is linear, and the best of many candidates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.optimize import nnls

SHARE = 1e-3  # of the target: what a term gets at least, because the search moves its logarithm


def nonnegative(columns: Sequence[np.ndarray], target: np.ndarray) -> np.ndarray:
    """Positive factors of `columns` whose sum comes near `target` in relative terms."""
    design = np.stack([np.broadcast_to(column, target.shape) for column in columns], axis=-1) / target[:, None]
    scale = design.mean(axis=0)
    factors, _ = nnls(design / scale, np.ones(len(target)))
    return np.maximum(factors, SHARE) / scale


def distance(output: np.ndarray, predicted: np.ndarray) -> float:
    """Mean absolute difference of the logarithms; infinite where a prediction is not positive and finite."""
    with np.errstate(all="ignore"):
        apart = np.abs(np.log(predicted) - np.log(output)).mean()
    return float(apart) if np.isfinite(apart) else np.inf


def best(candidates: Iterable[tuple[float, dict[str, float]]], count: int = 24) -> list[dict[str, float]]:
    """The constants of the `count` candidates of least distance, best first."""
    ranked = sorted((candidate for candidate in candidates if np.isfinite(candidate[0])), key=lambda candidate: candidate[0])
    return [constants for _, constants in ranked[:count]]
