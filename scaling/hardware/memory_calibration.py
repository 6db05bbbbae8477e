"""Fits the scales of the memory model to reported peaks, and says how far it is off."""

from __future__ import annotations

import collections
import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import InputError
from scaling.hardware import memory
from scaling.hardware.bands import quantile
from scaling.hardware.calibration import FOLDS, folds
from scaling.hardware.library import chip as find_chip
from scaling.hardware.rows import describe, number
from scaling.hardware.solver import Solver
from scaling.hardware.workload import Workload

NOISE, ROBUST = 0.1, 1.5
SAME = 0.03  # peaks closer than this are the same


@dataclasses.dataclass(frozen=True, eq=False)
class Peaks:
    """Rows that report a peak. `whole` marks those whose peak can hold the activations too."""

    ids: list[str]
    works: list[Workload]
    peak_gb: np.ndarray
    groups: np.ndarray
    whole: np.ndarray

    def weights(self, chosen: np.ndarray) -> np.ndarray:
        """Weights by which every group counts once among the chosen rows."""
        count = collections.Counter(self.groups[chosen])
        return np.array([1 / count[group] for group in self.groups[chosen]])


def read_peaks(path: Path) -> Peaks:
    """The rows of a table of runs that report peak memory."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if number(row, "peak_mem_gb")]
    ids, works, peaks, groups = [], [], [], []
    for row in rows:
        try:
            works.append(describe(row, find_chip).workload)
        except InputError:
            continue
        ids.append(row["id"])
        peaks.append(number(row, "peak_mem_gb"))
        groups.append(row["group"])
    table = np.array(peaks, float)
    return Peaks(ids, works, table, np.array(groups), _whole(works, table, groups))


def _whole(works: list[Workload], peaks: np.ndarray, groups: list[str]) -> np.ndarray:
    """A peak that stays while the micro-batch of the same job doubles cannot hold the activations: only its smallest micro-batch is believed."""
    found = np.ones(len(works), bool)
    for i, work in enumerate(works):
        for j, other in enumerate(works):
            bare = dataclasses.replace(work.layout, micro_batch=1) == dataclasses.replace(other.layout, micro_batch=1)
            larger = work.layout.micro_batch >= 2 * other.layout.micro_batch
            if groups[i] == groups[j] and bare and larger and abs(peaks[i] / peaks[j] - 1) < SAME:
                found[i] = False
    return found


def _columns(works: list[Workload]) -> dict[str, np.ndarray]:
    unit = {"activations": 1.0, "logit_bytes": 1.0, "cluster_share": 0.0, "one_chip_gb": 0.0}
    rows = []
    for work in works:
        parts = memory.memory(work, unit)
        states = parts.weights + parts.gradients + parts.optimizer + parts.buffers
        rows.append(
            (states / 1e9, parts.activations / 1e9, parts.logits / 1e9, (work.chips > 1) * work.device.memory / 1e9, float(work.chips == 1))
        )
    return dict(zip(("states", "activations", "logits", "cluster", "alone"), np.array(rows).T, strict=True))


def _peak(c: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    overhead = c["cluster_share"] * x["cluster"] + c["one_chip_gb"] * x["alone"]
    return x["states"] + c["activations"] * x["activations"] + c["logit_bytes"] * x["logits"] + overhead


def fit_memory(peaks: Peaks) -> tuple[dict[str, float], np.ndarray]:
    """(the scales, every row's cross-validated estimate over the reported peak)."""
    columns = _columns(peaks.works)
    solver = Solver(_peak, memory.PRIORS, list(columns), noise=NOISE, robust=ROBUST)
    start = {name: prior for name, (prior, _) in memory.PRIORS.items()}

    def fitted(chosen: np.ndarray) -> dict[str, float]:
        part = {name: values[chosen] for name, values in columns.items()}
        return solver.fit(part, peaks.peak_gb[chosen], peaks.weights(chosen), start)

    fold, ratio = folds(peaks.groups), np.zeros(len(peaks.ids))
    for place in range(FOLDS):
        own = fold == place
        scales = fitted(~own & peaks.whole)
        ratio[own] = np.asarray(_peak(scales, {name: values[own] for name, values in columns.items()})) / peaks.peak_gb[own]
    return fitted(peaks.whole), ratio


def median_error(peaks: Peaks, ratio: np.ndarray, chosen: np.ndarray) -> float:
    """Median of |estimate / reported - 1|, a group counting once."""
    return quantile(np.abs(ratio[chosen] - 1), peaks.weights(chosen), 0.5)
