"""How a total is divided: against the average over all orders written out, with sets that are impossible."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from scaling.ledger.orders import in_sequence, paths, shares


def written_out(values: np.ndarray, possible: np.ndarray) -> np.ndarray | None:
    """Mean contribution of every step over the orders that pass through possible sets only."""
    steps = len(values).bit_length() - 1
    found = []
    for order in itertools.permutations(range(steps)):
        at, gains = 0, np.zeros(steps)
        for step in order:
            gains[step] = values[at | 1 << step] - values[at]
            at |= 1 << step
            if not possible[at]:
                break
        else:
            found.append(gains)
    return np.mean(found, axis=0) if found and possible[0] else None


@pytest.mark.parametrize("missing", [0, 1, 3, 9])
def test_contributions_are_the_mean_over_all_possible_orders_and_sum_to_the_total(missing):
    generator = np.random.Generator(np.random.Philox(key=missing))
    for _ in range(20):
        values = generator.normal(size=16)
        possible = np.ones(16, bool)
        possible[generator.choice(np.arange(1, 15), missing, replace=False)] = False
        matrix, expected = shares(possible), written_out(values, possible)
        assert (matrix is None) == (expected is None)
        if matrix is not None:
            assert matrix @ values == pytest.approx(expected, abs=1e-12)
            assert (matrix @ values).sum() == pytest.approx(values[-1] - values[0], abs=1e-12)
            assert not matrix[:, ~possible].any()


def test_every_order_is_counted_once():
    to, onward = paths(np.ones(1 << 7, bool))
    assert to[-1] == onward[0] == 5040


def test_the_sequence_multiplies_to_the_total_whatever_is_impossible():
    generator = np.random.Generator(np.random.Philox(key=1))
    for _ in range(50):
        possible = generator.random(32) < 0.6
        possible[[0, 31]] = True
        values, at, total = generator.normal(size=32), 0, 0.0
        for step, before in enumerate(in_sequence(possible)):
            at |= 1 << step
            assert (before is None) == (not possible[at])
            total += 0.0 if before is None else values[at] - values[before]
        assert total == pytest.approx(values[-1] - values[0], abs=1e-12)
