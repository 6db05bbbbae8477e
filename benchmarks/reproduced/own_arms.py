"""What this project's own variants save or cost at equal loss, and how loss moves with experts, bits and repetition."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from multipliers import comparable
from own import LADDER

import fits
from fits.curve import Curve
from reproduced.drawing import interval, label, note, plain, shades
from reproduced.entry import OWN, Absent, Drawn, Entry
from reproduced.own_dense import RUNS, dense
from scaling.errors import InputError
from scaling.measurement import measure_multiplier
from scaling.plots import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, _axes, _plain_log_ticks, _power_of_ten, _styled

CORPUS = "pd-prose-v1-train"
STUDENTS = OWN / "own-distillation.json"
KINDS: tuple[tuple[str, str, str], ...] = (  # start of an arm's name, kind, colour
    ("moe", "experts", BLUE),
    ("laggard", "older recipe", RED),
    ("muon", "optimiser", GREEN),
    ("distilled", "teacher", SKY),
    ("unique-", "repeated data", ORANGE),
    ("cosine", "schedule", BLACK),
    ("no-decay", "schedule", BLACK),
)
WORST = 3.0  # nats, the end of the axis of repetition
LEAST, MOST = 0.1, 4.0  # of the axis of multipliers; beyond it an arrow


def arms() -> pd.DataFrame:
    """All finished runs on prose."""
    runs = fits.own_runs()
    return runs[runs["corpus"].str.startswith(CORPUS) & (runs["status"] == "done")]


def _kind(arm: str) -> tuple[str, str]:
    return next(((kind, colour) for start, kind, colour in KINDS if arm.startswith(start)), ("number format", PURPLE))


def multipliers(wanted: Callable[[str], bool]) -> pd.DataFrame:
    """Compute multiplier over dense of every wanted arm that has pairs, with its 95% interval; above 1 it saves compute."""
    runs, baseline = comparable(arms()), fits.own_runs(LADDER)
    curve = fits.fit("chinchilla", baseline, bootstrap=400)  # as benchmarks/multipliers.py does
    rows = []
    for arm, variant in runs[runs["arm"] != "dense"].groupby("arm"):
        if not wanted(str(arm)):
            continue
        try:
            found = measure_multiplier(baseline, variant, pairs=True, curve=curve)
        except InputError:
            continue  # no dense run of its widths, budgets and seeds yet
        pairs = found.pairs
        rows.append((arm, _kind(str(arm))[0], *found.multiplier, len(pairs), pairs["flops"].min(), pairs["flops"].max()))
    return pd.DataFrame(rows, columns=["arm", "kind", "multiplier", "low", "high", "pairs", "least_flops", "most_flops"])


@_styled
def multipliers_figure(draws: int) -> Drawn:
    """What every variant saves or costs, as dots with intervals."""
    table = multipliers(lambda arm: ":" not in arm).sort_values("multiplier").reset_index(drop=True)
    if table.empty:
        raise Absent("no runs of arms beside dense ones yet (benchmarks/plans/arms.toml)")
    return _dots(table, "Compute multiplier over dense at equal loss, 95% interval"), table


@_styled
def laggard_figure(draws: int) -> Drawn:
    """The older recipe taken apart: every subset of its four parts."""
    table = multipliers(lambda arm: arm.startswith("laggard:")).sort_values("multiplier").reset_index(drop=True)
    if table.empty:
        raise Absent("no runs of parts of the older recipe yet (benchmarks/plans/laggard.toml)")
    return _dots(table, "The older recipe, part by part, 95% interval"), table


def _dots(table: pd.DataFrame, title: str) -> Figure:
    figure, (axis,) = _axes(8.4, 1.3 + 0.27 * len(table))
    for place, row in enumerate(table.to_dict("records")):
        colour = _kind(row["arm"])[1]
        value, low, high = (min(max(row[name], LEAST), MOST) for name in ("multiplier", "low", "high"))
        if LEAST < row["multiplier"] < MOST:
            interval(axis, value, place, (low, high), colour, across=True)
        else:
            axis.plot([value], [place], "<" if value == LEAST else ">", color=colour, clip_on=False)
        label(axis, f"{row['multiplier']:.2f}  [{row['low']:.2f}, {row['high']:.2f}]", (MOST, place), colour, shift=(6, 0))
    axis.axvline(1, color=BLACK, linewidth=1)
    axis.set(
        xscale="log", xlim=(LEAST, MOST), xlabel="compute saved (above 1) or lost, a factor", title=title, ylim=(-0.7, len(table) - 0.3)
    )
    axis.set_yticks(
        range(len(table)), [f"{name}  ({pairs} pairs)" for name, pairs in zip(_names(table["arm"]), table["pairs"], strict=True)]
    )
    plain(axis.xaxis, [0.1, 0.2, 0.5, 1, 2, 4])
    kinds = dict.fromkeys(_kind(arm) for arm in table["arm"][::-1])
    for place, (kind, colour) in enumerate(kinds if len(kinds) > 1 else ()):
        axis.annotate(kind, (0, 1), (8, -14 - 14 * place), xycoords="axes fraction", textcoords="offset points", color=colour)
    return figure


def _names(arms: pd.Series) -> list[str]:
    """What is before a colon is the same for all and left out."""
    return [arm.partition(":")[2].replace("+", " + ") or arm for arm in arms]


def _means(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean losses over seeds with their standard error."""
    grouped = rows.groupby(by)["loss"]
    table = grouped.agg(["mean", "std", "count"]).reset_index()
    return table.assign(se=table["std"] / np.sqrt(table["count"])).rename(columns={"mean": "loss", "count": "seeds"}).drop(columns="std")


def _compared(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Mean losses of the widths and budgets that have several values of a column."""
    table = _means(rows, ["width", "budget", by])
    table = table[table.groupby(["width", "budget"])[by].transform("nunique") > 1]
    if table.empty:
        raise Absent("no runs of these arms beside dense ones yet (benchmarks/plans/arms.toml)")
    return table


def _lines(axis: Axes, table: pd.DataFrame, x: str, groups: list[str], names: Callable[[tuple], str]) -> None:
    """A line a group through means with their standard errors, its name at its start."""
    parts = [(key, part.sort_values(x)) for key, part in table.groupby(groups)]
    for (key, part), shade in zip(parts, shades(len(parts)), strict=True):
        axis.errorbar(part[x], part["loss"], part["se"], fmt="o-", color=shade, markersize=5, linewidth=1.4, capsize=2)
        label(axis, names(key), (part[x].iloc[0], part["loss"].iloc[0]), shade, shift=(-6, 0), ha="right", fontsize=8.5)


@_styled
def experts_figure(draws: int) -> Drawn:
    """Loss against the number of experts at equal budgets; dense is one expert."""
    runs = arms()
    rows = pd.concat([dense(), runs[runs["arm"].isin(["moe4", "moe8", "moe16", "moe32", "moe64"])]])
    table = _compared(rows.assign(experts=rows["experts"].clip(lower=1)), "experts")
    figure, axes = _axes(10.5, 4.6, columns=table["width"].nunique())
    for axis, (width, part) in zip(axes, table.groupby("width"), strict=True):
        _lines(axis, part, "experts", ["budget"], lambda key: f"{_power_of_ten(key[0])} FLOP")
        axis.set(xscale="log", yscale="log", xlabel="experts (two a token; 1: dense)", title=f"Width {width}", xlim=(0.2, 90))
        axis.set_ylim(0.985 * table["loss"].min(), 1.015 * table["loss"].max())
        plain(axis.xaxis, [1, 4, 8, 16, 32, 64])
        _plain_log_ticks(axis)
    axes[0].set_ylabel("validation loss (nats per byte), mean of seeds")
    note(axes[0], "bars: standard error over seeds", "lower left")
    return figure, table


@_styled
def precision_figure(draws: int) -> Drawn:
    """Loss over fp32 against bits: of the weights alone, and of whole formats."""
    runs = arms()
    alone, whole = {"w3": 3, "w4": 4, "w6": 6}, {"int4": 4, "int8": 8, "fp8": 8, "bf16": 16}
    base = _means(dense(), ["width", "budget"]).set_index(["width", "budget"])
    table = _means(runs[runs["arm"].isin([*alone, *whole])], ["width", "budget", "arm"])
    if table.empty:
        raise Absent("no runs of number formats yet (benchmarks/plans/arms.toml)")
    table["bits"] = table["arm"].map(alone | whole)
    table["what"] = np.where(table["arm"].isin(alone), "weights", "whole format")
    table = table[[pair in base.index for pair in zip(table["width"], table["budget"], strict=True)]]
    reference = base.loc[list(zip(table["width"], table["budget"], strict=True))]
    table["over"] = table["loss"].to_numpy() - reference["loss"].to_numpy()
    table["over_se"] = np.hypot(table["se"].to_numpy(), reference["se"].to_numpy())
    figure, axes = _axes(10.5, 4.4, columns=2)
    for axis, what in zip(axes, ("weights", "whole format"), strict=True):
        part = table[table["what"] == what]
        keys = sorted(set(zip(part["width"], part["budget"], strict=True)))
        for number, ((width, budget), shade) in enumerate(zip(keys, shades(len(keys)), strict=True)):
            own = part[(part["width"] == width) & (part["budget"] == budget)].sort_values("bits")
            style = ("o" if width == keys[0][0] else "s") + ("-" if what == "weights" else "")
            at = own["bits"] if what == "weights" else own["arm"].map(list(whole).index)
            place = at + 0.08 * (number - (len(keys) - 1) / 2)
            axis.errorbar(
                place,
                own["over"],
                own["over_se"],
                fmt=style,
                color=shade,
                markersize=5,
                capsize=2,
                linewidth=1.4,
                label=f"width {width}, {_power_of_ten(budget)} FLOP",
            )
        axis.axhline(0, color=BLACK, linewidth=1)
        axis.set_title("Weights alone" if what == "weights" else "Weights, activations and cache")
    axes[0].set_ylabel("loss over fp32 (nats per byte)")
    axes[0].set_xticks([3, 4, 6])
    axes[0].set_xlabel("bits")
    axes[1].set_xticks(range(len(whole)), list(whole))
    axes[1].set_xlabel("number format")
    axes[0].legend(fontsize=8.5)
    note(axes[1], "bars: standard error over seeds", "upper right")
    return figure, table


@_styled
def repetition_figure(draws: int) -> Drawn:
    """Loss against epochs at equal budgets: the same tokens seen, fewer of them new."""
    runs = arms()
    rows = pd.concat([dense(), runs[runs["arm"].str.startswith("unique-")]])
    table = _compared(rows.assign(epochs=(rows["tokens"] / rows["unique_tokens"]).clip(lower=1).round(3)), "epochs")
    figure, axes = _axes(10.5, 4.6, columns=table["width"].nunique())
    for axis, (width, part) in zip(axes, table.groupby("width"), strict=True):
        _lines(axis, part, "epochs", ["budget"], lambda key: f"{_power_of_ten(key[0])} FLOP")
        axis.set(xscale="log", yscale="log", xlabel="epochs (tokens seen / unique tokens)", title=f"Width {width}")
        axis.set(xlim=(0.25, 64), ylim=(1.55, WORST))
        plain(axis.xaxis, [1, 2, 4, 8, 16, 32, 64])
        plain(axis.yaxis, [1.6, 1.8, 2, 2.5, 3])
        for _, row in part[part["loss"] > WORST].iterrows():
            note(axis, f"{row['loss']:.1f} nats at {row['epochs']:.0f} epochs", "upper left", shades(3)[2])
    axes[0].set_ylabel("validation loss (nats per byte), mean of seeds")
    note(axes[0], "bars: standard error over seeds", "lower right")
    return figure, table


@_styled
def students_figure(draws: int) -> Drawn:
    """Students' losses against their teacher's, beside what they reach alone."""
    runs, curve = arms(), fits.load("own-distillation")
    taught = runs[runs["arm"].str.startswith("distilled:")]
    alone = _means(dense(), ["width", "budget"]).set_index(["width", "budget"])["loss"]
    by = ["width", "budget", "non_embedding_params", "tokens", "teacher_loss"]
    table = _means(taught, by)
    table["alone"] = [alone.get((width, budget), np.nan) for width, budget in zip(table["width"], table["budget"], strict=True)]
    table["law"] = curve.evaluate(**{name: table[name].to_numpy(float) for name in curve.law.inputs})
    figure, axes = _axes(12.0, 4.8, columns=table["width"].nunique())
    lines = []
    for axis, (width, part) in zip(axes, table.groupby("width"), strict=True):
        lines += [line.assign(width=width, what="law") for line in _taught(axis, part, curve)]
        axis.set(xlabel="teacher's loss (nats per byte)", title=f"Width {width}")
        axis.sharey(axes[0])
    axes[0].set_ylabel("student's loss (nats per byte), mean of seeds")
    note(axes[0], "line: fitted law\ndotted: without a teacher", "upper left")
    return figure, pd.concat([table.assign(what="mean of seeds"), *lines], ignore_index=True)


def _taught(axis: Axes, part: pd.DataFrame, curve: Curve) -> list[pd.DataFrame]:
    """Students of one width; returns the law's lines."""
    lines = []
    ends = np.linspace(part["teacher_loss"].min() - 0.02, part["teacher_loss"].max() + 0.02, 80)
    budgets = sorted(part["budget"].unique())
    for budget, shade in zip(budgets, shades(len(budgets)), strict=True):
        own = part[part["budget"] == budget].sort_values("teacher_loss")
        first = own.iloc[0]
        line = curve.evaluate(
            non_embedding_params=np.full(80, first["non_embedding_params"]), tokens=np.full(80, first["tokens"]), teacher_loss=ends
        )
        lines.append(pd.DataFrame({"budget": budget, "teacher_loss": ends, "law": line}))
        axis.plot(ends, line, color=shade, linewidth=1.6)
        axis.errorbar(own["teacher_loss"], own["loss"], own["se"], fmt="o", color=shade, markersize=5, capsize=2)
        axis.plot(ends[[0, -1]], [first["alone"]] * 2, ":", color=shade, linewidth=1.3)
        label(axis, f"{_power_of_ten(budget)} FLOP", (ends[0], first["alone"]), shade, shift=(0, -7), fontsize=8.5)
    return lines


FIGURES = (
    Entry("own-multipliers", "what every variant of ours saves or costs in compute at equal loss", multipliers_figure, files=(RUNS,)),
    Entry("own-laggard", "the older recipe taken apart", laggard_figure, files=(RUNS,)),
    Entry("own-experts", "our losses against the number of experts", experts_figure, files=(RUNS,)),
    Entry("own-precision", "our losses against bits", precision_figure, files=(RUNS,)),
    Entry("own-distillation", "our students against their teachers", students_figure, files=(RUNS, STUDENTS)),
    Entry("own-repetition", "our losses against epochs", repetition_figure, files=(RUNS,)),
)
