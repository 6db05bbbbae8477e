"""Tables of runs whose law is known."""

from __future__ import annotations

import numpy as np
import pandas as pd

TRUTH = {"E": 1.8, "A": 450.0, "B": 2000.0, "alpha": 0.35, "beta": 0.37}


def planted(rows: int = 36, noise: float = 0.0, seed: int = 0, truth: dict[str, float] = TRUTH) -> pd.DataFrame:
    """A square grid of params and tokens with the loss of `truth`, times log-normal noise."""
    side = round(rows**0.5)
    params, tokens = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e10, side), np.geomspace(1e9, 1e12, side)))
    loss = truth["E"] + truth["A"] * params ** -truth["alpha"] + truth["B"] * tokens ** -truth["beta"]
    loss = loss * np.exp(np.random.default_rng(seed).normal(0, noise, loss.size))
    return pd.DataFrame({"params": params, "tokens": tokens, "loss": loss})
