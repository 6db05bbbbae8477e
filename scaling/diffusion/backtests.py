"""Back-tests: what the formulas would have said from what was known on a day, against what was seen later.

A forecast of a day may use only parameters whose source had appeared by then: the methods below see trends through `Knowledge`, which
refuses any later one. A hindcast uses later sources on purpose, to ask whether the parts add up; it is marked, and counted apart. Bands
hold 80% and come from the published intervals of the rates alone: no tuning, and no error of the base or of the observation.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pydantic
from scipy.stats import binom

from scaling.diffusion import windows
from scaling.diffusion.access import AllocationForecast, sobol
from scaling.diffusion.trends import Trend, load_trends
from scaling.errors import InputError
from scaling.toml_files import PositiveFloat, Strict, read_toml, validated

LEVEL = 0.8
DRAWS = 4096
YEAR = 365.25


@dataclasses.dataclass(frozen=True)
class Knowledge:
    """What could be known on a day: a trend or claim from after it is refused with InputError."""

    trends: Mapping[str, Trend]
    day: datetime.date

    def trend(self, name: str, *kinds: str) -> Trend:
        """The trend, if it is of one of the kinds and its source had appeared."""
        if name not in self.trends:
            raise InputError(f"no trend {name!r}")
        self.allow(f"trend {name}", self.trends[name].known_from)
        return self.trends[name].of_kind(*kinds)

    def allow(self, what: str, known_from: datetime.date) -> None:
        """InputError where `known_from` lies after the day."""
        if known_from > self.day:
            raise InputError(f"{what} is known from {known_from} only, after the forecast of {self.day}")


class Claim(Strict):
    """A number that the forecast starts from, with its own date and the day on which it could be read."""

    value: PositiveFloat
    date: datetime.date
    known_from: datetime.date
    source: str


class Observation(Strict):
    """What was seen. `bound`: where the source says only at least or at most so much."""

    value: PositiveFloat
    date: datetime.date
    source: str
    bound: Literal["exact", "at least", "at most"] = "exact"


class Cost(Strict):
    """Dollars of a fixed training result fall by the growth of price performance times that of algorithms (the access effect)."""

    base: Claim
    price_performance: str
    algorithms: str | None = None
    algorithms_to_hardware: str | None = None

    @pydantic.model_validator(mode="after")
    def _one(self) -> Cost:
        if (self.algorithms is None) == (self.algorithms_to_hardware is None):
            raise ValueError("give either algorithms or algorithms_to_hardware")
        return self

    def draws(self, known: Knowledge, until: datetime.date) -> np.ndarray:
        known.allow("the base", self.base.known_from)
        points = sobol(DRAWS, 2)
        hardware = np.log(known.trend(self.price_performance, "price_performance").growth_quantile(points[:, 0]))
        if self.algorithms is not None:
            software = np.log(known.trend(self.algorithms, "frontier_algorithms").growth_quantile(points[:, 1]))
        else:
            software = hardware * known.trend(str(self.algorithms_to_hardware), "algorithms_to_hardware").quantile(points[:, 1])
        return self.base.value * np.exp(-years_between(self.base.date, until) * (hardware + software))


class Lag(Strict):
    """Months behind of a follower that grows like the leader: 12 ln(R P) / ln g."""

    compute_ratio: str
    penalties: list[str]
    training_compute: str
    algorithms: str

    def draws(self, known: Knowledge, until: datetime.date) -> np.ndarray:
        points = sobol(DRAWS, 3 + len(self.penalties))
        ratio = known.trend(self.compute_ratio, "compute_ratio").quantile(points[:, 0])
        growth = known.trend(self.training_compute, "training_compute").growth_quantile(points[:, 1])
        growth = growth * known.trend(self.algorithms, "frontier_algorithms").growth_quantile(points[:, 2])
        penalty = np.ones(DRAWS)
        for column, name in enumerate(self.penalties, start=3):
            penalty = penalty * known.trend(name, "compute_penalty").quantile(points[:, column])
        return 12 * windows.lag(compute_ratio=ratio, penalty=penalty, growth=growth)


class Carried(Strict):
    """What was measured stays as it was."""

    trend: str

    def draws(self, known: Knowledge, until: datetime.date) -> np.ndarray:
        found = known.trend(self.trend, "lag")
        return found.quantile(sobol(DRAWS, 1)[:, 0]) * (12 if found.unit == "years" else 1)


class Count(Strict):
    """Models above a threshold by the allocation model: those of the base, and new ones from the turn of the year on."""

    threshold_flops: PositiveFloat
    known_from: datetime.date
    base: Claim | None = None

    def draws(self, known: Knowledge, until: datetime.date) -> np.ndarray:
        known.allow("the allocation model", self.known_from)
        if self.base is not None:
            known.allow("the base", self.base.known_from)
        new = AllocationForecast().draws([until.year], self.threshold_flops, DRAWS)[:, 0]
        part = years_between(datetime.date(until.year - 1, 12, 31), until)
        return (self.base.value if self.base else 0.0) + part * new


class Backtest(Strict):
    """One forecast, made on a day by one of the four methods, and its observation. `miss_means`: what it says if it fails."""

    name: str
    group: str
    quantity: str
    unit: str
    forecast_on: datetime.date
    observed: Observation
    miss_means: str
    hindcast: bool = False
    cost: Cost | None = None
    lag: Lag | None = None
    carried: Carried | None = None
    count: Count | None = None

    @pydantic.model_validator(mode="after")
    def _checked(self) -> Backtest:
        if sum(each is not None for each in (self.cost, self.lag, self.carried, self.count)) != 1:
            raise ValueError(f"{self.name}: give one of cost, lag, carried, count")
        if not self.hindcast and self.observed.date <= self.forecast_on:
            raise ValueError(f"{self.name}: observed on {self.observed.date}, not after the forecast of {self.forecast_on}")
        if self.hindcast and self.observed.date > self.forecast_on:
            raise ValueError(f"{self.name}: a hindcast looks back, but was observed on {self.observed.date}, after {self.forecast_on}")
        return self

    @property
    def method(self) -> Cost | Lag | Carried | Count:
        """The one method given."""
        return next(each for each in (self.cost, self.lag, self.carried, self.count) if each is not None)

    def band(self, trends: Mapping[str, Trend]) -> tuple[float, float, float]:
        """Low, median and high of the forecast at `LEVEL`; InputError where it would use what was not known on its day."""
        draws = self.method.draws(Knowledge(trends, self.forecast_on), self.observed.date)
        low, median, high = np.quantile(draws, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2])
        return float(low), float(median), float(high)


class _File(Strict):
    format: Literal["isoloss-backtests-1"]
    backtests: list[Backtest]


def load_backtests(path: str | Path | None = None) -> list[Backtest]:
    """The built-in back-tests, or those of a file with the same keys."""
    if path is not None:
        return validated(_File, read_toml(path), str(path)).backtests
    with resources.as_file(resources.files("scaling.diffusion") / "backtests.toml") as built_in:
        return validated(_File, read_toml(built_in), str(built_in)).backtests


def run_backtests(backtests: list[Backtest] | None = None, trends: Mapping[str, Trend] | None = None) -> pd.DataFrame:
    """A row each: band, observation, verdict (hit, miss; not refuted where the observation is a bound), and what a miss means."""
    trends, rows = load_trends() if trends is None else trends, []
    for test in load_backtests() if backtests is None else backtests:
        low, median, high = test.band(trends)
        row = test.model_dump(include={"name", "group", "quantity", "unit", "forecast_on", "hindcast"})
        row |= {"observed_on": test.observed.date, "low": low, "median": median, "high": high, "observed": test.observed.value}
        row |= {"bound": test.observed.bound, "verdict": _verdict(test.observed, low, high), "miss_means": test.miss_means}
        rows.append(row | {"source": test.observed.source})
    return pd.DataFrame(rows)


def coverage(table: pd.DataFrame) -> pd.DataFrame:
    """Share of scored observations inside their bands, forecasts and hindcasts apart, and how likely so few would be at 80%.

    That chance takes the rows for independent. They are not quite: several share a base or a trend, and fail together.
    """
    rows = []
    for kind, part in (("forecasts", table[~table["hindcast"]]), ("hindcasts", table[table["hindcast"]])):
        scored = part[part["bound"] == "exact"]
        hits = int((scored["verdict"] == "hit").sum())
        share = hits / len(scored) if len(scored) else math.nan
        chance = float(binom.cdf(hits, len(scored), LEVEL)) if len(scored) else math.nan
        rows.append({"kind": kind, "scored": len(scored), "hits": hits, "share": share, "nominal": LEVEL, "chance_of_so_few": chance})
    return pd.DataFrame(rows)


def lag_conflict(observed_months: float = 7.0, growth: float = 4.6 * 3.0) -> pd.DataFrame:
    """A persistent penalty against an observed lag: months behind at each national compute ratio and penalty, and the penalty that the lag implies.

    Three readings remain where the implied penalty is below the claimed one: the penalty does not persist, a single run's compute ratio
    is below the national one, or catch-up undoes it. The numbers do not tell them apart, and none is fitted here.
    """
    rows = []
    for ratio in (5.0, 10.0):
        implied = float(windows.implied_penalty(lag_years=observed_months / 12, compute_ratio=ratio, growth=growth))
        months = {
            f"lag_months_P{penalty}": 12 * float(windows.lag(compute_ratio=ratio, penalty=penalty, growth=growth)) for penalty in (1, 2, 4)
        }
        rows.append({"compute_ratio": ratio, **months, "observed_months": observed_months, "implied_penalty": implied})
    return pd.DataFrame(rows)


def published_counts() -> pd.DataFrame:
    """Models above 1e25 and 1e26 FLOP to the end of 2028: Kumar & Manning's published 90% intervals beside the closed form's.

    The closed form's yearly percentiles are added up, as their code does; 24 models above 1e25 FLOP to the end of 2024, none above 1e26.
    """
    trends, rows = load_trends(), []
    for threshold, base, name in ((1e25, 24.0, "models-above-1e25"), (1e26, 0.0, "models-above-1e26")):
        low, median, high = base + np.quantile(AllocationForecast().draws(range(2025, 2029), threshold), [0.05, 0.5, 0.95], axis=0).sum(
            axis=1
        )
        published = trends[name]
        row = {"threshold_flops": threshold, "published": published.value, "published_low": published.low, "published_high": published.high}
        rows.append(row | {"closed_form": median, "low": low, "high": high})
    return pd.DataFrame(rows)


def years_between(start: datetime.date, end: datetime.date) -> float:
    """Years from one day to another, of 365.25 days."""
    return (end - start).days / YEAR


def _verdict(observed: Observation, low: float, high: float) -> str:
    if observed.bound == "exact":
        return "hit" if low <= observed.value <= high else "miss"
    refuted = observed.value > high if observed.bound == "at least" else observed.value < low
    return "miss" if refuted else "not refuted"
