"""This project's own dense runs: profiles, registered predictions, exponents beside the published ones, and a source of known entropy."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from own_curves import DEEP, GRM, dense_rows

import fits
from fits.curve import Curve
from reproduced.drawing import count, interval, label, note, plain, quantile_band, shades, spread
from reproduced.entry import OWN, Drawn, Entry
from scaling import plots
from scaling.plots import BLACK, BLUE, ORANGE, RED, _axes, _plain_log_ticks, _styled

RUNS, PREDICTIONS = OWN / "runs.csv", OWN / "predictions.csv"
PROSE, MARKOV = OWN / "own-dense-prose.json", (OWN / "own-dense-grm.json", OWN / "own-dense-grm-deep.json")
KNOWN = (("order 7", GRM, "own-dense-grm"), ("order 14", DEEP, "own-dense-grm-deep"))  # source, start of its corpus' name, curve
FITTED_BELOW = 4e12  # FLOP: what the registered predictions were fitted to
CLUSTERS = ["params", "tokens"]
LAWS = (
    "hoffmann2022",
    "besiroglu2024",
    "muennighoff2023-single-epoch",
    "gadre2024-redpajama",
    "aghajanyan2023-text",
    "aghajanyan2023-code",
)
ALLOCATIONS = ("kaplan2020-params", "porian2024-refinedweb-tuned", "deepseek2024-flops-per-token")  # which print the exponent of size alone


def dense(corpus: str = "pd-prose-v1-train") -> pd.DataFrame:
    """The dense runs on a corpus at the tuned rate, those beyond the fit marked as held out."""
    runs = fits.own_runs()
    runs = runs[dense_rows(runs, corpus) & (runs["status"] == "done")]
    return runs.assign(holdout=runs["flops"] > FITTED_BELOW)


def fitted(runs: pd.DataFrame, draws: int) -> Curve:
    """Chinchilla's law of the runs below the limit; seeds of one size and horizon are drawn together."""
    return fits.fit("chinchilla", runs[~runs["holdout"]], bootstrap=draws, resample="clusters", cluster=CLUSTERS)


def profiles(draws: int) -> Drawn:
    """isoFLOP profiles of the dense ladder with the fitted law; what the fit did not see is hollow."""
    runs = dense()
    curve = fitted(runs, 0)
    predicted = curve.loss(params=runs["params"].to_numpy(float), tokens=runs["tokens"].to_numpy(float))
    columns = ["width", "params", "tokens", "flops", "budget", "seed", "loss", "loss_se", "holdout"]
    figure = plots.isoflop_figure(runs, curve)
    side = figure.axes[0].xaxis
    plain(side, [each for each in (3e4, 5e4, 1e5, 2e5, 4e5, 8e5) if runs["params"].min() / 1.5 < each < 2 * runs["params"].max()])
    side.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
    return figure, runs[columns].assign(predicted=predicted)


@_styled
def predictions_figure(draws: int) -> Drawn:
    """Losses registered before the runs were made, with their bands, beside the runs made later; and the errors."""
    runs, told = dense(), pd.read_csv(PREDICTIONS)
    curve = fitted(runs, draws)
    told["made"], told["loss"] = zip(*(_made(runs, line) for line in told.to_dict("records")), strict=True)
    figure, (left, right) = _axes(11.0, 4.8, columns=2)
    flops = np.geomspace(runs["flops"].min() / 1.5, 1.6 * max(told["flops"].max(), runs["flops"].max()), 80)
    low, high = quantile_band(curve.frontier_draws(flops))
    line = pd.DataFrame({"flops": flops, "loss": [curve.optimal(each).loss for each in flops], "low": low, "high": high})
    spread(left, flops, low, high, BLUE)
    left.plot(flops, line["loss"], color=BLUE, linewidth=2)
    known = runs[~runs["holdout"]]
    left.plot(known["flops"], known["loss"], "o", color=BLACK, alpha=0.55, markersize=4.5)
    _bars(left, told, runs)
    left.axvline(FITTED_BELOW, color=BLACK, linewidth=0.8, linestyle=":")
    note(left, "line: frontier of the law fitted left of the dotted\nline, with its 95% band; bars: as registered", "lower left", BLUE)
    left.set(xscale="log", yscale="log", xlabel="training compute (FLOP, exact count)", ylabel="validation loss (nats per byte)")
    left.set_title("Registered first, trained later")
    _plain_log_ticks(left)
    _errors(right, told)
    shown = runs[["width", "params", "tokens", "flops", "seed", "loss"]]
    parts = {"prediction": told.rename(columns={"loss": "mean_loss"}), "run": shown, "frontier": line}
    return figure, pd.concat([part.assign(what=what) for what, part in parts.items()], ignore_index=True)


def _made(runs: pd.DataFrame, line: Mapping[Hashable, Any]) -> tuple[int, float]:
    """How many runs were made of a prediction, and their mean loss."""
    own = runs[(runs["width"] == line["width"]) & ((runs["flops"] / line["flops"] - 1).abs() < 0.01)]
    return len(own), float(own["loss"].mean())


def _bars(axis: Axes, told: pd.DataFrame, runs: pd.DataFrame) -> None:
    held = runs[runs["holdout"]]
    axis.plot(held["flops"], held["loss"], "D", color=RED, markersize=5, zorder=4)
    for _, same in told.groupby("flops"):
        for place, (_, line) in enumerate(same.iterrows()):  # side by side where the budget is one
            at = line["flops"] * 1.12 ** (place + 1)
            interval(axis, at, line["chinchilla"], (line["chinchilla_low"], line["chinchilla_high"]), BLUE, markersize=5)
    last = told.sort_values("flops").iloc[-1]
    label(axis, "predicted, 95%", (1.12 * last["flops"], last["chinchilla_high"]), BLUE, shift=(14, 60), ha="right")
    if len(held):
        label(axis, "runs", (held["flops"].max(), held["loss"].min()), RED, shift=(-10, -8), ha="right")


def _errors(axis: Axes, told: pd.DataFrame) -> None:
    for place, (_, line) in enumerate(told.iterrows()):
        for name, colour, step in (("chinchilla", BLUE, 0.12), ("ensemble", ORANGE, -0.12)):
            if not np.isfinite(line["loss"]):
                label(axis, "not trained yet", (0, place), "#777777", shift=(6, 0))
                break
            centre, *ends = (100 * (line[each] / line["loss"] - 1) for each in (name, f"{name}_low", f"{name}_high"))
            interval(axis, centre, place + step, (ends[0], ends[1]), colour, across=True)
            label(axis, f"{centre:+.2f}%", (centre, place + step), colour, shift=(0, 9), ha="center", fontsize=8.5)
    axis.axvline(0, color=BLACK, linewidth=1)
    axis.set_yticks(
        range(len(told)),
        [
            f"{line.flops:.0e} FLOP\nwidth {line.width}, {line.times_beyond:.1f}x beyond its fit\n{line.made} runs"
            for line in told.itertuples()
        ],
    )
    axis.set(xlabel="prediction over the runs' mean loss (%)", title="Error, with the registered 95% band", ylim=(-0.6, len(told) - 0.2))
    note(axis, "blue: one law; orange: ensemble of laws", "upper right")
    axis.grid(axis="y", visible=False)


@_styled
def exponents_figure(draws: int) -> Drawn:
    """Exponents of our own curves beside published ones, with 95% intervals where there are draws."""
    curves = [fits.load(name) for name in (*(each for each in fits.own() if each.startswith("own-dense")), *LAWS)]
    rows = [row for curve in curves for row in _exponents(curve)]
    rows += [(name, "a", fits.load(name).constants["a"], np.nan, np.nan) for name in ALLOCATIONS]
    table = pd.DataFrame(rows, columns=["curve", "exponent", "value", "low", "high"])
    names = list(dict.fromkeys(table["curve"]))
    figure, axes = _axes(11.5, 1.2 + 0.34 * len(names), columns=3)
    titles = {"alpha": r"$\alpha$: parameters", "beta": r"$\beta$: tokens", "a": r"$a$ of $N^*\propto C^a$"}
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        for _, row in table[table["exponent"] == key].iterrows():
            ours = row["curve"].startswith("own-")
            ends = (row["low"], row["high"]) if np.isfinite(row["low"]) else None
            interval(axis, row["value"], len(names) - 1 - names.index(row["curve"]), ends, BLUE if ours else BLACK, across=True)
        axis.set_title(title)
        axis.set_yticks(range(len(names)), names[::-1] if axis is axes[0] else [""] * len(names))
        axis.set_ylim(-0.6, len(names) - 0.4)
    axes[2].axvline(0.5, color=BLACK, linewidth=0.8, linestyle=":")
    note(axes[0], "hollow: no interval known", "lower right")
    return figure, table


def _exponents(curve: Curve) -> list[tuple[str, str, float, float, float]]:
    """alpha, beta and a with the ends of their 95% intervals; a law of one exponent for both has the one."""
    constants = curve.constants
    names = [name for name in ("alpha", "beta") if name in constants]
    if "eta" in constants:  # Gadre et al.: both exponents are twice eta
        return [(curve.name, name, 2 * constants["eta"], np.nan, np.nan) for name in ("alpha", "beta")]
    draws = None if curve.draws is None else dict(zip(curve.law.constants, curve.draws.T, strict=True))
    rows = []
    for name in ("alpha", "beta"):
        own = name if name in names else "alpha"
        ends = (np.nan, np.nan) if draws is None else np.quantile(draws[own], [0.025, 0.975])
        rows.append((curve.name, name, constants[own], float(ends[0]), float(ends[1])))
    if len(names) == 2:
        ends = (np.nan, np.nan) if draws is None else np.quantile(draws["beta"] / (draws["alpha"] + draws["beta"]), [0.025, 0.975])
        rows.append((curve.name, "a", constants["beta"] / (constants["alpha"] + constants["beta"]), float(ends[0]), float(ends[1])))
    return rows


@_styled
def entropy_figure(draws: int) -> Drawn:
    """Losses on a source whose entropy is known, approaching it, and the entropies that fits to two such sources find."""
    figure, (left, right) = _axes(11.0, 4.6, columns=2)
    tables = [_known(name, corpus, curve) for name, corpus, curve in KNOWN]
    _approach(left, tables[0])
    for place, table in enumerate(tables[::-1]):
        line = table.iloc[0]
        truth = line["truth"]
        ends = (line["E_low"] - truth, line["E_high"] - truth)
        interval(right, line["E"] - truth, place, ends, BLUE, across=True)
        text = f"{line['source']}: fitted {line['E']:.4f} [{line['E_low']:.4f}, {line['E_high']:.4f}], truth {truth:.4f}"
        label(right, text, (0.03, place + 0.15), BLUE, shift=(0, 0), xycoords=("axes fraction", "data"), backgroundcolor="white")
    right.axvline(0, color=RED, linewidth=1.6)
    right.set(ylim=(-0.6, len(tables) - 0.3), xlabel="irreducible loss less the true entropy (nats per symbol)")
    right.set_title("The entropy that the runs give, 95% interval")
    right.set_yticks([])
    right.margins(x=0.6)
    return figure, pd.concat(tables, ignore_index=True)


def _known(name: str, corpus: str, curve: str) -> pd.DataFrame:
    """The runs on a source, its true entropy and the one that the fit gives."""
    runs, fitted_curve = dense(corpus), fits.load(curve)
    low, high = fitted_curve.interval(0.95)["E"]
    columns = ["width", "params", "tokens", "flops", "seed", "loss", "loss_se"]
    facts = {"source": name, "truth": known_entropy(corpus), "E": fitted_curve.constants["E"], "E_low": low, "E_high": high}
    frontier = [fitted_curve.optimal(each).loss for each in runs["flops"]]
    return runs[columns].assign(**facts, frontier=frontier)


def _approach(axis: Axes, table: pd.DataFrame) -> None:
    """How far the losses of every size lie above the entropy."""
    truth = float(table["truth"].iloc[0])
    sizes = sorted(table["params"].unique())
    for size, shade in zip(sizes, shades(len(sizes)), strict=True):
        own = table[table["params"] == size].groupby("tokens", as_index=False)[["loss", "flops"]].mean()
        axis.plot(own["flops"], own["loss"] - truth, "o-", color=shade, markersize=5, linewidth=1.2)
        late = own["flops"].iloc[0] > 2e11  # those begin within the others' lines: their labels go to the right of the first point
        at = own["flops"].iloc[0], own["loss"].iloc[0] - truth
        shift = (6, 6 if at[0] < 5e12 else -12) if late else (-6, 0)
        label(axis, f"{count(size)} parameters", at, shade, shift=shift, ha="left" if late else "right", fontsize=8.5)
    line = table.sort_values("flops")
    axis.plot(line["flops"], line["frontier"] - truth, color=BLUE, linewidth=2)
    axis.set(
        xscale="log", yscale="log", xlabel="training compute (FLOP, exact count)", ylabel="loss less the true entropy (nats per symbol)"
    )
    axis.set_xlim(table["flops"].min() / 12, 8 * table["flops"].max())
    axis.set_title(f"What is left to learn of a known source ({table['source'].iloc[0]})")
    _plain_log_ticks(axis)


def known_entropy(corpus: str) -> float:
    """The entropy rate of a source, nats per symbol, from its tables: solved (order 7), or a mean along 4 million tokens (order 14)."""
    from scaling.data import grm, markov

    return float(markov.entropy(markov.build_source(grm.parse("grm:deep" if corpus == DEEP else grm.NAME))).rate)


FIGURES = (
    Entry("own-profiles", "isoFLOP profiles of our dense runs with the fitted law", profiles, files=(RUNS,)),
    Entry(
        "own-predictions", "losses registered before the runs, with bands, beside the runs", predictions_figure, files=(RUNS, PREDICTIONS)
    ),
    Entry("own-exponents", "our exponents beside the published ones", exponents_figure, curves=LAWS + ALLOCATIONS, files=(PROSE,)),
    Entry(
        "own-entropy", "a source of known entropy: losses approaching it, and the E fitted to two", entropy_figure, files=(RUNS, *MARKOV)
    ),
)
