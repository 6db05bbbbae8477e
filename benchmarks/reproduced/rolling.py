"""Rolling extrapolation (`benchmarks/extrapolation.py`): every law at every cut of public tables."""

from __future__ import annotations

import extrapolation
import pandas as pd

from reproduced.entry import Drawn, Entry
from scaling.fit_plots import extrapolation_figure

DATASETS = (
    "chinchilla-epoch",
    "misfitting-final",
    "gadre-overtraining",
    "datablations-c4",
    "porian-isoflops",
    "olmo-ladder",
    "steplaw-dense",
)


def rolling_figure(draws: int) -> Drawn:
    """Median error against decades ahead, every law at every cut."""
    long = pd.concat([extrapolation.summary(name, extrapolation.forecasts(name))[2] for name in extrapolation.TABLES], ignore_index=True)
    return extrapolation_figure(long), long


FIGURES = (
    Entry(
        "rolling-extrapolation",
        "error against decades ahead: laws fitted below every cut of eleven public tables",
        rolling_figure,
        DATASETS,
        slow=True,
    ),
)
