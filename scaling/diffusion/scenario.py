"""Scenarios: a TOML file that names the curve, the trends, who takes part, the controls and the capabilities that are asked about.

Dates are years (2023.5) or days (2023-10-17). Growth is a factor a year, or the name of a trend of `scaling.diffusion.trends`. Budgets are the
dollars of an actor's largest training run at the scenario's start.
"""

from __future__ import annotations

import datetime
import difflib
import sys
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from scaling.errors import InputError
from scaling.toml_files import PositiveFloat, PositiveInt, Strict, read_toml, validated

Share = Annotated[float, pydantic.Field(ge=0, le=1)]
NonNegative = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
AtLeastOne = Annotated[float, pydantic.Field(ge=1, allow_inf_nan=False)]
Between = Annotated[float, pydantic.Field(gt=0, lt=1)]
EARLIEST, LATEST = 1950.0, 2200.0
LONGEST_STEPS = 2000


def _year(value: Any) -> Any:
    """A date as a year with its fraction: years, days of the calendar, and texts such as 2023-10-17."""
    if isinstance(value, str):
        try:
            value = datetime.date.fromisoformat(value)
        except ValueError:
            raise ValueError("write a year such as 2023.5, or a day such as 2023-10-17") from None
    if isinstance(value, datetime.date):
        first = datetime.date(value.year, 1, 1)
        return value.year + (datetime.date(value.year, value.month, value.day) - first).days / (365 + (value.year % 4 == 0))
    if isinstance(value, bool) or not isinstance(value, int | float) or not EARLIEST <= value <= LATEST:
        raise ValueError(f"write a year between {EARLIEST:g} and {LATEST:g}, or a day such as 2023-10-17")
    return float(value)


Year = Annotated[float, pydantic.BeforeValidator(_year)]


def _growth(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise ValueError("write a positive growth factor a year, or the name of a trend")
    return float(value)


Growth = Annotated[float | str, pydantic.BeforeValidator(_growth)]


class TrendTable(Strict):
    """What all actors share. `flops_per_usd` at the start; `unique_tokens` there are at the start (none: data never run out)."""

    price_performance: Growth = 1.37
    algorithms: Growth = 3.0
    flops_per_usd: PositiveFloat = 4e17
    unique_tokens: PositiveFloat | None = None
    data_growth: PositiveFloat = 1.0
    data_share: Share = 0.5  # of algorithmic gains that act on data, the rest on parameters; matters only where data run out
    inference_exchange: AtLeastOne = 1.5  # mu: inference compute iota stands for training compute iota^(1/mu); GATE has 1 to 2


class Shares(Strict):
    """Parts of an actor's compute: serving users, experiments, final runs (the rest unless given); `largest_run` is a part of the final runs."""

    deployment: Share = 0.6
    experiments: Share = 0.2
    final_runs: Share | None = None
    largest_run: Annotated[float, pydantic.Field(gt=0, le=1)] = 1.0

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Shares:
        if self.final_runs is not None and abs(self.deployment + self.experiments + self.final_runs - 1) > 1e-6:
            raise ValueError(
                f"deployment, experiments and final_runs must sum to 1, not {self.deployment + self.experiments + self.final_runs:.6g}"
            )
        if self.final <= 0:
            raise ValueError(f"deployment {self.deployment:g} and experiments {self.experiments:g} leave nothing for final runs")
        return self

    @property
    def final(self) -> float:
        """The part of final runs."""
        return 1 - self.deployment - self.experiments if self.final_runs is None else self.final_runs


class Stock(Strict):
    """A stock of chips in H100 equivalents: what is owned at the start, bought and made at home a year, and worn out."""

    h100e: NonNegative = 0.0
    purchases_per_year: NonNegative = 0.0  # chips, which count by their quality
    purchases_growth: PositiveFloat = 1.0
    domestic_per_year: NonNegative = 0.0
    domestic_growth: PositiveFloat = 1.0
    domestic_chip: str | None = None  # none: counted in H100 equivalents
    decay_per_year: NonNegative = 0.2
    utilisation: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.4
    run_days: PositiveFloat = 90.0


class Evasion(Strict):
    """Ways around a control, from the day it binds: illicit purchase, rent abroad, software. Premiums are parts of the price.

    With a stock, the flows are in H100 equivalents a year; an actor without one is not limited in number and pays the premium.
    """

    stockpile: NonNegative = 0.0  # H100 equivalents put by before the control, on top of the stock
    smuggled_per_year: NonNegative = 0.0
    smuggled_growth: PositiveFloat = 1.0
    smuggling_premium: NonNegative | None = None
    cloud_h100e: NonNegative = 0.0  # rented at any time, not owned
    cloud_growth: PositiveFloat = 1.0
    cloud_premium: NonNegative | None = None
    software: AtLeastOne = 1.0  # effective compute gained by work that the control provokes


class Synthetic(Strict):
    """Tokens that an actor's own model writes: `share` of its compute, of which `worth` counts as fresh data. No reliable value of worth is known."""

    share: Share
    worth: Share


class Party(Strict):
    """What actors and members of populations have in common. Gaps above 1 are handicaps."""

    name: Annotated[str, pydantic.Field(min_length=1)]
    budget_growth: Growth = 1.0
    structure: PositiveFloat = 1.0
    data: PositiveFloat = 1.0
    chips: str | None = None
    chip_price_usd: PositiveFloat | None = None
    delay_years: NonNegative | None = None
    dissemination: NonNegative | None = None
    algorithm_gap: PositiveFloat = 1.0
    own_algorithms: PositiveFloat = 1.0
    unique_tokens: PositiveFloat | None = None
    shares: Shares = Shares()
    stock: Stock | None = None
    evasion: Evasion = Evasion()
    synthetic: Synthetic | None = None
    distils_from: str | None = None
    distillation: Share = 0.0
    distillation_delay: NonNegative = 0.5
    inference_factor: AtLeastOne = 1.0
    inference_from: Year | None = None
    weights_after: NonNegative | None = None

    @pydantic.model_validator(mode="after")
    def _one_way_of_learning(self) -> Party:
        if self.delay_years is not None and self.dissemination is not None:
            raise ValueError("delay_years and dissemination are two models of the same thing; give one")
        if self.own_algorithms != 1 and self.dissemination is None:
            raise ValueError("own_algorithms, progress without the leader's, goes with dissemination")
        if (self.distils_from is None) != (self.distillation == 0):
            raise ValueError("distils_from and distillation (the part of the gap that it closes, above 0) go together")
        return self


class Actor(Party):
    """One actor. `budgets_usd` lists budgets a year apart from the start, and grows by budget_growth after the last."""

    budget_usd: PositiveFloat | None = None
    budgets_usd: list[PositiveFloat] | None = pydantic.Field(default=None, min_length=1)

    @pydantic.model_validator(mode="after")
    def _pays(self) -> Actor:
        if self.budget_usd is not None and self.budgets_usd is not None:
            raise ValueError("budget_usd and budgets_usd are the same thing; give one")
        if self.budget_usd is None and self.budgets_usd is None and self.stock is None:
            raise ValueError("give budget_usd, or the chips of a stock")
        return self


class Population(Party):
    """Many actors that differ in budget: quantiles of a distribution, or the largest runs of the allocation model (Kumar & Manning 2025).

    pareto: least_usd and exponent. lognormal: median_usd and sigma (of ln). list: budgets_usd. allocation: total_usd is spent on all runs of
    a year, the largest takes largest_share, and models below x of it take x^kappa of all.
    """

    distribution: Literal["pareto", "lognormal", "list", "allocation"]
    count: PositiveInt | None = None
    least_usd: PositiveFloat | None = None
    exponent: PositiveFloat | None = None
    median_usd: PositiveFloat | None = None
    sigma: PositiveFloat | None = None
    budgets_usd: list[PositiveFloat] | None = pydantic.Field(default=None, min_length=1)
    total_usd: PositiveFloat | None = None
    largest_share: Between = 0.158
    kappa: PositiveFloat = 1.0

    @pydantic.model_validator(mode="after")
    def _complete(self) -> Population:
        needs = {
            "pareto": ("count", "least_usd", "exponent"),
            "lognormal": ("count", "median_usd", "sigma"),
            "list": ("budgets_usd",),
            "allocation": ("count", "total_usd"),
        }[self.distribution]
        given = {
            name
            for name in ("count", "least_usd", "exponent", "median_usd", "sigma", "budgets_usd", "total_usd")
            if getattr(self, name) is not None
        }
        if given != set(needs):
            raise ValueError(f"distribution {self.distribution} takes {', '.join(needs)}, got {', '.join(sorted(given)) or 'none of them'}")
        if (self.count or 0) > 10_000:
            raise ValueError(f"count {self.count} is above 10000; stand for more by fewer, each worth several")
        return self


class Control(Strict):
    """A restriction on buying chips: an export rule by its name or day, a limit on performance, a cap on numbers, or an embargo.

    A chip that is caught is replaced by `chips`, or by the best data-centre chip that is on sale and not caught. `licensed_share` of purchases goes
    through all the same. It binds `lag_years` after it comes into force (stocks make it lag further by themselves), and ends at `until`.
    """

    applies_to: Annotated[list[str], pydantic.Field(min_length=1)]
    rule: str | None = None
    date: Year | None = None
    until: Year | None = None
    lag_years: NonNegative = 0.0
    tpp_below: PositiveFloat | None = None
    chips_per_year: NonNegative | None = None
    stock_h100e: NonNegative | None = None
    embargo: bool = False
    chips: str | None = None
    licensed_share: Share = 0.0
    destination: str = "China"

    @pydantic.model_validator(mode="after")
    def _one_kind(self) -> Control:
        kinds = [name for name in ("rule", "tpp_below", "chips_per_year", "stock_h100e") if getattr(self, name) is not None]
        kinds += ["embargo"] if self.embargo else []
        if len(kinds) != 1:
            raise ValueError(f"give one of rule, tpp_below, chips_per_year, stock_h100e and embargo, got {', '.join(kinds) or 'none'}")
        if self.rule is None and self.date is None:
            raise ValueError(f"{kinds[0]} needs the date from which it holds")
        return self


class Capability(Strict):
    """A level that is asked about: effective FLOP by the algorithms of the start, or a loss of the curve. `width`: decades over which it emerges (0: at once)."""

    name: Annotated[str, pydantic.Field(min_length=1)]
    effective_flops: PositiveFloat | None = None
    loss: PositiveFloat | None = None
    width: NonNegative = 0.0

    @pydantic.model_validator(mode="after")
    def _one_level(self) -> Capability:
        if (self.effective_flops is None) == (self.loss is None):
            raise ValueError("give effective_flops or loss")
        return self


class Limits(Strict):
    """Physical bounds of one run: FLOP, a site's power with the FLOP of a joule (at the start, growing), chips at work."""

    run_flops: PositiveFloat | None = None
    power_gw: PositiveFloat | None = None
    power_growth: PositiveFloat = 1.0
    flops_per_joule: PositiveFloat = 5.6e11  # an H100's 989 TFLOP/s at 40% use, over 700 W
    efficiency_growth: PositiveFloat = 1.26  # FLOP a joule double in about 3 years
    chips_h100e: PositiveFloat | None = None
    run_days: PositiveFloat = 90.0
    utilisation: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.4


class Serving(Strict):
    """Users: what one asks for, and how demand answers to price. `users` at the start, of the leader; none: capacity alone is reported."""

    tokens_per_user_day: PositiveFloat = 10_000.0
    utilisation: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.3
    users: PositiveFloat | None = None
    elasticity: NonNegative = 1.11


class Score(Strict):
    """A bounded benchmark: base + span / (1 + exp(slope (loss - midpoint))); midpoint is the first capability's loss unless given, the rest assumed."""

    base: Share = 0.25
    span: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.75
    slope: PositiveFloat = 40.0
    midpoint: PositiveFloat | None = None


class Openness(Strict):
    """How freely papers circulate: dissemination is multiplied by it and delays are divided by it. Weights: see `weights_after` of an actor."""

    papers: PositiveFloat = 1.0


class Uncertain(Strict):
    """An interval at `level` of a lognormal (of the yearly rate where the parameter is a growth), or `sd`: of the logarithm, around the stated value."""

    low: PositiveFloat | None = None
    high: PositiveFloat | None = None
    level: Between = 0.9
    sd: PositiveFloat | None = None

    @pydantic.model_validator(mode="after")
    def _interval(self) -> Uncertain:
        if (self.sd is None) == (self.low is None or self.high is None) or (self.low is None) != (self.high is None):
            raise ValueError("give low and high, or sd")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low {self.low:g} must lie below high {self.high:g}")
        return self


class Draws(Strict):
    """Monte Carlo. `parameters` by path, such as "trends.algorithms" or "actors.laggard.structure"; `law` draws the curve's constants too."""

    draws: Annotated[int, pydantic.Field(ge=0, le=1_000_000)] = 512
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**63)] = 0
    level: Between = 0.8
    law: bool = False
    parameters: dict[str, Uncertain] | None = None  # none: the trends, by their published intervals


class Scenario(Strict):
    """Everything that an answer follows from."""

    name: Annotated[str, pydantic.Field(min_length=1)]
    about: str = ""
    start: Year
    end: Year
    step: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.25
    curve: str = "besiroglu2024"
    leader: str | None = None  # whom lags are measured against; the first actor
    trends: TrendTable = TrendTable()
    actors: list[Actor] = pydantic.Field(min_length=1)
    populations: list[Population] = pydantic.Field(default=[])
    controls: list[Control] = pydantic.Field(default=[])
    capabilities: list[Capability] = pydantic.Field(min_length=1)
    limits: Limits = Limits()
    serving: Serving = Serving()
    score: Score = Score()
    openness: Openness = Openness()
    uncertainty: Draws = Draws()

    @pydantic.model_validator(mode="after")
    def _whole(self) -> Scenario:
        if not self.start < self.end:
            raise ValueError(f"dates out of order: end {self.end:g} must lie after start {self.start:g}")
        if (self.end - self.start) / self.step > LONGEST_STEPS:
            raise ValueError(f"step {self.step:g}: more than {LONGEST_STEPS} steps from start to end; take longer ones")
        names = [each.name for each in (*self.actors, *self.populations)]
        for what, given in (("actors and populations", names), ("capabilities", [each.name for each in self.capabilities])):
            if twice := [name for name in given if given.count(name) > 1]:
                raise ValueError(f"{what}: the name {twice[0]!r} is given twice")
        for place, control in enumerate(self.controls):
            for name in control.applies_to:
                if name not in names:
                    raise ValueError(f"controls[{place}].applies_to: {unknown('actor', name, names)}")
        actors = [each.name for each in self.actors]
        teachers = [(f"{each.name}.distils_from", each.distils_from) for each in (*self.actors, *self.populations)]
        for where, name in (("leader", self.leader), *teachers):
            if name is not None and name not in actors:
                raise ValueError(f"{where}: {unknown('actor', name, actors)}")
        return self

    @property
    def reference(self) -> str:
        """The actor whom lags are measured against."""
        return self.leader or self.actors[0].name


def unknown(what: str, name: str, known: list[str]) -> str:
    """A message that names the nearest."""
    near = difflib.get_close_matches(name, known, 1)
    return f"no {what} {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}")


def built_in() -> dict[str, str]:
    """The built-in scenarios: name and what each is about."""
    found = {}
    for entry in sorted(_folder().iterdir(), key=lambda path: path.name):
        if entry.name.endswith(".toml"):
            with resources.as_file(entry) as path:
                found[entry.name.removesuffix(".toml")] = str(read_toml(path).get("about", ""))
    return found


def read_scenario(source: str | Path | dict[str, Any] | Scenario) -> Scenario:
    """A scenario from a built-in name, a TOML file, or a dict of the same shape. InputError names file and key."""
    if isinstance(source, Scenario):
        return source
    if isinstance(source, dict):
        return validated(Scenario, source, "scenario")
    entry = _folder() / f"{source}.toml"
    if "/" not in str(source) and entry.is_file():
        with resources.as_file(entry) as path:
            return validated(Scenario, read_toml(path), f"scenario {source}")
    if not str(source).endswith(".toml") and not Path(source).exists():
        raise InputError(f"diffuse: {unknown('scenario', str(source), list(built_in()))} A file of one's own ends in .toml")
    return validated(Scenario, read_toml(source), str(source))


def _folder() -> Any:
    return resources.files("scaling.diffusion") / "scenarios"
