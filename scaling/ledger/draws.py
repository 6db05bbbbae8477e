"""Draws of what is uncertain in a ledger: multipliers, the hardware model's errors, what is assumed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from scaling.hardware.architecture import Architecture
from scaling.hardware.library import chip as find_chip
from scaling.ledger.effects import EVIDENCE, NORMAL_80, draw_range, middle
from scaling.ledger.scenario import ArchitectureStep
from scaling.ledger.sets import FIELD, Sets
from scaling.ledger.setups import usd_per_chip_hour


class Draws:
    """Draws of what is uncertain in a ledger. The same seed gives the same draws, whatever is asked of them.

    The hardware model's error of a set is its 80% band times a sum of standard normal numbers, one for the value of each field that the scenario's steps
    change, in equal shares: two sets share the error of what they have in common, and a set that differs in nothing has none.
    """

    def __init__(self, found: Sets, count: int, seed: int) -> None:
        self.sets, self.count, self.seed = found, count, seed
        self._streams: dict[str, np.ndarray] = {}

    def _stream(self, name: str) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, *name.encode()])))

    def _normal(self, name: str) -> np.ndarray:
        if name not in self._streams:
            self._streams[name] = self._stream(name).standard_normal(self.count)
        return self._streams[name]

    def log_hours(self, classes: tuple[str, ...] = EVIDENCE) -> np.ndarray:
        """(sets, draws) of ln hours, with only these kinds of evidence uncertain."""
        values = np.repeat(self.sets.log_hours[:, None], self.count, axis=1)
        for place, (step, each) in enumerate(zip(self.sets.scenario.steps, self.sets.effects, strict=True)):
            if each is None or each.evidence not in classes:
                continue
            deviation = each.draw_logs(self._stream(f"effect {place}"), self.count) - math.log(each.value)
            dense = isinstance(step, ArchitectureStep)
            for at in range(len(values)):
                if bool(at >> place & 1) != dense:
                    values[at] += deviation if dense else -deviation
        if "estimated" in classes:
            values -= self._errors()
        if "assumed" in classes:
            values += self._network()
        return values

    def log_usd(self, classes: tuple[str, ...] = EVIDENCE) -> np.ndarray:
        """(sets, draws) of ln dollars."""
        values = self.log_hours(classes) + (self.sets.log_usd - self.sets.log_hours)[:, None]
        if "assumed" in classes:
            dollars = self.sets.scenario.baseline.dollars
            for name, given in self.sets.scenario.prices.items():
                chip = find_chip(name)
                prices = np.exp(draw_range(self._stream(f"price {chip.name}"), given, self.count))
                low, high = (usd_per_chip_hour(chip, dollars, price) for price in (1.0, 2.0))  # linear in the price
                rates = np.log(low + (high - low) * (prices - 1.0))
                for at, setup in enumerate(self.sets.setups):
                    if setup.chip.name == chip.name:
                        values[at] += rates - math.log(self.sets.rates[at])
        return values

    def _errors(self) -> np.ndarray:
        """The hardware model's error of the log speed of every set."""
        fields = [FIELD[step.change] for step in self.sets.scenario.steps]
        errors = np.zeros((len(self.sets.setups), self.count))
        for at, (setup, outcome) in enumerate(zip(self.sets.setups, self.sets.outcomes, strict=True)):
            levels = [self._normal(f"{field} {_named(setup.level(field))}") for field in fields]
            total = np.sum(levels, axis=0) / math.sqrt(len(levels))
            errors[at] = np.where(total < 0, -outcome.low, outcome.high) / NORMAL_80 * total
        return errors

    def _network(self) -> np.ndarray:
        """By how much ln hours differ as an assumed range of the network's rate is drawn: linear in its logarithm between ends and middle."""
        slow = self.sets.slow_network
        if slow is None:
            return np.zeros((1, self.count))
        ends = self.sets.scenario.baseline.network_gbps or (1.0,)
        drawn = draw_range(self._stream("network"), ends, self.count)
        knots = np.log([ends[0], middle(ends), ends[-1]])
        found = np.zeros((len(slow), self.count))
        for at, (low, high) in enumerate(slow):
            if self.sets.outcomes[at].estimate and low.estimate and high.estimate:
                logs = np.log([low.hours, self.sets.outcomes[at].hours, high.hours])
                found[at] = np.interp(drawn, knots, logs) - logs[1]
        return found


def _named(level: Any) -> str:
    return level.name if isinstance(level, Architecture) else str(level)
