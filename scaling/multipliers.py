"""Compute multipliers measured on pairs of runs: how much compute a variant saves (above 1) or costs (below 1) at equal loss.

A pair is a variant's run and the baseline's run of the same width, budget and seed. The baseline's law turns their difference in
loss into compute: s is the factor by which the baseline's compute must grow, at its own tokens per parameter, to move by that
difference. Only the law's local slope enters, so that its misfit at a size cancels in the pair.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from fits.curve import Curve
from fits.laws.base import Law
from scaling.errors import InputError

PAIRED_BY = ["width", "budget", "seed"]
RESAMPLES = 2000
_LOG_RANGE = 7.0  # beyond 1/1000 or 1000 a multiplier is called 0 or infinite: the variant is beyond what the law can reach


@dataclasses.dataclass(frozen=True)
class Multiplier:
    """Geometric mean over pairs with its 95% interval (bootstrap over pairs and over the curve's draws), and the pairs."""

    value: float
    low: float
    high: float
    pairs: pd.DataFrame  # width, budget, seed, flops, loss, baseline_loss, multiplier


def measure_multiplier(curve: Curve, baseline: pd.DataFrame, variant: pd.DataFrame, seed: int = 0) -> Multiplier:
    """The compute multiplier of `variant` over `baseline` (run tables with width, budget, seed), by the baseline's fitted `curve`."""
    pairs = variant.merge(baseline, on=PAIRED_BY, suffixes=("", "_baseline"))
    pairs = pairs[(pairs["status"] == "done") & (pairs["status_baseline"] == "done")].reset_index(drop=True)
    if pairs.empty:
        raise InputError("multiplier: no run of the variant has a baseline run of the same width, budget and seed")
    logs = _log_multipliers(curve.law, curve.vector[None], pairs)[0]
    generator = np.random.Generator(np.random.Philox(key=seed))
    draws = curve.draws if curve.draws is not None else curve.vector[None]
    by_draw = _log_multipliers(curve.law, draws[generator.integers(len(draws), size=RESAMPLES)], pairs)
    chosen = generator.integers(len(pairs), size=by_draw.shape)
    means = np.take_along_axis(by_draw, chosen, axis=1).mean(axis=1)
    low, high = np.exp(np.quantile(means, [0.025, 0.975], method="inverted_cdf"))  # which takes infinite means as they are
    table = pairs[[*PAIRED_BY, "flops", "loss"]].assign(baseline_loss=pairs["loss_baseline"], multiplier=np.exp(logs))
    return Multiplier(float(np.exp(logs.mean())), float(low), float(high), table)


def _log_multipliers(law: Law, constants: np.ndarray, pairs: pd.DataFrame) -> np.ndarray:
    """ln of the multiplier of each pair under each row of constants, (draws, pairs), by bisection in ln s.

    s solves L(N sqrt s, D sqrt s) = L(N, D) * measured ratio of the losses, N and D being the baseline's; what the variant's
    run cost more or less than the baseline's is taken off.
    """
    constants = constants[:, None, :]
    params, tokens = (pairs[f"{name}_baseline"].to_numpy(float) for name in ("params", "tokens"))
    target = law.evaluate(constants, {"params": params, "tokens": tokens}) * (pairs["loss"] / pairs["loss_baseline"]).to_numpy(float)
    low, high = np.full(target.shape, -_LOG_RANGE), np.full(target.shape, _LOG_RANGE)
    for _ in range(50):
        middle = (low + high) / 2
        root = np.exp(middle / 2)
        enough = law.evaluate(constants, {"params": params * root, "tokens": tokens * root}) <= target
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    middle = np.where(high >= _LOG_RANGE, np.inf, np.where(low <= -_LOG_RANGE, -np.inf, (low + high) / 2))
    cost = np.log((pairs["flops"] / pairs["flops_baseline"]).to_numpy(float))
    return middle - cost
