"""What a compute ratio is worth in months, under trends that answer different questions and are never one another.

months = 12 ln P / ln g. The kinds: `frontier algorithms` (how long until the best recipes make up P), `catch-up` (how fast those behind repeat what is known),
`price at a fixed score` (what a user pays), `training dollars` (the money for one run of a given loss: hardware and algorithms together), `hardware`,
`investment`, and `training compute` (how the largest runs grow), of which `effective compute` is the product with algorithms: the distance along the frontier.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from scaling.outlook import variance


@dataclasses.dataclass(frozen=True)
class Trend:
    """Growth a year, and the bounds of its `level` interval."""

    name: str
    kind: str
    growth: float
    low: float
    high: float
    level: float
    source: str

    def likely(self) -> np.ndarray:
        """Equally likely values of the growth."""
        return variance.likely(self.growth, self.low, self.high, level=self.level)


TRENDS = (
    Trend(
        "frontier algorithms",
        "frontier algorithms",
        3.0,
        1.8,
        6.3,
        0.95,
        "3x a year, Gundlach et al. 2025 (Price of Progress); bounds: doubling in 4.5 to 14.3 months, Ho et al. 2024, 2403.05812",
    ),
    Trend(
        "catch-up in algorithms",
        "catch-up",
        31.0,
        16.0,
        60.0,
        0.9,
        "16 to 60x a year, estimates for those who repeat what is known; their geometric mean; the level is ours",
    ),
    Trend(
        "price of a fixed score",
        "price at a fixed score",
        7.1,
        5.0,
        10.0,
        0.9,
        "5 to 10x a year typically (9 to 900x for single benchmarks, Epoch 2025), Gundlach et al. 2025; their geometric mean; the level is ours",
    ),
    Trend(
        "training dollars for a fixed loss",
        "training dollars",
        4.1,
        3.5,
        4.1 * 4.1 / 3.5,
        0.9,
        "3.5 to 4.1x a year: 1.37x hardware times 3x algorithms; bounds symmetric around it; the level is ours",
    ),
    Trend(
        "hardware price performance",
        "hardware",
        1.37,
        1.25,
        1.57,
        0.95,
        "Epoch, doubling in 2.2 years; bounds: 1.54 to 3.13 years for machine-learning GPUs, Hobbhahn & Besiroglu 2022",
    ),
    Trend("investment in one run", "investment", 2.4, 2.0, 2.9, 0.9, "training cost since 2016, Cottier et al. 2024"),
    Trend("training compute of the frontier", "training compute", 4.6, 3.78, 5.61, 0.9, "Epoch, closed models, 90% interval"),
    Trend(
        "effective compute of the frontier",
        "effective compute",
        13.8,
        7.6,
        25.0,
        0.9,
        "training compute 4.6x times algorithms 3x; bounds: the two intervals combined as independent",
    ),
)


def months(log_penalty: np.ndarray, growth: np.ndarray | float) -> np.ndarray:
    """Months in which `growth` a year makes up a penalty given as its logarithm; infinite for an infinite one."""
    return 12 * log_penalty / np.log(growth)
