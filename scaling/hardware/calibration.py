"""Fits the time law to a table of reported runs by the project's own solver, cross-validates it by group, and writes the constants."""

from __future__ import annotations

import collections
import csv
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import InputError
from scaling.hardware import bands, effects, time_law
from scaling.hardware.constants import Constants, columns_of
from scaling.hardware.library import chip as find_chip
from scaling.hardware.rows import Described, describe, number
from scaling.hardware.solver import Solver
from scaling.hardware.workload import Workload

FOLDS = 5
ROUNDS = 3  # of fitting the law and then the effects
GROUP_POWER = 0.7  # a row of a group of n counts n^-0.7 in the fit; in every reported figure a group counts once


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Usable rows: what each describes, its speed, and its group."""

    ids: list[str]
    described: list[Described]
    speed: np.ndarray
    groups: np.ndarray
    excluded: dict[str, str]  # id -> reason

    @property
    def jobs(self) -> list[tuple[Workload, tuple[str, ...]]]:
        """Workloads with what was inferred in each."""
        return [(each.workload, each.inferred) for each in self.described]

    @property
    def works(self) -> list[Workload]:
        """The workloads."""
        return [each.workload for each in self.described]

    @property
    def group_weights(self) -> np.ndarray:
        """Weights by which every group counts once."""
        count = collections.Counter(self.groups)
        return np.array([1 / count[group] for group in self.groups])

    def part(self, chosen: np.ndarray) -> Table:
        """Some of the rows."""
        index = np.flatnonzero(chosen)
        return Table([self.ids[i] for i in index], [self.described[i] for i in index], self.speed[index], self.groups[index], self.excluded)


def read_table(path: Path, scales: Mapping[str, float] | None = None) -> Table:
    """The rows of a table of runs that can be fitted to, and why the others cannot; `scales` are of the memory model. Raises InputError."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the table of runs, training-runs.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    ids, described, speeds, groups, excluded = [], [], [], [], {}
    for place, row in enumerate(rows):
        name = row.get("id") or str(place)
        try:
            found = describe(row, find_chip, scales)
        except InputError as error:
            excluded[name] = str(error)
            continue
        reason = _unusable(row, found)
        if reason:
            excluded[name] = reason
            continue
        ids.append(name)
        described.append(found)
        speeds.append(number(row, "tok_per_s_per_chip"))
        groups.append(row.get("group") or name)
    if len(ids) < 50:
        raise InputError(f"{path}: {len(ids)} usable rows are too few to fit to")
    return Table(ids, described, np.array(speeds, float), np.array(groups), excluded)


def _unusable(row: Mapping[str, Any], found: Described) -> str:
    if not number(row, "tok_per_s_per_chip"):
        return "reports no tokens per second"
    if not found.full_shape:
        return "the model's shape is not complete"
    if "lora" in str(row.get("model")).lower():
        return "trains adapters, not the model"
    return ""


class Fitter:
    """Fits `table` and parts of it with one compiled program."""

    def __init__(self, table: Table) -> None:
        columns = list(columns_of(table.works[:1]))
        self.solver = Solver(time_law.tokens_per_second, time_law.PRIORS, columns, noise=effects.NOISE, robust=effects.ROBUST)

    def fit(self, table: Table, start: Mapping[str, float] | None = None, rounds: int = ROUNDS) -> tuple[dict[str, float], effects.Effects]:
        """The law's constants and the effects, fitted in turn until they settle."""
        columns = columns_of(table.works)
        weights = table.group_weights**GROUP_POWER
        matrix, names, spread = effects.design(table.jobs)
        offset, constants = np.zeros(len(table.ids)), dict(start or {name: prior for name, (prior, _) in time_law.PRIORS.items()})
        found = np.zeros(len(names))
        for _ in range(rounds):
            constants = self.solver.fit(columns, table.speed, weights, constants, offset)
            residual = np.log(table.speed) - np.log(time_law.tokens_per_second(constants, columns))
            found = effects.solve(matrix, spread, residual, weights)
            offset = matrix @ found
        return constants, effects.Effects(dict(zip(names, map(float, found), strict=True)))


@dataclasses.dataclass(frozen=True, eq=False)
class CrossValidated:
    """Out-of-fold estimates of every row."""

    table: Table
    estimate: np.ndarray
    fold: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """log(actual / estimate)."""
        return np.log(self.table.speed / self.estimate)


def folds(groups: np.ndarray, seed: int = 0, count: int = FOLDS) -> np.ndarray:
    """A fold for every row; no group is split."""
    names = sorted({*groups})
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(names))
    place = {names[at]: position % count for position, at in enumerate(order)}
    return np.array([place[group] for group in groups])


def cross_validate(table: Table, fitter: Fitter, seed: int = 0, progress: Callable[[int, int], None] | None = None) -> CrossValidated:
    """Estimates of every row by a fit that saw none of its group, with the band that the other folds' errors give."""
    fold = folds(table.groups, seed)
    estimate, start, traits = np.zeros(len(table.ids)), None, np.zeros((len(table.ids), len(bands.TRAITS)))
    for place in range(FOLDS):
        inside, outside = table.part(fold != place), table.part(fold == place)
        constants, found = fitter.fit(inside, start)
        start = start or constants
        chips, stacks = well_known(inside)
        law = time_law.tokens_per_second(constants, columns_of(outside.works))
        estimate[fold == place] = law * np.exp([found(work, inferred) for work, inferred in outside.jobs])
        traits[fold == place] = [bands.traits(work, inferred, chips, stacks) for work, inferred in outside.jobs]
        if progress:
            progress(place + 1, FOLDS)
    errors, weights = np.log(table.speed / estimate), table.group_weights
    low, high = np.zeros(len(errors)), np.zeros(len(errors))
    for place in range(FOLDS):
        others, own = fold != place, fold == place
        slope, least, most = bands.ends(traits[others], errors[others], weights[others])
        scale = bands.scales(traits[own], slope)
        low[own], high[own] = estimate[own] * np.exp(least * scale), estimate[own] * np.exp(most * scale)
    return CrossValidated(table, estimate, fold, low, high)


def well_known(table: Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Chips and stacks of at least two groups of a table."""
    seen: dict[str, set[str]] = collections.defaultdict(set)
    for work, group in zip(table.works, table.groups, strict=True):
        seen["chip " + work.device.name].add(group)
        seen["stack " + work.software.stack].add(group)
    known = sorted(name for name, groups in seen.items() if len(groups) >= 2 and name != "stack ")
    return tuple(name[5:] for name in known if name.startswith("chip ")), tuple(name[6:] for name in known if name.startswith("stack "))


def calibrate(
    table: Table, fitter: Fitter, results: Sequence[CrossValidated], memory_scales: Mapping[str, float], about: Mapping[str, Any]
) -> Constants:
    """The constants of a fit to all rows, with the band that cross-validated errors of one or more splits give."""
    law, found = fitter.fit(table)
    chips, stacks = well_known(table)
    traits = np.array([bands.traits(work, inferred, chips, stacks) for work, inferred in table.jobs])
    errors = np.concatenate([each.errors for each in results])
    weights, low, high = bands.ends(np.tile(traits, (len(results), 1)), errors, np.tile(table.group_weights, len(results)))
    band = bands.Band(dict(zip(bands.TRAITS, map(float, weights), strict=True)), round(low, 4), round(high, 4), chips, stacks)
    return Constants(law, found, band, dict(memory_scales), dict(about))
