"""The compute-optimal allocation from isoFLOP profiles: approach 2 of Hoffmann et al. 2022 (arXiv 2203.15556).

Runs of one budget and many sizes give a minimum of the loss over log size; the minima of several budgets give N* = n C^a and D* = n C^b. No law
of the loss stands behind it, but a parabola does, and where the sizes reach far from the optimum or lie off-centre it is biased (Czech et al. 2026,
2603.22339). On the profiles of Porian et al. 2024 (2406.19146), wide ones, its exponents are up to 0.08 from theirs; `method="akima"`, the interpolation that
they used, comes within 0.004.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
from scipy.interpolate import Akima1DInterpolator

from fits.curve import Curve
from fits.errors import InputError
from fits.laws import law as find_law
from fits.laws.base import to_constants
from fits.objectives import objective
from fits.runs import complete
from fits.sample import digest, prepare

METHODS = ("parabola", "akima")
LAWS = {"params": "params-for-flops", "active_params": "active-params-for-flops"}
SAME_BUDGET = 0.05  # decades: runs nearer than this to their neighbour have one budget
WIDEST = 1.25  # largest over smallest flops of one budget: beyond it differences of compute pass for differences of size
RESOLVED = 1 / 3  # of the step between sizes, the finest that an interpolation tells apart; as in Porian et al.
FEWEST_SIZES = 3
FEWEST_BUDGETS = 3  # a line through two has no interval


@dataclasses.dataclass(frozen=True, eq=False)
class Optima:
    """Optimal sizes by compute: the `table` of `isoflop` or `envelope`, and the power laws through its accepted rows.

    `params` and `tokens` are Curves (of `params-for-flops`, or `active-params-for-flops`, and `tokens-for-flops`), None where `reason` says why.
    """

    table: pd.DataFrame
    params: Curve | None
    tokens: Curve | None
    reason: str
    about: dict[str, Any]

    @property
    def accepted(self) -> pd.DataFrame:
        """The rows behind the power laws. They are a runs table: a law of the loss at the optimum can be fitted to it."""
        return self.table[self.table["bracketed"]].drop(columns="reason")


def isoflop(
    runs: pd.DataFrame,
    *,
    budgets: str | None = None,
    method: str = "parabola",
    size: str = "params",
    noise: float | None = None,
    weighted: bool = False,
    bootstrap: int = 0,
    seed: int = 0,
) -> Optima:
    """The optimum of every budget of `runs` (`fits.runs` columns) and the power laws through the optima.

    budgets: a column that names them; by default "budget" where there is one, else clusters of near-equal flops. method: "parabola" (least squares
    of the loss in log size) or "akima" (of the log loss through every size; repeats of one size are averaged). size: "params" or "active_params".
    noise: the standard deviation of one loss in nats, by default the scatter around the parabolas, pooled; Akima's curve passes through all points and
    has no scatter. weighted: weigh budgets by 1 / se^2. bootstrap: so many redraws of all losses with that noise give the curves' draws.

    The table has a row a budget: flops (geometric mean), rows, sizes, params (in the count of `size`), tokens, loss, curvature (second derivative of the loss by
    log size, nats), se_log_params (of log params: propagated for a parabola, for Akima the scatter of the redraws, a third of the step between sizes at least), smallest, largest (sizes sampled),
    bracketed, reason. An optimum counts as bracketed, and enters the power laws, only if the profile opens upward and has its minimum inside the sampled sizes.
    Tokens are read off the runs' own at the optimal size. Learning rates and repeats are chosen beforehand (`fits.read_runs(best=...)`).

    `interval()` of a Curve is the t interval of a line through the budgets, which counts what a profile gets wrong as scatter; `interval(method="bootstrap")`
    speaks of seed noise alone. Raises InputError.
    """
    _check(method, size, noise, bootstrap)
    frame = _ready(runs, size)
    groups = _budgets(frame, budgets)
    profiles = [_profile(rows, size, method) for _, rows in frame.groupby(groups)]
    sd = noise if noise is not None else _pooled(profiles) if method == "parabola" else np.nan
    if bootstrap and not np.isfinite(sd):
        raise InputError("isoflop: redraws need the noise of a loss, which these runs do not show; give noise (nats)")
    table = pd.DataFrame([_row(profile, method, sd) for profile in profiles])
    kept = [profile for profile, good in zip(profiles, table["bracketed"], strict=True) if good]
    places = _redrawn(kept, method, sd, bootstrap, seed) if bootstrap and kept else None
    if places is not None and method == "akima":
        # A minimum that sits on a sampled size hardly moves under noise; the profile between sizes is not known that well.
        finest = [RESOLVED * np.ptp(profile.log_size) / (len(profile.log_size) - 1) for profile in kept]
        table.loc[table["bracketed"], "se_log_params"] = np.maximum(np.nanstd(places, axis=0), finest)
    table = table.rename(columns={"size": size})
    about = {"method": f"isoFLOP, {method}", "noise": None if np.isnan(sd) else sd, "bootstrap": bootstrap, "seed": seed}
    draws = None if places is None else _exponents_of(kept, places)
    return power_laws(table, size, about, weighted=weighted, draws=draws)


@dataclasses.dataclass(frozen=True, eq=False)
class _Profile:
    """The runs of one budget in the order of their sizes, and where their minimum lies; `refused` says why there is none."""

    flops: float
    rows: int
    log_size: np.ndarray
    log_tokens: np.ndarray
    loss: np.ndarray
    place: float = np.nan
    value: float = np.nan
    curvature: float = np.nan
    refused: str = ""


def _check(method: str, size: str, noise: float | None, bootstrap: int) -> None:
    if method not in METHODS:
        raise InputError(f"isoflop: method {method!r} is not known; it is one of {', '.join(METHODS)}")
    if size not in LAWS:
        raise InputError(f"size {size!r} has no law of its optimum; it is one of {', '.join(LAWS)}")
    if noise is not None and not (np.isfinite(noise) and noise > 0):
        raise InputError(f"isoflop: noise must be a positive number of nats, got {noise}")
    if bootstrap < 0:
        raise InputError(f"bootstrap must be 0 or more, got {bootstrap}")


def _ready(runs: pd.DataFrame, size: str) -> pd.DataFrame:
    frame = complete(runs, needs=None if size == "params" else (size, "tokens", "flops"))
    if "corpus" in frame and frame["corpus"].nunique() > 1:
        count = frame["corpus"].nunique()
        raise InputError(f"runs: {count} corpora in one table; losses on different corpora are not comparable, select one with where")
    return frame


def _budgets(frame: pd.DataFrame, column: str | None) -> np.ndarray:
    """The number of every row's budget, from 0 for the smallest."""
    if column is None and "budget" in frame:
        column = "budget"
    logs = np.log10(frame["flops"].to_numpy(float))
    if column is not None:
        if column not in frame:
            raise InputError(f"isoflop: no column {column!r} to tell budgets apart; there are {', '.join(map(str, frame.columns))}")
        middle = pd.Series(logs).groupby(frame[column].to_numpy()).transform("median").to_numpy()
        return np.unique(middle, return_inverse=True)[1]
    order = np.argsort(logs, kind="stable")
    groups = np.empty(len(logs), int)
    groups[order] = np.concatenate([[0], np.cumsum(np.diff(logs[order]) > SAME_BUDGET)])
    return groups


def _profile(rows: pd.DataFrame, size: str, method: str) -> _Profile:
    flops = rows["flops"].to_numpy(float)
    rows = rows.sort_values(size, kind="stable")
    logs = np.log(rows[[size, "tokens"]].to_numpy(float))
    loss = rows["loss"].to_numpy(float)
    if method == "akima":
        distinct, place = np.unique(logs[:, 0], return_inverse=True)
        count = np.bincount(place)
        logs = np.stack([distinct, np.bincount(place, logs[:, 1]) / count], axis=1)
        loss = np.bincount(place, loss) / count
    profile = _Profile(float(np.exp(np.log(flops).mean())), len(rows), logs[:, 0], logs[:, 1], loss)
    sizes = len(np.unique(profile.log_size))
    if flops.max() > WIDEST * flops.min():
        return dataclasses.replace(
            profile, refused=f"its flops differ by a factor of {flops.max() / flops.min():.3g}, so it is no one budget"
        )
    if sizes < FEWEST_SIZES:
        return dataclasses.replace(profile, refused=f"too few sizes: {sizes}, and {FEWEST_SIZES} at least are needed")
    place, value, curvature = (array[0] for array in _MINIMA[method](profile.log_size, loss[None]))
    return dataclasses.replace(profile, place=place, value=value, curvature=curvature, refused=_refusal(profile, place, curvature, size))


def _refusal(profile: _Profile, place: float, curvature: float, size: str) -> str:
    if not curvature > 0:
        return f"opens downward: curvature {curvature:.3g} nats, so there is no minimum"
    if profile.log_size[0] < place < profile.log_size[-1]:
        return ""
    side, end = ("below the smallest", profile.log_size[0]) if place <= profile.log_size[0] else ("above the largest", profile.log_size[-1])
    where = f"at {size} {np.exp(place):.3g}, " if place != end else ""
    return f"unbracketed: the minimum lies {where}{side} size, {np.exp(end):.3g}"


def _parabola(x: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place, value and second derivative of the vertex for every row of `losses` (draws, sizes)."""
    middle = x.mean()
    square, slope, level = np.polyfit(x - middle, losses.T, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        place = -slope / (2 * square)
    return middle + place, level + slope * place / 2, 2 * square


def _akima(x: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place, value and second derivative of the least point of the interpolated log loss, exact in every piece; the end where that is least."""
    c3, c2, c1, c0 = Akima1DInterpolator(x, np.log(losses).T).c  # (pieces, draws) each, powers of the way into the piece
    width = np.diff(x)[:, None]
    root = np.sqrt(np.maximum(c2**2 - 3 * c3 * c1, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        # The root of the derivative where it rises, in the form that does not cancel.
        inside = np.where(c2 > 0, -c1 / (c2 + root), (root - c2) / (3 * c3))
    inside = np.where(np.isfinite(inside), np.clip(inside, 0, width), 0.0)
    steps = np.concatenate([inside, np.broadcast_to(width, inside.shape)[-1:], np.zeros_like(inside)[:1]])
    piece = np.concatenate([np.arange(len(width)), [len(width) - 1, 0]])
    values = c0[piece] + steps * (c1[piece] + steps * (c2[piece] + steps * c3[piece]))
    best, draw = values.argmin(axis=0), np.arange(values.shape[1])
    step, at = steps[best, draw], piece[best]
    value = np.exp(values[best, draw])
    return x[at] + step, value, value * np.maximum(2 * c2[at, draw] + 6 * c3[at, draw] * step, 1e-300)


_MINIMA = {"parabola": _parabola, "akima": _akima}


def _pooled(profiles: list[_Profile]) -> float:
    """The scatter of the losses around their parabolas, all budgets with a minimum together; NaN where there is none to see."""
    squares, freedom = 0.0, 0
    for profile in profiles:
        if not profile.refused:
            u = profile.log_size - profile.log_size.mean()
            squares += float(np.sum((profile.loss - np.polyval(np.polyfit(u, profile.loss, 2), u)) ** 2))
            freedom += len(u) - 3
    return float(np.sqrt(squares / freedom)) if freedom else np.nan


def _row(profile: _Profile, method: str, noise: float) -> dict[str, Any]:
    good = not profile.refused
    x = profile.log_size
    return {
        "flops": profile.flops,
        "rows": profile.rows,
        "sizes": len(np.unique(x)),
        "size": np.exp(profile.place) if good else np.nan,
        "tokens": np.exp(np.interp(profile.place, x, profile.log_tokens)) if good else np.nan,
        "loss": profile.value if good else np.nan,
        "curvature": profile.curvature,
        "se_log_params": _propagated(profile, noise) if good and method == "parabola" else np.nan,
        "smallest": np.exp(x[0]),
        "largest": np.exp(x[-1]),
        "bracketed": good,
        "reason": profile.refused,
    }


def _propagated(profile: _Profile, noise: float) -> float:
    """Standard error of the vertex: that of its slope at the vertex, over the curvature."""
    u = profile.log_size - profile.place
    cofactor = np.linalg.inv(np.vander(u, 3).T @ np.vander(u, 3))
    return float(noise * np.sqrt(cofactor[1, 1]) / profile.curvature)


def _redrawn(profiles: list[_Profile], method: str, noise: float, count: int, seed: int) -> np.ndarray:
    """The optima's log sizes under new noise, (draws, budgets); NaN where a redraw leaves a budget without one."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    columns = []
    for profile in profiles:
        x = profile.log_size
        losses = profile.loss + noise * generator.standard_normal((count, len(x)))
        place, _, curvature = _MINIMA[method](x, losses)
        columns.append(np.where((curvature > 0) & (place > x[0]) & (place < x[-1]), place, np.nan))
    return np.stack(columns, axis=1)


def _exponents_of(profiles: list[_Profile], places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draws of (n, exponent) for sizes and for tokens."""
    tokens = [np.interp(column, each.log_size, each.log_tokens) for each, column in zip(profiles, places.T, strict=True)]
    log_flops = np.log([profile.flops for profile in profiles])
    return lines(log_flops, places), lines(log_flops, np.stack(tokens, axis=1))


def lines(log_flops: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """(n, a) of the least-squares line through every row of `logs` (draws, budgets), without its NaN; NaN where two points are not left."""
    there = np.isfinite(logs)
    count = np.maximum(there.sum(axis=1), 1)
    x = np.where(there, log_flops, 0.0)
    y = np.where(there, logs, 0.0)
    mean_x, mean_y = x.sum(axis=1) / count, y.sum(axis=1) / count
    dx = np.where(there, log_flops - mean_x[:, None], 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (dx * y).sum(axis=1) / (dx**2).sum(axis=1)
        return np.stack([np.exp(mean_y - slope * mean_x), slope], axis=1)


def power_laws(
    table: pd.DataFrame, size: str, about: dict[str, Any], *, weighted: bool = False, draws: tuple[np.ndarray, np.ndarray] | None = None
) -> Optima:
    """The least-squares lines through the bracketed rows of `table` in logarithms, with `draws` of their constants for sizes and tokens."""
    rows = table[table["bracketed"]]
    distinct = rows["flops"].nunique()
    if distinct < FEWEST_BUDGETS:
        reason = f"{distinct} of {table['flops'].nunique()} budgets have a bracketed optimum, and a power law needs {FEWEST_BUDGETS}"
        return Optima(table, None, None, reason, about)
    weights = None
    if weighted:
        if not np.isfinite(rows["se_log_params"]).all():
            raise InputError("isoflop: weighted needs a standard error of every optimum; give noise (nats), and bootstrap for akima")
        weights = (1 / rows["se_log_params"] ** 2).to_list()
    curves = []
    for index, name in enumerate((LAWS[size], "tokens-for-flops")):
        own = None if draws is None else draws[index][np.isfinite(draws[index]).all(axis=1)]
        curve = _line(name, rows[["flops", size, "tokens", "loss"]], weights)
        curves.append(dataclasses.replace(curve, draws=own, about=curve.about | about))
    return Optima(table, *curves, "", about)


def _line(name: str, rows: pd.DataFrame, weights: list[float] | None) -> Curve:
    """The power law `name` by least squares in logarithms: linear, so it needs no search and compiles nothing."""
    law = find_law(name)
    sample = prepare(law, rows, objective("log-squared"), weights=weights)
    x, y, root = np.log(rows["flops"].to_numpy(float)), sample.problem.observed, np.sqrt(sample.weights)
    centre = float(np.average(x, weights=sample.weights))
    design = np.stack([np.ones_like(x), x - centre], axis=1) * root[:, None]
    (level, slope), _, _, singular = np.linalg.lstsq(design, y * root)
    left = y - level - slope * (x - centre)
    value = float(0.5 * np.sum(sample.weights * left**2))
    theta = np.array([level - slope * centre, slope])
    return Curve(
        law=law,
        constants=dict(zip(law.constants, map(float, to_constants(law, theta)), strict=True)),
        residual_sd=float(np.sqrt(np.sum(left**2) / max(1, len(rows) - 2))),
        flops_per_param_token=float((rows["flops"] / (rows.iloc[:, 1] * rows["tokens"])).median()),
        range={column: [float(rows[column].min()), float(rows[column].max())] for column in map(str, rows)},
        certificate=_in_closed_form(value, float((singular[0] / singular[-1]) ** 2)),
        about={
            "objective": "log-squared",
            "rows": len(rows),
            "free": 2,
            "weights": None if weights is None else "given",
            "runs_sha256": digest(sample.frame[[*law.inputs, law.output]]),
        },
        sample=dataclasses.replace(sample, theta=theta),
    )


def _in_closed_form(value: float, condition: float) -> dict[str, Any]:
    """The certificate of a fit that has one optimum, written down and not searched for."""
    found = {"certified": True, "objective": value, "optimality": 0.0, "starts_total": 1, "starts_at_optimum": 1, "second_best": None}
    return found | {"condition": condition, "active_bounds": [], "flat": None, "reason": ""}
