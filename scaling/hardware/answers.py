"""What a rule and the chips on the market have to do with each other: the chips it was drawn at, and the chips that answered it."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Mapping

from scaling.hardware.chips import Chip
from scaling.hardware.export_rules import Bound, Line, Rule, Verdict, export_control, figure, rule
from scaling.hardware.library import chips

DRAWN_WITHIN = 1.10  # a bound counts as drawn at a chip whose figure lies within a tenth of it, on the side that the rule reaches
JUST_UNDER = 0.6  # the A800's 400 GB/s are two thirds of the 600 that they avoid
NOTICE = datetime.timedelta(days=90)  # makers knew of the rules before they were announced: the A800 is dated 57 days earlier


@dataclasses.dataclass(frozen=True)
class Near:
    """A chip close to a line of a rule: by figure, the chip's value, the bound, and their ratio."""

    chip: str
    released: datetime.date | None
    figures: Mapping[str, tuple[float, float, float]]
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Around:
    """`drawn_at`: chips from before the rule whose figures the bounds follow. `answers`: chips made to stay just under it."""

    rule: str
    drawn_at: tuple[Near, ...]
    answers: tuple[Near, ...]


def built_around(name: str | Rule, among: Iterable[Chip] | None = None) -> Around:
    """The chips that a rule was built around, and those that were built around the rule.

    Drawn at: named in the rule, or released before it and, on one of its lines, within a tenth of every bound on the side that the rule
    reaches. Answers: released after it (or at most 90 days before) and before it ended, not controlled by it, and on one of its lines short
    in a single figure, which is at least 0.6 of the bound (the line where it is nearest is shown); or publicly stated to be made for it.
    """
    found = name if isinstance(name, Rule) else rule(name)
    pool = list(chips() if among is None else among)
    drawn = [near for chip in pool if (near := _drawn_at(found, chip)) is not None]
    answers = [near for chip in pool if (near := _answers(found, chip)) is not None]
    return Around(found.name, tuple(drawn), tuple(answers))


def _drawn_at(rule: Rule, chip: Chip) -> Near | None:
    if chip.release_date is not None and chip.release_date > rule.announced:
        return None
    if chip.name in rule.named:
        return Near(chip.name, chip.release_date, _best(rule, chip), "named in it")
    verdict = export_control(chip, rule.name)
    if chip.release_date is None or verdict.rule != rule.name or verdict.status in ("not_controlled", "not_applicable", "unknown"):
        return None
    for line in rule.lines:
        ratios = _ratios(line, chip)
        if line.catches(chip) and ratios and all(1 / DRAWN_WITHIN <= ratio <= DRAWN_WITHIN for *_, ratio in ratios.values()):
            return Near(chip.name, chip.release_date, ratios)
    return None


def _answers(rule: Rule, chip: Chip) -> Near | None:
    verdict = export_control(chip, rule.name)
    if rule.kind != "list" or not _free(verdict, rule):
        return None
    if verdict.basis == "stated":
        return Near(chip.name, chip.release_date, {}, verdict.reason)
    if chip.release_date is None or chip.release_date < rule.announced - NOTICE or (rule.ended and chip.release_date >= rule.ended):
        return None
    short = {}
    for line in rule.lines:
        if len(failing := line.failing(chip)) == 1:
            *_, ratio = _ratios(line, chip)[next(iter(failing))]
            if JUST_UNDER <= ratio < 1:
                short[ratio] = line
    return Near(chip.name, chip.release_date, _ratios(short[max(short)], chip)) if short else None


def _free(verdict: Verdict, rule: Rule) -> bool:
    return verdict.rule == rule.name and verdict.status == "not_controlled"


def _best(rule: Rule, chip: Chip) -> dict[str, tuple[float, float, float]]:
    return next((ratios for line in rule.lines if line.catches(chip) and (ratios := _ratios(line, chip))), {})


def _ratios(line: Line, chip: Chip) -> dict[str, tuple[float, float, float]]:
    """By figure that is known: value, bound, value / bound."""
    found = {}
    for name, bound in line.bounds.items():
        value, edge = figure(chip, name), _edge(bound)
        if value is not None and edge is not None:
            found[name] = (value, edge, value / edge)
    return found


def _edge(bound: Bound) -> float | None:
    return bound.below if bound.at_least is None else bound.at_least
