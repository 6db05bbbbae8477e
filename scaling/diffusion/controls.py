"""What controls do to what each actor can buy, on the grid of dates: which chip, how many, from when.

A control catches a chip by an export rule (`scaling.hardware.export_rules`), by a limit on its total processing performance, or
altogether; or it caps numbers. An actor whose chip is caught buys the control's substitute, or the best data-centre chip that is on sale by then
and not caught. Controls act on purchases: what is owned stays, which is why they bind late.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from scaling.diffusion.chip_quality import REFERENCE, Quality, quality
from scaling.diffusion.scenario import Control, Party, Scenario, _year
from scaling.errors import InputError
from scaling.hardware.chips import Chip
from scaling.hardware.export_rules import export_control, in_force, rule
from scaling.hardware.library import chip as find_chip
from scaling.hardware.library import chips as all_chips

CAUGHT = ("controlled", "licence", "case_by_case")
NO_CAP = 1e30  # H100 equivalents
YEARS_ON_SALE = 4.0  # of a chip; assumed


@dataclasses.dataclass(frozen=True)
class Event:
    """A control that comes to bind on an actor: which chip it buys before and after (none: no chip is left to buy)."""

    control: str
    actor: str
    date: float
    until: float | None
    before: str
    after: str | None


@dataclasses.dataclass(frozen=True)
class Paths:
    """Arrays (dates, parties). `free`: without controls, `held`: with them. Prices are ln of FLOP a dollar over an H100's; training and serving are
    throughputs of the chip bought over an H100's; `allowed` is the part of purchases that goes through; caps in H100 equivalents (a year, and owned)."""

    price_free: np.ndarray
    price_held: np.ndarray
    training_free: np.ndarray
    training_held: np.ndarray
    serving_free: np.ndarray
    serving_held: np.ndarray
    allowed: np.ndarray
    flow_cap: np.ndarray
    stock_cap: np.ndarray
    bound: np.ndarray
    events: list[Event]


@dataclasses.dataclass(frozen=True)
class Standing:
    """A control with its dates resolved."""

    label: str
    control: Control
    begins: float
    rule: str | None

    def active(self, date: float) -> bool:
        return self.begins <= date and (self.control.until is None or date < self.control.until)

    def catches(self, chip: Chip) -> bool:
        return _caught(self.rule, self.control.tpp_below, self.control.embargo, self.control.destination, chip.name)


def standing(scenario: Scenario) -> list[Standing]:
    """The scenario's controls, each with the date from which it holds. InputError for unknown rules and dates out of order."""
    found = []
    for place, control in enumerate(scenario.controls):
        where = f"controls[{place}]"
        name, begins = None, control.date
        if control.rule is not None:
            try:
                name, day = _resolved(control.rule)
            except InputError as error:
                raise InputError(f"{where}.rule: {error}") from None
            begins = _year(day) if begins is None else begins
        assert begins is not None  # the scenario's own check
        if control.until is not None and control.until <= begins:
            raise InputError(f"{where}: dates out of order: until {control.until:.2f} must lie after the control's date {begins:.2f}")
        if control.chips is not None:
            quality(control.chips)
        label = control.rule or next(
            text
            for text, given in (
                (f"TPP below {control.tpp_below or 0:g}", control.tpp_below is not None),
                (f"{control.chips_per_year or 0:g} chips a year", control.chips_per_year is not None),
                (f"{control.stock_h100e or 0:g} H100e owned", control.stock_h100e is not None),
                ("embargo", True),
            )
            if given
        )
        found.append(Standing(label, control, begins + control.lag_years, name))
    return sorted(found, key=lambda each: each.begins)


def paths(scenario: Scenario, parties: Sequence[Party], dates: np.ndarray) -> Paths:
    """What every party can buy at every date."""
    held = standing(scenario)
    shape = (len(dates), len(parties))
    ones = {name: np.zeros(shape) for name in ("price_free", "price_held", "bound")}
    ones |= {name: np.ones(shape) for name in ("training_free", "training_held", "serving_free", "serving_held", "allowed")}
    ones |= {name: np.full(shape, NO_CAP) for name in ("flow_cap", "stock_cap")}
    events: list[Event] = []
    for place, party in enumerate(parties):
        own = _own(party)
        mine = [each for each in held if party.name in each.control.applies_to]
        for each in mine:
            _check_stock(each, party)
        for name, value in (
            ("price_free", math.log(own.per_dollar or 1.0)),
            ("training_free", own.training),
            ("serving_free", own.serving),
        ):
            ones[name][:, place] = value
            ones[name.replace("free", "held")][:, place] = value
        for row, date in enumerate(dates):
            active = [each for each in mine if each.active(date)]
            if active:
                bought, share = _bought(own, active, date)
                _hold(ones, row, place, own, bought, share, active, party.stock is None)
        events += _events(mine, party, own)
    return Paths(**ones, events=events)


def _own(party: Party) -> Quality:
    found = quality(party.chips or REFERENCE, party.chip_price_usd)
    if found.per_dollar is None:
        raise InputError(f"actors.{party.name}: the price of a {found.chip} is not known; give chip_price_usd")
    return found


def _check_stock(each: Standing, party: Party) -> None:
    counts = each.control.embargo or each.control.chips_per_year is not None or each.control.stock_h100e is not None
    if counts and party.stock is None:
        raise InputError(
            f"controls: {each.label!r} counts chips, so {party.name!r} needs a [stock]; a budget alone says nothing of numbers"
        )


def _bought(own: Quality, active: list[Standing], date: float) -> tuple[Quality | None, float]:
    """What is bought, and the part of purchases of the own chip that goes through by licence."""
    chip = find_chip(own.chip)
    catching = [each for each in active if each.catches(chip)]
    if not catching:
        return own, 1.0
    share = min(each.control.licensed_share for each in catching)
    named = [each.control.chips for each in catching if each.control.chips is not None]
    for name in reversed(named):
        if not any(each.catches(find_chip(name)) for each in active):
            return quality(name), share
    keys = tuple((each.rule, each.control.tpp_below, each.control.embargo, each.control.destination) for each in active)
    return _best(keys, max(each.begins for each in active), math.floor(date * 12) / 12), share


def _hold(
    ones: dict[str, np.ndarray],
    row: int,
    place: int,
    own: Quality,
    bought: Quality | None,
    share: float,
    active: list[Standing],
    alone: bool,
) -> None:
    ones["bound"][row, place] = 1.0
    caps = [each.control.chips_per_year for each in active if each.control.chips_per_year is not None]
    stocks = [each.control.stock_h100e for each in active if each.control.stock_h100e is not None]
    ones["flow_cap"][row, place] = min(caps, default=NO_CAP)
    ones["stock_cap"][row, place] = min(stocks, default=NO_CAP)
    # What a stock's chips are worth changes as new ones come in; a budget alone buys the new chip at once.
    assert own.per_dollar is not None
    if bought is None:
        ones["allowed"][row, place] = share
        if alone:
            ones["price_held"][row, place] = math.log(own.per_dollar * max(share, 1e-12))
    elif bought.chip != own.chip:
        if alone:
            ones["price_held"][row, place] = math.log(share * own.per_dollar + (1 - share) * (bought.per_dollar or own.per_dollar))
        ones["training_held"][row, place] = share * own.training + (1 - share) * bought.training
        ones["serving_held"][row, place] = share * own.serving + (1 - share) * bought.serving


def _events(mine: list[Standing], party: Party, own: Quality) -> list[Event]:
    events, before = [], own.chip
    for place, each in enumerate(mine):
        active = [other for other in mine[: place + 1] if other.active(each.begins)]
        bought = _bought(own, active, each.begins)[0]
        events.append(Event(each.label, party.name, each.begins, each.control.until, before, bought.chip if bought else None))
        before = bought.chip if bought else before
    return events


@lru_cache
def _resolved(text: str) -> tuple[str, datetime.date]:
    """The rule that a text means: by name or day of announcement, else the one in force on that day."""
    try:
        found = rule(text)
    except InputError:
        try:
            day = datetime.date.fromisoformat(text)
        except ValueError:
            raise
        if (standing_rule := in_force(day)) is None:
            raise InputError(f"no rule on accelerators was in force on {text}") from None
        return standing_rule.name, day
    return found.name, found.in_force


@lru_cache
def _caught(rule_name: str | None, tpp_below: float | None, embargo: bool, destination: str, chip: str) -> bool:
    if embargo:
        return True
    found = find_chip(chip)
    if rule_name is not None and export_control(found, rule_name, destination=destination).status in CAUGHT:
        return True
    return tpp_below is not None and found.us_item and (found.tpp is None or found.tpp >= tpp_below)


@lru_cache
def _best(keys: tuple[tuple[str | None, float | None, bool, str], ...], begun: float, date: float) -> Quality | None:
    """The data-centre chip of highest training throughput that is sold by then, has a known price, and is not caught.

    Chips that were old when the last control began are no longer made; those that were not are taken to be made on, as the table ends.
    """
    best: Quality | None = None
    for chip in all_chips():
        sold = chip.us_item and chip.datacentre and not chip.cloud_only and chip.price_usd is not None and chip.peak("bf16") is not None
        if not sold or chip.release_date is None or chip.mem_bw_gbps is None:
            continue
        if not begun - YEARS_ON_SALE <= _year(chip.release_date) <= date + 1 / 12:
            continue
        if any(_caught(*key, chip.name) for key in keys):
            continue
        found = quality(chip)
        if best is None or found.training > best.training:
            best = found
    return best
