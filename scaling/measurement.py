"""The compute multiplier between two sets of runs at equal loss, with its interval, and whether it depends on scale.

`measure_multiplier` fits both sets jointly, whatever their grids and seeds, or compares pairs of runs of the same width, budget and seed (`scaling.multipliers`),
which is far more precise where there are such pairs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import norm
from scipy.stats import t as student

from fits.curve import Curve
from fits.runs import complete
from scaling import joint_fit, multipliers
from scaling.errors import InputError
from scaling.joint_fit import MODELS, OUTER, Cells, Joint
from scaling.measured import UNKNOWN, Band, JointFit, Measurement
from scaling.two_sides import PLACE, Side

SIZES = ("flops_per_token", "params", "active_params", "non_embedding_params")
SAME = ("corpus", "tokenizer", "vocab_size")  # columns in which runs must agree for their losses to be compared
LADDER = ("two factors", "scale-dependent", "own exponents", "own laws")
BESIDE = ("equal", "one factor", "structure alone", "data alone")  # within "two factors", tested against it
SURE = 0.01  # p value below which a larger model, or another form of law, is taken
LEVELS = 5
DRAWS = 1000
APART = 100.0  # ratio of the ends of the interval of m from which structure and data are not told apart


def measure_multiplier(
    baseline: pd.DataFrame,
    variant: pd.DataFrame,
    *,
    pairs: bool = False,
    curve: Curve | None = None,
    size: str = "flops_per_token",
    model: str | None = None,
    cluster: str = "cell",
    interval: str = "bootstrap",
    at_loss: Sequence[float] = (),
    flops: Sequence[float] = (),
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
    force: bool = False,
) -> Measurement:
    """The compute multiplier of `variant` over `baseline`, two runs tables (`fits.runs` columns), by a joint fit or on pairs.

    pairs: compare runs of equal width, budget and seed (or params, tokens and seed), losses turned into compute by the baseline's `curve`, which is fitted
    if not given. All that follows is for the joint fit. size: the count that plays N; flops_per_token is flops / (6 tokens), for which compute is 6 N D exactly.
    model: one of `joint_fit.MODELS`; by default "two factors", L(N / m, D / k) with all constants shared, with an outer exponent if that betters it with p < 0.01 (F
    test), and a larger one only if the multiplier depends on scale with p < 0.01; "one factor" where the runs are too few. cluster: what counts as one independent error, the mean of a "cell" of equal size and tokens, or a "run".
    interval: "bootstrap", percentiles of `draws` wild resamples of the cells, widened by Student's t over the normal quantile, or "profile", which supposes noise of one
    size. at_loss, flops: further losses, and computes of the baseline, at which to answer. Losses on different corpora or tokenizers are refused unless
    `force`. Raises InputError.
    """
    _check_options(model, cluster, interval, level, draws, seed)
    notes: list[str] = []
    tables = _prepared(baseline, "baseline", size), _prepared(variant, "variant", size)
    _check_comparable(*tables, force, notes)
    if not pairs:
        found = _joint(tables, model, cluster, at_loss, flops, _Interval(interval, level, draws, seed))
    elif at_loss or flops or model:
        raise InputError("multiplier: pairs answer where the pairs are; at_loss, flops and model go with the joint fit")
    else:
        found = multipliers.measure_pairs(*tables, curve=curve, level=level, seed=seed)
    return dataclasses.replace(found, notes=notes + found.notes)


def _joint(
    tables: tuple[pd.DataFrame, pd.DataFrame],
    model: str | None,
    cluster: str,
    at_loss: Sequence[float],
    flops: Sequence[float],
    interval: _Interval,
) -> Measurement:
    data = joint_fit.cells(*tables, by=("size", "tokens") if cluster == "cell" else ("row",))
    overlap, middle = _overlap(data)
    fitted, form = _fitted(data, middle, model)
    sloped = _Bands(fitted["scale-dependent" + form], interval) if "scale-dependent" + form in fitted else None
    slope, slope_p = (UNKNOWN, math.nan) if sloped is None else _scale(fitted["two factors" + form], sloped)
    chosen = fitted[model] if model else _chosen(fitted, form, slope_p)
    bands = _Bands(chosen, interval)
    notes = [] if overlap else ["no loss is reached by both sets: every answer extrapolates one of them"]
    structure, handicap = _factors(bands, notes)
    cost = [float((table["flops"] / (table["size"] * table["tokens"])).median()) for table in tables]
    asker = _Asker(bands, sloped, tables, cost)
    return Measurement(
        method="joint",
        model=chosen.model,
        multiplier=asker.multiplier(middle),
        structure=structure,
        data=handicap,
        scale=slope,
        scale_p=slope_p,
        level=interval.level,
        loss=middle,
        overlap=overlap,
        levels=asker.table(overlap, at_loss, flops),
        tests=_tests(fitted, form),
        pairs=pd.DataFrame(),
        runs=(len(tables[0]), len(tables[1])),
        notes=notes,
        fit=JointFit(chosen, bands.thetas, data, (cost[0], cost[1])),
    )


def _check_options(model: str | None, cluster: str, interval: str, level: float, draws: int, seed: int) -> None:
    allowed = {
        "model": (model, (None, *(name for name in MODELS if not name.startswith("equal")))),
        "cluster": (cluster, ("cell", "run")),
        "interval": (interval, ("bootstrap", "profile")),
    }
    for name, (value, known) in allowed.items():
        if value not in known:
            raise InputError(f"multiplier: {name} {value!r} is not known; it is one of {', '.join(str(each) for each in known if each)}")
    if not 0 < level < 1:
        raise InputError(f"multiplier: level must lie between 0 and 1, got {level}")
    if draws < 100 or not 0 <= seed < 2**63:
        raise InputError(f"multiplier: draws must be 100 or more and seed 0 or more, got {draws} and {seed}")


def _prepared(frame: pd.DataFrame, name: str, size: str) -> pd.DataFrame:
    """Finished runs with the columns size, tokens, flops and loss."""
    table = complete(frame, name)
    if size == "flops_per_token":
        values = table["flops"] / (6 * table["tokens"])
    elif size in SIZES and size in table:
        values = complete(table, name, needs=[size])[size]
    else:
        raise InputError(f"multiplier: size must be one of {', '.join(SIZES)} and a column of both tables, got {size!r}")
    return table.assign(size=values, row=np.arange(len(table)))


def _check_comparable(baseline: pd.DataFrame, variant: pd.DataFrame, force: bool, notes: list[str]) -> None:
    """InputError where the runs' losses are of different texts or tokens; a note if that is forced."""
    for column in SAME:
        values = {str(value) for table in (baseline, variant) if column in table for value in table[column].dropna().unique()}
        if len(values) < 2:
            continue
        reason = (
            f"the runs are of different {column} ({', '.join(sorted(values))}), and losses on different texts or tokens are not comparable"
        )
        if not force:
            example = f'{column} = "{min(values)}"'
            raise InputError(f"multiplier: {reason}; take runs of one {column}, as by --where '{example}', or force the comparison")
        notes.append(f"forced: {reason}")


def _overlap(data: Cells) -> tuple[tuple[float, float] | None, float]:
    """The losses that both sets reach, and one in the middle; None and one between the sets where there is none."""
    ends = [np.exp([data.log_loss[data.of(side)].min(), data.log_loss[data.of(side)].max()]) for side in (0, 1)]
    low, high = max(ends[0][0], ends[1][0]), min(ends[0][1], ends[1][1])
    return (float(low), float(high)) if low < high else None, float(math.sqrt(low * high))


def _fitted(data: Cells, loss: float, model: str | None) -> tuple[dict[str, Joint], str]:
    """The models that the cells suffice for, and which form of law they have: an outer exponent where "two factors" fit better with one, or as `model` says.

    What a wrong form leaves over would else be taken for a difference between the sides, whose runs are of different sizes.
    """

    def enough(names: Sequence[str]) -> list[str]:
        return [name for name in names if len(data.size) > joint_fit.constants_free(name) + 1]

    first = enough(["two factors", "two factors" + OUTER])
    found = joint_fit.fit_models(data, first, loss) if first else {}
    better = len(first) == 2 and joint_fit.f_test(*(found[name] for name in first)) < SURE
    form = OUTER if (model.endswith(OUTER) if model else better) else ""
    names = enough([name + form for name in (*LADDER, *BESIDE)]) or ["one factor"]
    more = [name for name in dict.fromkeys([*names, *([model] if model else [])]) if name not in found]
    return found | joint_fit.fit_models(data, more, loss), form


def _chosen(fitted: dict[str, Joint], form: str, slope_p: float) -> Joint:
    """ "two factors" unless the multiplier depends on scale; then the smallest model with a slope that no larger one betters."""
    rungs = [fitted[name + form] for name in LADDER if name + form in fitted]
    if not rungs:
        return fitted["one factor" + form]
    if not slope_p < SURE:
        return rungs[0]
    current = rungs[1]
    for larger in rungs[2:]:
        if joint_fit.f_test(current, larger) < SURE:
            current = larger
    return current


class _Interval(NamedTuple):
    """How intervals are made."""

    kind: str
    level: float
    draws: int
    seed: int


class _Bands:
    """Intervals of what follows from a joint fit."""

    def __init__(self, joint: Joint, interval: _Interval):
        self.joint, self.level = joint, interval.level
        self.thetas = joint_fit.draws(joint, interval.draws, interval.seed) if interval.kind == "bootstrap" else None

    def of(self, name: str, loss: float, split: float) -> Band:
        """Of the constant `name` of the joint law written around `loss`, with `split`."""
        around = [side.at(loss) for side in self.joint.sides]
        value = float(joint_fit.constants_of(*around, split)[PLACE[name]])
        if not math.isfinite(value) or value == 0:
            return Band(value, math.nan, math.nan)
        if self.thetas is None:
            return Band(value, *joint_fit.profiles(self.joint.around(loss, split), self.level)[name])
        sides = [side.at(loss) for side in self.joint.sides_of(self.thetas)]
        return self.percentiles(value, joint_fit.constants_of(*sides, split)[:, PLACE[name]])

    def percentiles(self, value: float, drawn: np.ndarray) -> Band:
        """Percentiles of the logarithm, their distances from the estimate widened for the few cells; resamples of which neither side gets there are left out."""
        with np.errstate(divide="ignore"):
            logs = np.log(drawn[~np.isnan(drawn)])
        if not len(logs):
            return Band(value, math.nan, math.nan)
        ends = np.quantile(logs, [(1 - self.level) / 2, (1 + self.level) / 2], method="inverted_cdf")  # which takes infinite ones
        wider = student.ppf((1 + self.level) / 2, self.joint.freedom) / norm.ppf((1 + self.level) / 2)
        low, high = np.exp(math.log(value) + wider * (ends - math.log(value)))
        return Band(value, float(low), float(high))


def _scale(without: Joint, bands: _Bands) -> tuple[Band, float]:
    """Slope of ln multiplier per decade of the baseline's compute in the model of two factors and a slope, and the p value of no slope.

    The p value is that of the slope over the spread of its resamples, by Student's t; with profiles that of the F test.
    """
    joint = bands.joint
    growth = bands.of("growth", joint.loss, joint.split)
    p = joint_fit.f_test(without, joint)
    if bands.thetas is not None:
        spread = float(np.std(bands.thetas[:, PLACE["growth"]]))  # of its logarithm
        p = 2 * float(student.sf(abs(math.log(growth.value)) / spread, joint.freedom)) if spread > 0 else math.nan
    return Band(*((1 - x) * math.log(10) for x in (growth.value, growth.high, growth.low))), p


def _factors(bands: _Bands, notes: list[str]) -> tuple[Band, Band]:
    """m and k of the model, NaN where the runs do not tell them apart."""
    joint, model = bands.joint, MODELS[bands.joint.model]
    none = Band(1.0, 1.0, 1.0)
    if "tilt" not in model.freed:
        penalty = bands.of("penalty", joint.loss, joint.split)
        return {1.0: (penalty, none), 0.0: (none, penalty)}.get(model.split, (UNKNOWN, UNKNOWN))
    structure, data = bands.of("tilt", joint.loss, 0.0), bands.of("tilt", joint.loss, 1.0).inverse
    if not structure.high < structure.low * APART:
        notes.append("the runs do not tell structure from data, only their product; more shapes at one compute would")
        return UNKNOWN, UNKNOWN
    return structure, data


class _Asker:
    """Multipliers at any loss, in compute."""

    def __init__(self, bands: _Bands, sloped: _Bands | None, tables: Sequence[pd.DataFrame], cost: Sequence[float]):
        self.bands, self.sloped, self.cost = bands, sloped, cost
        self.ranges = [(float(table["flops"].min()), float(table["flops"].max())) for table in tables]

    def multiplier(self, loss: float, bands: _Bands | None = None) -> Band:
        bands, ratio = bands or self.bands, self.cost[0] / self.cost[1]
        return Band(*(ratio * x for x in bands.of("penalty", loss, bands.joint.split).inverse))

    def _short_of(self, loss: float) -> float:
        """Share of the resamples in which no compute brings the baseline to `loss`."""
        if self.bands.thetas is None:
            return 0.0
        return float(np.mean(self.bands.joint.sides_of(self.bands.thetas)[0].irreducible >= loss))

    def table(self, overlap: tuple[float, float] | None, at_loss: Sequence[float], flops: Sequence[float]) -> pd.DataFrame:
        """Inside the overlap, and as asked."""
        baseline = self.bands.joint.sides[0]
        for compute in flops:
            if not (math.isfinite(compute) and compute > 0):
                raise InputError(f"multiplier: flops must be positive and finite, got {compute}")
        asked = [*map(float, at_loss), *(float(baseline.loss_for(compute / self.cost[0])) for compute in flops)]
        inside = [] if overlap is None else _between(baseline, *overlap)
        return pd.DataFrame([self._row(loss, False) for loss in inside] + [self._row(loss, True) for loss in asked])

    def _row(self, loss: float, asked: bool) -> dict[str, Any]:
        sides = self.bands.joint.sides
        if not loss > sides[0].irreducible:
            raise InputError(
                f"multiplier: a loss of {loss:.6g} is not above the irreducible loss {float(sides[0].irreducible):.6g} of the baseline's fitted law:"
                " no compute brings the baseline there, so there is nothing to compare with"
            )
        computes = [cost * float(side.at(loss).product) for cost, side in zip(self.cost, sides, strict=True)]
        multiplier = self.multiplier(loss)
        feasible = math.isfinite(computes[1])
        reason = "" if feasible else f"no compute brings the variant, of irreducible loss {float(sides[1].irreducible):.6g}, to this loss"
        if feasible and (short := self._short_of(loss)):
            reason = f"{short:.0%} of the resamples put the baseline's irreducible loss above {loss:.6g}"
        outside = max(_decades(compute, *ends) for compute, ends in zip(computes, self.ranges, strict=True) if math.isfinite(compute))
        row = {"loss": loss, "baseline_flops": computes[0], "variant_flops": computes[1], "multiplier": multiplier.value}
        row |= {"low": multiplier.low, "high": multiplier.high, "decades_outside": outside}
        if self.sloped is not None:  # what the runs say there if the multiplier may change with scale
            row |= dict(zip(("sloped_low", "sloped_high"), self.multiplier(loss, self.sloped)[1:], strict=True))
        return row | {"asked": asked, "feasible": feasible, "reason": reason}


def _between(side: Side, low: float, high: float) -> list[float]:
    """Losses evenly spread in log compute of a side; not quite down to its irreducible loss, should a run lie there."""
    least = max(low, float(side.irreducible + 0.02 * (high - side.irreducible)))
    products = np.geomspace(float(side.at(high).product), float(side.at(least).product), LEVELS)
    return [float(side.loss_for(product)) for product in products]


def _decades(compute: float, low: float, high: float) -> float:
    return max(0.0, math.log10(compute / high), math.log10(low / compute))


def _tests(fitted: dict[str, Joint], form: str) -> pd.DataFrame:
    """The models: constants, residual spread, BIC, penalty, and the p value of the F test between each and "two factors", the smaller within the larger."""
    base = fitted.get("two factors" + form, fitted.get("one factor"))
    rows = []
    for name, joint in fitted.items():
        smaller, larger = sorted((joint, base or joint), key=lambda each: each.free)
        p = math.nan if joint.free == smaller.free == larger.free else joint_fit.f_test(smaller, larger)
        row = {"model": name, "constants": joint.free, "residual_sd": joint.residual_sd, "bic": joint_fit.bic(joint)}
        rows.append(row | {"p_against_two_factors": p, "penalty": joint.constant("penalty")})
    return pd.DataFrame(rows)
