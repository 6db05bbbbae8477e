"""How good cross-validated estimates are: errors and coverage by kind of row, and what two simple guesses reach on the same folds."""

from __future__ import annotations

import numpy as np

from scaling.hardware.bands import quantile
from scaling.hardware.calibration import CrossValidated, Table

HAND_SET = 0.5  # efficiency that a user of a simple calculator types in


def parts(table: Table) -> dict[str, np.ndarray]:
    """Which rows belong to which kind."""
    moe = np.array([bool(work.architecture.moe_layers) for work in table.works])
    consumer = np.array([work.device.generation == "consumer" for work in table.works])
    tpu = np.array([work.device.generation == "tpu" for work in table.works])
    return {"all": moe | ~moe, "dense, datacentre": ~moe & ~consumer, "MoE": moe, "consumer and workstation": consumer, "TPU": tpu}


def scores(result: CrossValidated) -> dict[str, dict[str, float]]:
    """Weighted by group: median of |estimate / actual - 1|, shares within 15% and inside the band, median width of the band."""
    weights, actual = result.table.group_weights, result.table.speed
    error = np.abs(result.estimate / actual - 1)
    inside = (result.low <= actual) & (actual <= result.high)
    width = np.log(result.high / result.low)
    found = {}
    for name, rows in parts(result.table).items():
        if not rows.any():
            continue
        w = weights[rows]
        found[name] = {
            "rows": float(rows.sum()),
            "median": quantile(error[rows], w, 0.5),
            "within15": float(np.sum(w * (error[rows] <= 0.15)) / w.sum()),
            "coverage": float(np.sum(w * inside[rows]) / w.sum()),
            "width": float(np.exp(quantile(width[rows], w, 0.5))),
        }
    return found


def baselines(result: CrossValidated) -> dict[str, dict[str, float]]:
    """Median errors of two guesses: the chip's median MFU in the other folds (of all chips, where it has none), and a fixed efficiency."""
    table, weights = result.table, result.table.group_weights
    roof = np.array([work.device.peak(work.bits) / work.architecture.flops_per_token(work.sequence) for work in table.works])
    mfu = table.speed / roof
    chips = np.array([work.device.name for work in table.works])
    guess = np.zeros(len(mfu))
    for row in range(len(mfu)):
        others = result.fold != result.fold[row]
        same = others & (chips == chips[row])
        chosen = same if same.any() else others
        guess[row] = quantile(mfu[chosen], weights[chosen], 0.5)
    found = {}
    for name, estimate in (("chip's median MFU", guess * roof), ("efficiency 0.5", HAND_SET * roof)):
        error = np.abs(estimate / table.speed - 1)
        found[name] = {part: quantile(error[rows], weights[rows], 0.5) for part, rows in parts(table).items() if rows.any()}
    return found
