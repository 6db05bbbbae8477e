"""The fitted constants that ship with the package, and the estimate of speed that they give."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from scaling.hardware import time_law
from scaling.hardware.bands import Band
from scaling.hardware.effects import Effects
from scaling.hardware.features import features
from scaling.hardware.workload import Workload


@dataclasses.dataclass(frozen=True)
class Constants:
    """The time law's constants, the effects beside it, the band of its errors, the scales of memory, and what they were fitted on."""

    law: dict[str, float]
    effects: Effects
    band: Band
    memory: dict[str, float]
    about: dict[str, Any]

    def save(self, path: Path) -> None:
        """Writes them as JSON, five digits each."""
        body = {"about": self.about, "law": _rounded(self.law), "effects": _rounded(self.effects.values), "band": self.band.as_dict()}
        body["memory"] = _rounded(self.memory)
        path.write_text(json.dumps(body, indent=1) + "\n")


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.5g}") for name, value in values.items()}


def load(path: Path | None = None) -> Constants:
    """The constants of a file, or those of the package."""
    if path is None:
        return _shipped()
    return _read(path.read_text())


@cache
def _shipped() -> Constants:
    return _read(resources.files("scaling.hardware").joinpath("constants.json").read_text())


def _read(text: str) -> Constants:
    body = json.loads(text)
    return Constants(body["law"], Effects(body["effects"]), Band.from_dict(body["band"]), body["memory"], body["about"])


def columns_of(works: Sequence[Workload]) -> dict[str, np.ndarray]:
    """Columns of many jobs."""
    rows = [features(work) for work in works]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def speeds(constants: Constants, works: Sequence[Workload], inferred: Sequence[Sequence[str]] | None = None) -> np.ndarray:
    """Tokens per second and chip of many jobs."""
    lacking = inferred or [()] * len(works)
    effect = np.array([constants.effects(work, each) for work, each in zip(works, lacking, strict=True)])
    return time_law.tokens_per_second(constants.law, columns_of(works)) * np.exp(effect)


def speed(constants: Constants, work: Workload, inferred: Sequence[str] = ()) -> tuple[float, dict[str, float]]:
    """Tokens per second and chip of one job, and the seconds of its step by purpose, with the effects shared out over all of them."""
    columns = features(work)
    slower = math.exp(-constants.effects(work, inferred))
    spent = {name: float(value) * slower for name, value in time_law.parts(constants.law, columns).items()}
    return float(time_law.tokens_per_second(constants.law, columns)) / slower, spent
