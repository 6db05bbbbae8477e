"""What would have to be true for software to overcome the chip: the gain that would do, against the ledger's, in time and in dollars."""

from __future__ import annotations

import dataclasses

import numpy as np

from scaling.ledger.draws import Draws
from scaling.ledger.sets import Sets

LEVEL = 0.8


@dataclasses.dataclass(frozen=True)
class Band:
    """A central value with the ends of its 80% band over the draws."""

    value: float
    low: float
    high: float


def band(central: float, draws: np.ndarray) -> Band:
    """exp of a central logarithm and of the 10% and 90% quantiles of its draws."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Band(float(np.exp(central)), float(np.exp(low)), float(np.exp(high)))


@dataclasses.dataclass(frozen=True)
class Needed:
    """Of time with the ledger's numbers of chips, or of the run's dollars; all at equal loss.

    gain_needed: by how much the software must cut it on the new chip, which is what the chip alone makes it grow by. gain: what the ledger's software does cut.
    chance: share of the draws in which the gain suffices. multiplier_needed, mfu_needed: of the mixture of experts over dense, and of the last
    set-up, that would just do with all else as in the ledger (an utilisation above 1 cannot be had). both_sides: the new chip over the old one, all
    software on both: above 1 the old chip still leads. alone: whether the chip alone can run the baseline; if not, its share of all orders stands for it.
    """

    gain_needed: Band
    gain: Band
    chance: float
    multiplier_needed: float | None
    multiplier: float | None
    mfu_needed: float
    mfu: float
    both_sides: Band | None
    alone: bool


def needed(found: Sets, draws: Draws, matrix: np.ndarray, dollars: bool) -> Needed | None:
    """The answer for time or for dollars; None for a scenario that changes no chip."""
    places = [place for place, step in enumerate(found.scenario.steps) if step.change == "chip"]
    if not places:
        return None
    chip, last = 1 << places[0], len(found.setups) - 1
    central = found.log_usd if dollars else found.log_hours
    drawn = draws.log_usd() if dollars else draws.log_hours()
    alone = bool(found.possible[chip])

    def chips_share(values: np.ndarray) -> np.ndarray:
        return values[chip] - values[0] if alone else matrix[places[0]] @ values

    def ratio(values: np.ndarray) -> np.ndarray:
        return values[last] - values[0]

    total = float(ratio(central))
    multiplier = next(
        (each.value for step, each in zip(found.scenario.steps, found.effects, strict=True) if each and step.change == "architecture"), None
    )
    mfu = found.outcomes[last].speed.mfu
    without = last & ~chip
    both = None
    if found.possible[without]:
        both = band(float(central[last] - central[without]), drawn[last] - drawn[without])
    return Needed(
        gain_needed=band(float(chips_share(central)), chips_share(drawn)),
        gain=band(float(chips_share(central)) - total, chips_share(drawn) - ratio(drawn)),
        chance=float(np.mean(ratio(drawn) <= 0)),
        multiplier_needed=None if multiplier is None else multiplier * float(np.exp(total)),
        multiplier=multiplier,
        mfu_needed=mfu * float(np.exp(total)),
        mfu=mfu,
        both_sides=both,
        alone=alone,
    )
