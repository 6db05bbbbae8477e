"""Trends of compute, algorithms, money and data, read from data files: value, interval, unit, source, and what kind of number each is.

A "faster cost" figure is one of four things, which differ by an order of magnitude and are never interchangeable: the growth
of frontier algorithms, a laggard's catch-up, the fall of prices at a fixed score, the fall of the dollars of a fixed training
result. So a trend has a kind, and who takes one names the kind that is meant: `trend("algorithms-ho2024", "frontier_algorithms")`.

A trend is known from the date on which its source appeared; `known_on` leaves out what a forecaster of that day could not have read.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import math
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.special import expit, logit, ndtri

from scaling.errors import InputError
from scaling.toml_files import Strict, read_toml, validated

FASTER_COST = ("frontier_algorithms", "catch_up", "price_at_fixed_score", "training_dollars")
KINDS = {
    "frontier_algorithms": "effective compute gained a year by the best algorithms, hardware apart",
    "catch_up": "effective compute gained a year by who follows what others have already shown",
    "price_at_fixed_score": "fall of the price of use at a fixed score",
    "training_dollars": "fall of the dollars of a fixed training result: hardware times algorithms",
    "price_performance": "growth of the FLOP that a dollar buys",
    "training_compute": "growth of the largest or of the typical training run, in FLOP",
    "investment": "growth of the dollars spent on a training run or a system",
    "compute_stock": "growth of the installed computing power, or a part of it",
    "dataset_growth": "growth of the tokens that a training run reads",
    "token_stock": "tokens that exist",
    "lag": "time by which one group follows another",
    "count": "number of models",
    "scale_dependence": "decades of algorithmic gain for each decade of compute",
    "efficiency_gain": "compute multiplier of one change or of all up to a date",
    "compute_penalty": "compute that a laggard needs for the leader's result, over the leader's",
    "elasticity": "fall of demand, in per cent, when the price rises by one per cent",
    "share": "part of a whole",
    "flops_per_usd": "FLOP that a dollar buys at a date",
}
# How a number of the unit becomes a growth factor a year; None: it is no growth.
UNITS: dict[str, Any] = {
    "per year": lambda value: value,
    "months to double": lambda value: 2 ** (12 / value),
    "years to double": lambda value: 2 ** (1 / value),
    "months to halve": lambda value: 2 ** (12 / value),
    "months": None,
    "years": None,
    "tokens": None,
    "models": None,
    "ratio": None,
    "share": None,
    "FLOP per dollar": None,
    "decades per decade": None,
}
# verified-p: seen in the primary text, code or data; verified-s: in a secondary text; brief: stated by a founding article; derived: computed
# here from numbers of these kinds; observed: an outcome, not an estimate of a rate.
STATUSES = ("verified-p", "verified-s", "brief", "derived", "observed")


@dataclasses.dataclass(frozen=True)
class Trend:
    """One number with its interval at `level`, and where it comes from. `low`, `high` and `level` are None where the source gives none.

    `level_assumed`: the source gives a bare range, which is taken for an interval of that level. `known_from`: when the source appeared.
    """

    name: str
    value: float
    unit: str
    kind: str
    status: str
    source: str
    known_from: datetime.date
    low: float | None = None
    high: float | None = None
    level: float | None = None
    level_assumed: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        where = f"trend {self.name}"
        _among(where, "unit", self.unit, UNITS)
        _among(where, "kind", self.kind, KINDS)
        _among(where, "status", self.status, STATUSES)
        if not (math.isfinite(self.value) and self.value > 0):
            raise InputError(f"{where}: value must be positive and finite, got {self.value}")
        given = [each is not None for each in (self.low, self.high, self.level)]
        if any(given) and not all(given):
            raise InputError(f"{where}: low, high and level go together; give all three or none")
        if self.low is not None and self.high is not None and self.level is not None:
            if not 0 < self.low <= self.value <= self.high < math.inf:
                raise InputError(f"{where}: needs 0 < low <= value <= high, got {self.low}, {self.value}, {self.high}")
            if not 0 < self.level < 1:
                raise InputError(f"{where}: level must lie between 0 and 1, got {self.level}")
        if self.unit == "share" and (self.high or self.value) >= 1:
            raise InputError(f"{where}: a share lies below 1, got {self.high or self.value}")

    def quantile(self, probability: Any) -> np.ndarray:
        """Value at each probability of a lognormal in two halves: median `value`, and `low` and `high` at the ends of `level`.

        Each half has its own spread, so that a lopsided interval is met at both ends. A share is logit-normal instead, and a trend
        without an interval is the same at every probability. Quasi-random points go straight in.
        """
        probability = np.asarray(probability, float)
        if not bool(((probability > 0) & (probability < 1)).all()):
            raise InputError(f"trend {self.name}: probabilities lie strictly between 0 and 1")
        if self.low is None or self.high is None or self.level is None:
            return np.full(probability.shape, self.value)
        forward, back = (logit, expit) if self.unit == "share" else (np.log, np.exp)
        low, middle, high = (float(forward(each)) for each in (self.low, self.value, self.high))
        score, end = ndtri(probability), ndtri((1 + self.level) / 2)
        return back(middle + np.where(score < 0, middle - low, high - middle) * score / end)

    @property
    def growth(self) -> float:
        """The value as a growth factor a year; InputError where it is no growth."""
        return float(self._as_growth(self.value))

    def growth_quantile(self, probability: Any) -> np.ndarray:
        """Growth factor a year at each probability; increasing, also where the source gives a doubling time."""
        probability = np.asarray(probability, float)
        return self._as_growth(self.quantile(probability if self.unit == "per year" else 1 - probability))

    def _as_growth(self, value: Any) -> Any:
        convert = UNITS[self.unit]
        if convert is None:
            raise InputError(f"trend {self.name} is in {self.unit}: it is no growth")
        return convert(value)

    def of_kind(self, *kinds: str) -> Trend:
        """This trend, if it is of one of the kinds; InputError otherwise."""
        for kind in kinds:
            _among("trends", "kind", kind, KINDS)
        if self.kind not in kinds:
            raise InputError(f"trend {self.name} is of kind {self.kind} ({KINDS[self.kind]}), not {' or '.join(kinds)}")
        return self


class _Source(Strict):
    text: str
    known_from: datetime.date


class _Row(Strict):
    value: float
    unit: str
    kind: str
    status: str
    source: str
    low: float | None = None
    high: float | None = None
    level: float | None = None
    level_assumed: bool = False
    note: str = ""


class _File(Strict):
    format: Literal["isoloss-trends-1"]
    sources: dict[str, _Source]
    trends: dict[str, _Row]


def load_trends(path: str | Path | None = None) -> dict[str, Trend]:
    """Every trend by name: the built-in ones, or those of a file of one's own with the same keys. InputError names what is wrong."""
    return _built_in().copy() if path is None else _read(Path(path))


def trend(name: str, kind: str, trends: Mapping[str, Trend] | None = None) -> Trend:
    """One trend, which must be of the kind that the caller means."""
    known = _built_in() if trends is None else trends
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        raise InputError(f"no trend {name!r}; " + (f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"))
    return known[name].of_kind(kind)


def known_on(trends: Mapping[str, Trend], date: datetime.date) -> dict[str, Trend]:
    """The trends whose source had appeared by `date`."""
    return {name: each for name, each in trends.items() if each.known_from <= date}


@cache
def _built_in() -> dict[str, Trend]:
    with resources.as_file(resources.files("scaling.diffusion") / "trends.toml") as path:
        return _read(path)


def _read(path: Path) -> dict[str, Trend]:
    file = validated(_File, read_toml(path), str(path))
    found = {}
    for name, row in file.trends.items():
        if row.source not in file.sources:
            raise InputError(f"{path}: trends.{name}: no source {row.source!r} in [sources]")
        source, fields = file.sources[row.source], row.model_dump(exclude={"source"})
        try:
            found[name] = Trend(name=name, source=source.text, known_from=source.known_from, **fields)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    return found


def _among(where: str, what: str, value: str, known: Any) -> None:
    if value not in known:
        raise InputError(f"{where}: {what} {value!r} is none of {', '.join(known)}")
