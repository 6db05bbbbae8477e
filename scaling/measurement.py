"""The compute multiplier between two sets of runs at equal loss, with its interval, and whether it depends on scale.

`measure_multiplier` fits both sets jointly (`scaling.joint_fit`), whatever their grids and seeds, or compares pairs of runs of the same width, budget and seed
(`scaling.multipliers`), which is far more precise where there are such pairs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fits.curve import Curve
from fits.runs import complete
from scaling import joint_fit
from scaling.errors import InputError
from scaling.joint_fit import Joint

SIZES = ("flops_per_token", "params", "active_params", "non_embedding_params")
SAME = ("corpus", "tokenizer", "vocab_size")  # columns in which runs must agree for their losses to be compared
LADDER = ("two factors", "scale-dependent", "own exponents", "own laws")
SURE = 0.01  # p value below which a larger model is taken
LEVELS = 5


class Band(NamedTuple):
    """An estimate and its interval."""

    value: float
    low: float
    high: float

    @property
    def inverse(self) -> Band:
        return Band(1 / self.value, 1 / self.high, 1 / self.low if self.low > 0 else math.inf)


@dataclasses.dataclass(frozen=True, eq=False)
class Measurement:
    """A measured compute multiplier: compute of the baseline over that of the variant at equal loss, above 1 where the variant is better.

    `penalty` is its inverse. structure and data are the handicaps m and k of L(N / m, D / k), whose product the penalty is.
    `levels` holds the multiplier by loss, `tests` the nested models that were compared, `scale` the slope of ln multiplier per decade of the baseline's compute and its
    p value. All intervals are at `level`.
    """

    multiplier: Band
    penalty: Band
    structure: Band
    data: Band
    scale: Band
    scale_p: float
    level: float
    model: str
    loss: float
    overlap: tuple[float, float] | None
    levels: pd.DataFrame
    tests: pd.DataFrame
    curves: tuple[Curve, Curve]
    cells: joint_fit.Cells
    notes: list[str]


def measure_multiplier(
    baseline: pd.DataFrame,
    variant: pd.DataFrame,
    *,
    size: str = "flops_per_token",
    model: str | None = None,
    cluster: str = "cell",
    at_loss: Sequence[float] = (),
    flops: Sequence[float] = (),
    level: float = 0.95,
    force: bool = False,
) -> Measurement:
    """The compute multiplier of `variant` over `baseline`, two runs tables (`fits.runs` columns), by a joint fit.

    size: the count that plays N; flops_per_token is flops / (6 tokens), for which compute is 6 N D exactly. model: one of `joint_fit.MODELS`; by default "two factors", L(N / m, D / k) with all
    constants shared, unless a larger one betters it with p below 0.01 (F test). cluster: what counts as one independent error, the mean of a
    "cell" of equal size and tokens, or a "run". at_loss, flops: further losses, and computes of the baseline, at which to answer.
    Intervals are profiles by Student's t. Losses on different corpora or tokenizers are refused unless `force`. Raises InputError.
    """
    if model is not None and model not in joint_fit.MODELS:
        raise InputError(f"multiplier: model {model!r} is not known; it is one of {', '.join(joint_fit.MODELS)}")
    if not 0 < level < 1:
        raise InputError(f"multiplier: level must lie between 0 and 1, got {level}")
    notes: list[str] = []
    tables = [_prepared(frame, name, size) for frame, name in ((baseline, "baseline"), (variant, "variant"))]
    _check_comparable(*tables, force, notes)
    if cluster not in ("cell", "run"):
        raise InputError(f"multiplier: cluster must be cell or run, got {cluster!r}")
    data = joint_fit.cells(*tables, by=("size", "tokens") if cluster == "cell" else ("row",))
    overlap, middle = _overlap(data)
    rungs = LADDER[:1] + tuple(name for name in LADDER[1:] if len(data.size) > len(joint_fit.MODELS[name]) + 6)
    names = dict.fromkeys(["one factor", *rungs, *([model] if model else [])])
    fitted = joint_fit.fit_models(data, list(names), middle)
    chosen = fitted[model] if model else _chosen(fitted, rungs)
    scale, scale_p = _scale(fitted, level)
    levels = _levels(chosen, tables, overlap, at_loss, flops, level)
    found = joint_fit.intervals(chosen, level)
    penalty = Band(chosen.constant("penalty"), *found["penalty"])
    return Measurement(
        penalty.inverse,
        penalty,
        *_factors(chosen, level),
        scale,
        scale_p,
        level,
        chosen.model,
        middle,
        overlap,
        levels,
        _tests(fitted),
        tuple(side.curve(name, {}) for side, name in zip(chosen.sides, ("baseline", "variant"), strict=True)),  # ty: ignore
        data,
        notes,
    )


def _prepared(frame: pd.DataFrame, name: str, size: str) -> pd.DataFrame:
    """Finished runs with the columns size, tokens, flops and loss."""
    table = complete(frame, name)
    if size == "flops_per_token":
        values = table["flops"] / (6 * table["tokens"])
    elif size in SIZES and size in table:
        values = table[size].astype(float)
    else:
        raise InputError(f"multiplier: size must be one of {', '.join(SIZES)} and a column of both tables, got {size!r}")
    return table.assign(size=values, row=np.arange(len(table)))


def _check_comparable(baseline: pd.DataFrame, variant: pd.DataFrame, force: bool, notes: list[str]) -> None:
    for column in SAME:
        values = {str(value) for table in (baseline, variant) if column in table for value in table[column].dropna().unique()}
        if len(values) < 2:
            continue
        reason = f"runs of different {column} ({', '.join(sorted(values))}): losses on different texts or tokens are not comparable, ratios of compute at equal loss mean nothing"
        if not force:
            raise InputError(f"multiplier: {reason}; use runs of one {column}, or force the comparison")
        notes.append(f"forced: {reason}")


def _overlap(data: joint_fit.Cells) -> tuple[tuple[float, float] | None, float]:
    """The losses that both sets reach, and one in the middle; None and one between the sets where there are none."""
    ends = [np.exp([data.log_loss[data.of(side)].min(), data.log_loss[data.of(side)].max()]) for side in (0, 1)]
    low, high = max(ends[0][0], ends[1][0]), min(ends[0][1], ends[1][1])
    return (float(low), float(high)) if low < high else None, float(math.sqrt(low * high))


def _chosen(fitted: dict[str, Joint], rungs: Sequence[str]) -> Joint:
    """Up the ladder from "two factors" to every larger model that betters the one reached."""
    current = fitted[rungs[0]]
    for name in rungs[1:]:
        if joint_fit.f_test(current, fitted[name]) < SURE:
            current = fitted[name]
    return current


def _scale(fitted: dict[str, Joint], level: float) -> tuple[Band, float]:
    """Slope of ln multiplier per decade of the baseline's compute in the model of two factors and a slope, and its p value."""
    if "scale-dependent" not in fitted:
        return Band(math.nan, -math.inf, math.inf), math.nan
    joint = fitted["scale-dependent"]
    low, high = joint_fit.intervals(joint, level)["growth"]
    slopes = [(1 - growth) * math.log(10) for growth in (joint.constant("growth"), high, low)]
    return Band(*slopes), joint_fit.f_test(fitted["two factors"], joint)


def _factors(joint: Joint, level: float) -> tuple[Band, Band]:
    """m and k with their intervals."""
    bands = []
    for split in (0.0, 1.0):
        own = joint.around(joint.loss, split)
        tilt = Band(own.constant("tilt"), *joint_fit.intervals(own, level)["tilt"])
        bands.append(tilt if split == 0 else tilt.inverse)
    return bands[0], bands[1]


def _levels(
    joint: Joint,
    tables: Sequence[pd.DataFrame],
    overlap: tuple[float, float] | None,
    at_loss: Sequence[float],
    flops: Sequence[float],
    level: float,
) -> pd.DataFrame:
    """The multiplier at losses inside the overlap and at those asked for."""
    baseline = joint.sides[0]
    losses = [] if overlap is None else _between(baseline, *overlap)
    losses += [*at_loss, *(baseline.loss_for(compute / 6) for compute in flops)]
    rows = []
    for loss in losses:
        rows.append(_at(joint, tables, float(loss), level))
    return pd.DataFrame(rows)


def _between(side: Any, low: float, high: float) -> list[float]:
    """Losses evenly spread in log compute of a side."""
    ends = [side.at(loss) for loss in (high, max(low, side.irreducible + 1e-3 * (high - side.irreducible)))]
    products = np.geomspace(*(end.size * end.tokens for end in ends), LEVELS)
    return [side.loss_for(product) for product in products]


def _at(joint: Joint, tables: Sequence[pd.DataFrame], loss: float, level: float) -> dict[str, Any]:
    own = joint.around(loss)
    computes = [6 * side.size * side.tokens for side in own.sides]
    penalty = Band(own.constant("penalty"), *joint_fit.intervals(own, level)["penalty"])
    multiplier = penalty.inverse
    outside = max(_decades(compute, table["flops"]) for compute, table in zip(computes, tables, strict=True))
    return {
        "loss": loss,
        "baseline_flops": computes[0],
        "variant_flops": computes[1],
        "multiplier": multiplier.value,
        "low": multiplier.low,
        "high": multiplier.high,
        "decades_outside": outside,
    }


def _decades(compute: float, flops: pd.Series) -> float:
    return max(0.0, math.log10(compute / flops.max()), math.log10(flops.min() / compute))


def _tests(fitted: dict[str, Joint]) -> pd.DataFrame:
    """The models: constants, residual spread, BIC, and the p value of the F test against "two factors" (of the smaller within the larger)."""
    base = fitted["two factors"]
    rows = []
    for name, joint in fitted.items():
        pair = (joint, base) if joint.free < base.free else (base, joint)
        rows.append(
            {
                "model": name,
                "constants": joint.free,
                "residual_sd": joint.residual_sd,
                "bic": joint_fit.bic(joint),
                "p": math.nan if joint is base else joint_fit.f_test(*pair),
                "penalty": joint.constant("penalty"),
            }
        )
    return pd.DataFrame(rows)
