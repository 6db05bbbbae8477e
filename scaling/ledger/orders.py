"""How a total is divided among steps: in the given order, and over all orders (Shapley), where some sets of steps may be impossible.

A set of steps is the bits of a whole number: bit i is step i. Where some sets are impossible (a model that does not fit in memory), the average is over
the orders that pass through possible sets only, as under constraints of precedence (Faigle and Kern 1992, Int. J. Game Theory 21, 249-266). Every order's
contributions sum to the total, so their average does; with all sets possible it is Shapley's value (1953).
"""

from __future__ import annotations

import numpy as np


def paths(possible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(orders from nothing to each set, orders from each set to all), through possible sets only."""
    count = len(possible)
    steps = count.bit_length() - 1
    to, onward = np.zeros(count), np.zeros(count)
    to[0], onward[-1] = possible[0], possible[-1]
    for at in range(1, count):
        if possible[at]:
            to[at] = sum(to[at & ~(1 << step)] for step in range(steps) if at >> step & 1)
    for at in range(count - 2, -1, -1):
        if possible[at]:
            onward[at] = sum(onward[at | 1 << step] for step in range(steps) if not at >> step & 1)
    return to, onward


def shares(possible: np.ndarray) -> np.ndarray | None:
    """The matrix (steps, sets) that turns the value of every set into each step's average contribution; None where no order is possible."""
    to, onward = paths(possible)
    if not onward[0]:
        return None
    steps = len(possible).bit_length() - 1
    matrix = np.zeros((steps, len(possible)))
    for at in range(len(possible)):
        for step in range(steps):
            if at >> step & 1:
                continue
            after = at | 1 << step
            weight = to[at] * onward[after] / onward[0]
            matrix[step, after] += weight
            matrix[step, at] -= weight
    return matrix


def in_sequence(possible: np.ndarray) -> list[int | None]:
    """For each step the set before it, in the given order: the last possible one; None where the set with it is impossible.

    A step into an impossible set has no factor of its own: the next possible one carries both.
    """
    steps = len(possible).bit_length() - 1
    before, last, now = [], 0, 0
    for step in range(steps):
        now |= 1 << step
        before.append(last if possible[now] else None)
        if possible[now]:
            last = now
    return before
