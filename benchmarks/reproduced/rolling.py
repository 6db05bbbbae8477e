"""Rolling extrapolation (`benchmarks/extrapolation.py`): every law at every cut of public tables."""

from __future__ import annotations

import extrapolation
import pandas as pd

from reproduced.entry import Drawn, Entry
from scaling.fit_plots import extrapolation_figure

CHEAP, TABLES = ("chinchilla-epoch", "gadre c4"), tuple(extrapolation.TABLES)
DATASETS = ("chinchilla-epoch", "misfitting-final", "gadre-overtraining", "datablations-c4", "porian-isoflops", "olmo-ladder", "steplaw-dense")


def _drawn(names: tuple[str, ...]) -> Drawn:
    long = pd.concat([extrapolation.summary(name, extrapolation.forecasts(name))[2] for name in names], ignore_index=True)
    return extrapolation_figure(long), long


FIGURES = (
    Entry("rolling-extrapolation", "error against decades ahead, laws fitted below every cut of eleven public tables (an hour)", lambda draws: _drawn(TABLES), DATASETS, slow=True),
    Entry("rolling-chinchilla", "the same of two of them", lambda draws: _drawn(CHEAP), ("chinchilla-epoch", "gadre-overtraining"), slow=True),
)
