"""The compute-optimal allocation from training curves: approach 1 of Hoffmann et al. 2022 (arXiv 2203.15556).

At each of many computes the run of least loss is taken; its sizes and tokens over compute give N* = n C^a and D* = n C^b. Two things to know: a
checkpoint in mid-schedule has a higher loss than a run whose learning rate ended there, and noise in a curve is taken for its low points, so
curves should be smoothed first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from fits.errors import InputError
from fits.isoflops import LAWS, Optima, lines, power_laws
from fits.runs import complete

POINTS = 1500  # as in the paper


@dataclasses.dataclass(frozen=True, eq=False)
class _Curves:
    """Training curves on a common grid of log flops, (runs, points) each, infinite loss where a run has no checkpoints; by size."""

    names: list[str]
    log_flops: np.ndarray
    log_size: np.ndarray  # (runs,)
    log_tokens: np.ndarray
    log_loss: np.ndarray


def envelope(
    checkpoints: pd.DataFrame,
    *,
    run: str | Sequence[str] | None = None,
    size: str = "params",
    points: int = POINTS,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Optima:
    """The run of least loss at each of `points` log-spaced computes, and the power laws through its sizes and tokens.

    checkpoints: a row each, with params, tokens, flops (two of them) and loss. run: the columns that tell runs apart, by default "run_id" where there is
    one, else the size. size: "params" or "active_params". Between checkpoints the log loss is a line in log flops; a run is not extrapolated.

    The table has a row a compute: flops, params (in the count of `size`), tokens, loss, run, runs (that reach this compute), bracketed, reason. Where the best
    run is the smallest or the largest of those that reach a compute, a better size may lie beyond ("edge"), and the row is left out of the power laws.
    Neighbouring rows are the same few runs, so intervals come only from `bootstrap` redraws of whole runs: `interval()` of the Curves. Raises InputError.
    """
    if size not in LAWS:
        raise InputError(f"size {size!r} has no law of its optimum; it is one of {', '.join(LAWS)}")
    if points < 2 or bootstrap < 0:
        raise InputError(f"envelope: points must be 2 or more and bootstrap 0 or more, got {points} and {bootstrap}")
    curves = _curves(checkpoints, run, size, points)
    every = np.arange(len(curves.names))
    best, reasons = _lowest(curves, every, size)
    at = np.arange(points)
    table = pd.DataFrame(
        {
            "flops": np.exp(curves.log_flops),
            size: np.exp(curves.log_size[best]),
            "tokens": np.exp(curves.log_tokens[best, at]),
            "loss": np.exp(curves.log_loss[best, at]),
            "run": [curves.names[index] for index in best],
            "runs": np.isfinite(curves.log_loss).sum(axis=0),
            "bracketed": reasons == "",
            "reason": reasons,
        }
    )
    covered = table["runs"] > 0
    about = {"method": f"envelope of {len(every)} runs at {points} computes", "bootstrap": bootstrap, "seed": seed}
    draws = _draws(curves, size, bootstrap, seed) if bootstrap else None
    found = power_laws(table[covered].reset_index(drop=True), size, about, draws=draws)
    if found.params is None or found.tokens is None:
        return found
    # Without the rows there is no profile: its t interval would take the points of one run for independent ones.
    bare = {name: dataclasses.replace(curve, sample=None) for name, curve in (("params", found.params), ("tokens", found.tokens))}
    return dataclasses.replace(found, **bare)


def _curves(checkpoints: pd.DataFrame, run: str | Sequence[str] | None, size: str, points: int) -> _Curves:
    frame = complete(checkpoints, needs=None if size == "params" else (size, "tokens", "flops"))
    columns = _run_columns(frame, run, size)
    log_flops = np.linspace(*np.log([frame["flops"].min(), frame["flops"].max()]), points)
    parts = []
    for name, rows in frame.groupby(columns, sort=False, dropna=False):
        label = ", ".join(map(str, name if isinstance(name, tuple) else (name,)))
        rows = rows.sort_values("flops")
        if rows["flops"].duplicated().any() or rows[size].nunique() > 1:
            raise InputError(
                f"envelope: run {label!r} has two checkpoints of one compute, or two sizes; name with run the columns that tell runs apart, among"
                f" {', '.join(map(str, frame.columns))}"
            )
        x, tokens, loss = (np.log(rows[column].to_numpy(float)) for column in ("flops", "tokens", "loss"))
        at = np.clip(log_flops, x[0], x[-1])
        reached = np.abs(at - log_flops) <= 1e-12 * np.abs(log_flops)
        parts.append(
            (label, float(np.log(rows[size].iloc[0])), np.interp(at, x, tokens), np.where(reached, np.interp(at, x, loss), np.inf))
        )
    parts.sort(key=lambda part: part[1])
    names, sizes, tokens, losses = zip(*parts, strict=True)
    return _Curves(list(names), log_flops, np.array(sizes), np.stack(tokens), np.stack(losses))


def _run_columns(frame: pd.DataFrame, run: str | Sequence[str] | None, size: str) -> list[str]:
    columns = ["run_id" if "run_id" in frame else size] if run is None else [run] if isinstance(run, str) else list(run)
    for name in columns:
        if name not in frame:
            raise InputError(f"envelope: no column {name!r} to tell runs apart; there are {', '.join(map(str, frame.columns))}")
    return columns


def _lowest(curves: _Curves, chosen: np.ndarray, size: str) -> tuple[np.ndarray, np.ndarray]:
    """The best of the `chosen` runs (in the order of their sizes) at every compute, and why it does not count ("" if it does)."""
    losses = curves.log_loss[chosen]
    there = np.isfinite(losses)
    best = curves.log_size[chosen][losses.argmin(axis=0)]
    smallest = curves.log_size[chosen][there.argmax(axis=0)]
    largest = curves.log_size[chosen][len(chosen) - 1 - there[::-1].argmax(axis=0)]
    one = smallest == largest
    reasons = np.select(
        [~there.any(axis=0), one, best == smallest, best == largest],
        [
            "no run reaches it",
            f"edge: all runs that reach it have one {size}",
            f"edge: the smallest {size} that reaches it is the best",
            f"edge: the largest {size} that reaches it is the best",
        ],
        "",
    )
    return chosen[losses.argmin(axis=0)], reasons


def _draws(curves: _Curves, size: str, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, a) and (n, b) of the envelopes of redrawn runs."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    runs, at = len(curves.names), np.arange(len(curves.log_flops))
    sizes, tokens = np.full((2, count, len(at)), np.nan)
    for draw in range(count):
        best, reasons = _lowest(curves, np.unique(generator.integers(runs, size=runs)), size)
        good = reasons == ""
        sizes[draw, good] = curves.log_size[best[good]]
        tokens[draw, good] = curves.log_tokens[best[good], at[good]]
    return lines(curves.log_flops, sizes), lines(curves.log_flops, tokens)
