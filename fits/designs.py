"""c-optimal designs under a budget: which rows of a menu, each with a cost, most reduce the variance of a linear combination of parameters.

A row adds g g' to the information M; the variance is c' M^-1 c, and the criterion the mean of its logarithm over members: the same
problem linearised at several values of the parameters. The search builds designs greedily by gain over a power of cost, for several
powers, and improves each by exchanges of one row for another until none helps. It ends at a local optimum, which the tests compare with
all designs of small menus.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

COST_POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
SINGULAR = 1e-8  # least over greatest singular value below which rounding hides a direction
OPEN = 20.0  # standard error from which a combination counts as not determined
HELPS = 1e-6  # least fall of the mean log variance for which a row is exchanged
ROUNDS = 300


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """Members T of one linear problem; the first is the estimate. Rows are divided by the standard deviation of the noise.

    made: rows there are (T, n, p). rows: those of the menu (T, menu, p). slope: c (T, p). ridge: what is added to the diagonal of M in the
    search, so that open directions have a finite variance; standard errors are without it.
    """

    made: np.ndarray
    rows: np.ndarray
    slope: np.ndarray
    ridge: float

    def scaled(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """M of the rows there are with its ridge, the menu and the slope, in coordinates in which the menu's columns are of length one."""
        scale = np.linalg.norm(self.rows[0], axis=0)
        scale = np.where(scale > 0, scale, 1.0)
        made = self.made / scale
        begin = np.einsum("tni,tnj->tij", made, made) + self.ridge * np.diag(1 / scale**2)
        return begin, self.rows / scale, self.slope / scale

    def standard_error(self, chosen: Sequence[int]) -> float:
        """Of the combination at the estimate, with the rows `chosen` of the menu added; infinite where the rows do not determine it."""
        rows = np.concatenate([self.made[0], self.rows[0][list(chosen)]])
        if not len(rows):
            return np.inf
        scale = np.linalg.norm(rows, axis=0)
        scale = np.where(scale > 0, scale, 1.0)
        _, singular, directions = np.linalg.svd(rows / scale, full_matrices=False)
        slope = self.slope[0] / scale
        seen = directions[singular > SINGULAR * singular[0]]
        along = seen @ slope
        if np.linalg.norm(slope - along @ seen) > 1e-6 * np.linalg.norm(slope):
            return np.inf
        error = float(np.linalg.norm(along / singular[: len(seen)]))
        return error if error < OPEN else np.inf

    def in_order(self, chosen: Sequence[int], cost: np.ndarray) -> list[int]:
        """The rows `chosen`, each time the one that reduces the mean log variance most per cost."""
        begin, rows, slope = self.scaled()
        left, order = list(chosen), []
        while left:
            falls = _falls(begin + _information(rows, order), rows[:, left], slope)
            order.append(left.pop(int(np.argmax(falls / cost[left]))))
        return order


def _information(rows: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    picked = rows[:, list(chosen)]
    return np.einsum("tni,tnj->tij", picked, picked)


def _falls(information: np.ndarray, rows: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """By how much each row would lower the mean log variance (rows,): c'M^-1c falls by (c'M^-1g)^2 / (1 + g'M^-1g)."""
    covariance = np.linalg.inv(information)
    along = np.einsum("tij,tj->ti", covariance, slope)
    variance = np.einsum("ti,ti->t", along, slope)
    spread = np.einsum("tni,tij,tnj->tn", rows, covariance, rows, optimize=True)
    less = np.einsum("tni,ti->tn", rows, along) ** 2 / (1 + spread)
    return -np.log1p(-np.minimum(less / variance[:, None], 1 - 1e-12)).mean(axis=0)


class Search:
    """Designs of at most `most` rows from `allowed` rows of the menu, of `budget` in all, with a row at most `repeats` times.

    `kept` rows take at least `share` of the budget, as far as their costs allow.
    """

    def __init__(
        self, model: Linear, cost: np.ndarray, allowed: np.ndarray, budget: float, most: int, repeats: int, kept: np.ndarray, share: float
    ) -> None:
        self.begin, rows, self.slope = model.scaled()
        self.allowed, self.rows = allowed, rows[:, allowed]
        self.cost, self.kept = cost[allowed], kept[allowed]
        self.budget, self.most, self.reserved = budget * (1 + 1e-9), most, share * budget
        self.repeats = repeats

    def best(self, starts: Sequence[Sequence[int]] = ()) -> list[int]:
        """The best design found, as rows of the menu; `starts` are designs (of allowed rows) to improve besides the greedy ones."""
        designs = [self._exchanged(self._filled([], power)) for power in COST_POWERS]
        place = {int(row): position for position, row in enumerate(self.allowed)}
        for start in starts:
            if len(start) <= self.most:
                designs.append(self._exchanged(self._filled([place[int(row)] for row in start], 0.5)))
        return [int(self.allowed[i]) for i in min(designs, key=self.criterion)]

    def criterion(self, design: Sequence[int]) -> float:
        """Mean log variance of a design (positions among the allowed rows)."""
        along = np.linalg.solve(self.begin + _information(self.rows, design), self.slope[..., None])[..., 0]
        return float(np.log(np.einsum("ti,ti->t", along, self.slope)).mean())

    def _below_cap(self, design: Sequence[int]) -> np.ndarray:
        return np.bincount(np.asarray(design, int), minlength=len(self.cost)) < self.repeats

    def _filled(self, design: list[int], power: float) -> list[int]:
        """`design` with rows added, the best gain over cost^power first, the share that is kept before the rest."""
        design = list(design)
        while len(design) < self.most:
            spent = self.cost[design].sum()
            missing = self.reserved - self.cost[design][self.kept[design]].sum()
            affordable = (self.cost <= self.budget - spent) & self._below_cap(design)
            wanted = affordable & self.kept & (self.cost <= max(missing, 0.0))
            choice = np.flatnonzero(wanted if wanted.any() else affordable)
            if not len(choice):
                break
            falls = _falls(self.begin + _information(self.rows, design), self.rows[:, choice], self.slope)
            design.append(int(choice[np.argmax(falls / self.cost[choice] ** power)]))
        return design

    def _exchanged(self, design: list[int]) -> list[int]:
        """`design` after the best exchange of one row, again and again, and what then can still be added."""
        design, value = list(design), self.criterion(design)
        for _ in range(ROUNDS):
            found = min((self._exchange(design, position) for position in range(len(design))), default=None)
            if found is None or found[0] > value - HELPS:
                break
            value, position, row = found
            design = self._filled([*design[:position], *design[position + 1 :], row], 0.5)
            value = self.criterion(design)
        return design

    def _exchange(self, design: list[int], position: int) -> tuple[float, int, int]:
        """(criterion, position, row) of the best row to take the place of the one at `position`."""
        rest = [*design[:position], *design[position + 1 :]]
        kept = self.cost[design][self.kept[design]].sum()
        floor = min(self.reserved, kept) * (1 - 1e-9)
        choice = (self.cost <= self.budget - self.cost[rest].sum()) & self._below_cap(rest)
        choice &= self.cost[rest][self.kept[rest]].sum() + self.cost * self.kept >= floor
        choice[design[position]] = True
        rows = np.flatnonzero(choice)
        falls = _falls(self.begin + _information(self.rows, rest), self.rows[:, rows], self.slope)
        return self.criterion(rest) - float(falls.max()), position, int(rows[np.argmax(falls)])
