"""Planted truth in real training: the penalties that the estimator finds in the runs of `benchmarks/planted.toml`, whose handicaps are exact."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks import planted

RUNS = Path(planted.__file__).parent / "results" / "planted.csv"


def test_no_run_of_a_follower_shares_a_seed_or_a_budget_with_the_leader():
    runs = pd.read_csv(RUNS)
    leader = runs[runs["arm"] == planted.LEADER]
    assert len(runs) == 180
    for arm in planted.PLANTED:
        own = runs[runs["arm"] == arm]
        assert all(set(own[name]).isdisjoint(leader[name]) for name in ("seed", "budget"))
    assert planted.SEEN == ["params", "tokens", "flops", "loss", "seed"]  # and nothing of the handicaps


@pytest.mark.slow
def test_planted_penalties_are_found():
    """Of nine 95% intervals at least eight hold the truth, none wider than a factor 1.25 on either side."""
    table = planted.intervals(pd.read_csv(RUNS))
    assert len(table) == 9
    assert table["holds"].sum() >= 8
    assert table["half_width"].max() <= planted.LIMIT
