"""Compute multipliers measured on pairs of runs: how much compute a variant saves (above 1) or costs (below 1) at equal loss.

A pair is a variant's run and the baseline's run of the same width, budget and seed. The baseline's law turns their difference in
loss into compute: s is the factor by which the baseline's compute must grow, at its own tokens per parameter, to move by that
difference. Only the law's local slope enters, so that its misfit at a size cancels in the pair.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy.stats import linregress, norm
from scipy.stats import t as student

import fits
from fits.curve import Curve
from fits.laws.base import Law
from scaling.errors import InputError
from scaling.measured import UNKNOWN, Band, Measurement

PAIRED_BY = ["width", "budget", "seed"]
OTHERWISE = ["params", "tokens", "seed"]  # where a table has no widths and budgets
RESAMPLES = 2000
_LOG_RANGE = 7.0  # beyond 1/1000 or 1000 a multiplier is called 0 or infinite: the variant is beyond what the law can reach


def measure_pairs(
    baseline: pd.DataFrame, variant: pd.DataFrame, *, curve: Curve | None = None, level: float = 0.95, seed: int = 0
) -> Measurement:
    """The compute multiplier of `variant` over `baseline`: geometric mean over pairs, by the baseline's `curve` (fitted to its runs if not given).

    The interval is a bootstrap over pairs and over the curve's draws, its distances widened by Student's t for the few pairs.
    """
    pairs, by, notes = _paired(baseline, variant)
    if curve is None:
        curve = fits.fit("chinchilla", baseline, bootstrap=RESAMPLES // 2, seed=seed)
    logs = _log_multipliers(curve.law, curve.vector[None], pairs)[0]
    generator = np.random.Generator(np.random.Philox(key=seed))
    draws = curve.draws if curve.draws is not None else curve.vector[None]
    by_draw = _log_multipliers(curve.law, draws[generator.integers(len(draws), size=RESAMPLES)], pairs)
    chosen = generator.integers(len(pairs), size=by_draw.shape)
    means = np.take_along_axis(by_draw, chosen, axis=1).mean(axis=1)
    table = pairs[[*by, "flops", "loss"]].assign(
        baseline_flops=pairs["flops_baseline"], baseline_loss=pairs["loss_baseline"], multiplier=np.exp(logs)
    )
    if beyond := int((~np.isfinite(logs)).sum()):
        notes.append(
            f"{beyond} of {len(pairs)} pairs differ by more than a factor {math.exp(_LOG_RANGE):.0f} of compute, and so does the mean: leave them out by --where"
        )
    slope, p = _scale(table, level)
    return Measurement(
        method="pairs",
        model=f"pairs of equal {', '.join(by)}, by the baseline's {curve.law.name}",
        multiplier=_widened(float(logs.mean()), means, len(pairs), level),
        structure=UNKNOWN,
        data=UNKNOWN,
        scale=slope,
        scale_p=p,
        level=level,
        loss=float(table["baseline_loss"].median()),
        overlap=None,
        levels=_by_budget(table, level),
        tests=pd.DataFrame(),
        pairs=table,
        runs=(len(baseline), len(variant)),
        notes=notes + ["one pair: the interval does not hold the noise between runs"] * (len(pairs) == 1),
    )


def pairs_by(baseline: pd.DataFrame, variant: pd.DataFrame) -> list[str]:
    """The columns by which runs of both tables can be paired; none where they lack them."""

    def known(name: str) -> bool:
        return all(name in table and table[name].notna().all() for table in (baseline, variant))

    return next((by for by in (PAIRED_BY, OTHERWISE) if all(map(known, by))), [])


def count_pairs(baseline: pd.DataFrame, variant: pd.DataFrame) -> int:
    """How many pairs there are: runs of the variant with a run of the baseline to be compared with."""
    by = pairs_by(baseline, variant)
    return len(variant[by].drop_duplicates().merge(baseline[by].drop_duplicates(), on=by)) if by else 0


def _paired(baseline: pd.DataFrame, variant: pd.DataFrame) -> tuple[pd.DataFrame, list[str], list[str]]:
    """One pair for each width, budget and seed that both sides have, what they are paired by, and what a reader should know.

    Where a side has several runs of one width, budget and seed, as a sweep of learning rates leaves, they are not so many pairs: those of an equal
    learning rate are taken if there are any, and of what is left the best of either side, so that tuned stands against tuned.
    """
    by = pairs_by(baseline, variant)
    if not by:
        raise InputError(f"multiplier: pairs need the columns {', '.join(PAIRED_BY)} or {', '.join(OTHERWISE)} in both tables")
    pairs = variant.merge(baseline, on=by, suffixes=("", "_baseline"))
    for name in {"params", "tokens"} & {*by}:
        pairs[f"{name}_baseline"] = pairs[name]
    if "status" in pairs and "status_baseline" in pairs:
        pairs = pairs[(pairs["status"] == "done") & (pairs["status_baseline"] == "done")].reset_index(drop=True)
    if pairs.empty:
        raise InputError(f"multiplier: no run of the variant has a baseline run of the same {', '.join(by)}")
    again = int(pairs.duplicated(by).sum())
    if not again:
        return pairs, by, []
    rates = [pairs[name].to_numpy(float) for name in ("learning_rate", "learning_rate_baseline") if name in pairs]
    other = ~np.isclose(*rates, rtol=1e-6, atol=0) if len(rates) == 2 else np.zeros(len(pairs), bool)
    best = pairs.assign(_other=other).sort_values(["_other", "loss_baseline", "loss"], kind="stable").drop_duplicates(by)
    note = f"several runs share a {', '.join(by)}: of {len(pairs)} possible pairs {len(best)} are kept, those of an equal learning rate first, then the lowest losses"
    return best.drop(columns="_other").sort_index().reset_index(drop=True), by, [note]


def _widened(mean: float, means: np.ndarray, count: int, level: float) -> Band:
    """exp of the mean and of the resampled means' percentiles, which may be infinite."""
    ends = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    if count > 1 and math.isfinite(mean):
        wider = student.ppf((1 + level) / 2, count - 1) / norm.ppf((1 + level) / 2) * math.sqrt(count / (count - 1))
        ends = mean + wider * (ends - mean)
    low, high = np.exp(ends)
    return Band(float(np.exp(mean)), float(low), float(high))


def _logs(multipliers: pd.Series) -> np.ndarray:
    """Of multipliers that may be 0 or infinite."""
    with np.errstate(divide="ignore"):
        return np.log(multipliers.to_numpy(float))


def _cells(table: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds of a cell: log multiplier, log10 of the baseline's compute."""
    logs = table.assign(log=_logs(table["multiplier"]), decade=np.log10(table["baseline_flops"]))
    return logs.groupby([name for name in (*PAIRED_BY, *OTHERWISE) if name in table and name != "seed"])[["log", "decade"]].mean()


def _scale(table: pd.DataFrame, level: float) -> tuple[Band, float]:
    """Slope of ln multiplier per decade over cells, with its t interval and p value."""
    cells = _cells(table)
    if len(cells) < 3 or not np.isfinite(cells["log"]).all() or np.ptp(cells["decade"]) == 0:
        return Band(math.nan, -math.inf, math.inf), math.nan
    found = linregress(cells["decade"], cells["log"])
    half = float(student.ppf((1 + level) / 2, len(cells) - 2) * found.stderr)
    return Band(float(found.slope), float(found.slope) - half, float(found.slope) + half), float(found.pvalue)


def _by_budget(table: pd.DataFrame, level: float) -> pd.DataFrame:
    """The mean over the pairs of a budget (or of one compute of the baseline, to two digits of its logarithm), with its t interval where there are two and more."""
    rows = []
    for _, part in table.groupby(table["budget"] if "budget" in table else np.log10(table["baseline_flops"]).round(2)):
        logs, count = _logs(part["multiplier"]), len(part)
        mean, half = float(logs.mean()), math.inf
        if count > 1 and np.isfinite(logs).all():
            half = float(student.ppf((1 + level) / 2, count - 1) * logs.std(ddof=1) / math.sqrt(count))
        multiplier, low, high = map(float, np.exp([mean, mean - half, mean + half]))
        compute = float(part["baseline_flops"].mean())
        row = {
            "loss": part["baseline_loss"].mean(),
            "baseline_flops": compute,
            "variant_flops": compute / multiplier if multiplier else math.inf,
        }
        row |= {"multiplier": multiplier, "low": low, "high": high, "pairs": count}
        rows.append(row)
    return pd.DataFrame(rows)


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
