"""Repeated data (Muennighoff et al. 2023) and over-training (Gadre et al. 2024)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

import fits
from fits.curve import Curve
from reproduced.drawing import count, label, note, plain, quantile_band, shades, spread
from reproduced.entry import Drawn, Entry
from scaling.plots import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, _axes, _styled

PUBLISHED = "muennighoff2023"
REPEATED, OVERTRAINED = "datablations-c4", "gadre-overtraining"
SHOWN = ((1.465e8, 1e8, ORANGE), (4.212e8, 1.5e9, PURPLE), (1.0963e9, 1.5e9, BLUE), (2.81e9, 4e9, GREEN), (4.2465e9, 12e9, RED))
FITTED_BELOW = 3.5  # nats
CORPORA = {"c4_original": "C4", "rpj": "RedPajama", "rw_original": "RefinedWeb"}


@_styled
def repetition_figure(draws: int) -> Drawn:
    """Loss against epochs of runs that repeat their data with the refitted law, and what repeated tokens are worth."""
    rows = fits.dataset(REPEATED, recipe=True)
    rows["epochs"] = rows["tokens"] / rows["unique_tokens"]
    refit = fits.fit(
        "data-constrained-tied",
        rows[rows["loss"] < FITTED_BELOW],
        bootstrap=draws,
        resample="clusters",
        cluster=["params", "unique_tokens"],
    )
    published = fits.load(PUBLISHED)
    figure, (left, right) = _axes(11.0, 4.8, columns=2)
    tables = [_losses(left, rows, refit), _worth(right, published, refit)]
    return figure, pd.concat(tables, ignore_index=True)


def _losses(axis: Axes, rows: pd.DataFrame, refit: Curve) -> pd.DataFrame:
    kept = []
    for params, unique, colour in SHOWN:
        part = rows[np.isclose(rows["params"], params, rtol=0.01) & np.isclose(rows["unique_tokens"], unique, rtol=0.01)].sort_values(
            "epochs"
        )
        epochs = np.geomspace(part["epochs"].min(), part["epochs"].max(), 80)
        line = np.asarray(refit.loss(params=np.full(80, params), tokens=epochs * unique, unique_tokens=np.full(80, unique)))
        for dots, face in ((part[part["loss"] < FITTED_BELOW], colour), (part[part["loss"] >= FITTED_BELOW], "white")):
            axis.plot(dots["epochs"], dots["loss"], "o", color=colour, markerfacecolor=face, markersize=5.5, zorder=3)
        axis.plot(epochs, line, color=colour, linewidth=1.6)
        axis.plot([], [], "o-", color=colour, label=f"{count(params)} on {count(unique)}")  # direct labels would cross the runs
        kept.append(part[["params", "unique_tokens", "tokens", "epochs", "loss"]].assign(what="run"))
        inputs = {
            "params": params,
            "unique_tokens": unique,
            "tokens": epochs * unique,
            "epochs": epochs,
            "loss": line,
            "what": "refitted law",
        }
        kept.append(pd.DataFrame(inputs))
    axis.legend(title="parameters on unique tokens", fontsize=8.5, title_fontsize=8.5, loc="upper left", bbox_to_anchor=(0.55, 1.0))
    note(axis, "hollow: above 3.5 nats, not fitted", "lower right")
    axis.set(xscale="log", yscale="log", xlabel="epochs (tokens seen / unique tokens)", ylabel="loss on C4 (nats per token)")
    axis.set_title("Repeating data: runs and the refitted law")
    plain(axis.xaxis, [1, 4, 16, 100, 1000])
    plain(axis.yaxis, [2.4, 2.6, 2.8, 3, 3.5, 4, 5])
    return pd.concat(kept)


def _worth(axis: Axes, published: Curve, refit: Curve) -> pd.DataFrame:
    epochs = np.geomspace(1, 200, 120)
    place = refit.law.constants.index("R_D")
    low, high = quantile_band(_effective(epochs, refit.draws_or_error()[:, [place]]))
    lines = {"published": _effective(epochs, published.constants["R_D"]), "refitted": _effective(epochs, refit.constants["R_D"])}
    axis.plot(epochs, epochs, color=BLACK, linewidth=1, linestyle=":")
    label(axis, "as good as new", (30, 30), BLACK, shift=(-6, 4), ha="right")
    spread(axis, epochs, low, high, BLUE)
    axis.plot(epochs, lines["published"], color=ORANGE, linewidth=2.2)
    axis.plot(epochs, lines["refitted"], color=BLUE, linewidth=2.2)
    for who, colour, name in (("published", ORANGE, "Muennighoff et al."), ("refitted", BLUE, "our fit, 95% band")):
        value = (published if who == "published" else refit).constants["R_D"]
        label(axis, f"{name}\n$R_D$ = {value:.3g}", (epochs[-1], lines[who][-1]), colour, shift=(5, 0))
    note(axis, f"our fit: {refit.about['rows']} runs with a loss below 3.5", "lower right")
    axis.set(xscale="log", yscale="log", xlim=(1, 2500), ylim=(0.9, 80), xlabel="epochs", ylabel="effective tokens / unique tokens")
    axis.set_title("What repeated tokens are worth")
    plain(axis.xaxis, [1, 4, 16, 40, 100])
    plain(axis.yaxis, [1, 2, 4, 8, 16, 32, 64])
    return pd.DataFrame(
        {
            "epochs": epochs,
            "effective_published": lines["published"],
            "effective_refitted": lines["refitted"],
            "low": low,
            "high": high,
            "what": "worth",
        }
    )


def _effective(epochs: np.ndarray, half_life: np.ndarray | float) -> np.ndarray:
    """D'/U of eq. 5 of Muennighoff et al. 2023."""
    return 1 + half_life * (1 - np.exp(-(epochs - 1) / half_life))


@_styled
def overtraining_figure(draws: int) -> Drawn:
    """Loss against tokens per parameter: 104 runs, the law fitted to five small ones of each corpus, asked of all."""
    rows, five = fits.dataset(OVERTRAINED), fits.dataset(OVERTRAINED, recipe=True)
    for frame in (rows, five):
        frame["tokens_per_param"] = frame["tokens"] / frame["params"]
    figure, axes = _axes(12.0, 4.6, columns=3)
    kept = []
    for axis, (corpus, title) in zip(axes, CORPORA.items(), strict=True):
        used = five[five["corpus"] == corpus]
        curve = fits.fit("overtraining", used, objective="squared")
        part = rows[rows["corpus"] == corpus].copy()
        part["predicted"] = np.asarray(
            curve.evaluate(flops=part["flops"].to_numpy(float), tokens_per_param=part["tokens_per_param"].to_numpy(float))
        )
        part["fitted"] = part["name"].isin(used["name"])
        kept.append(part[["corpus", "params", "tokens", "tokens_per_param", "flops", "loss", "predicted", "fitted"]])
        _panel(axis, part, curve, title)
    axes[0].set_ylabel("loss on C4 evaluation data (nats per token)")
    return figure, pd.concat(kept)


def _panel(axis: Axes, part: pd.DataFrame, curve: Curve, title: str) -> None:
    sizes = sorted(part["params"].unique())
    for size, shade in zip(sizes, shades(len(sizes)), strict=True):
        own = part[part["params"] == size].sort_values("tokens_per_param")
        ratios = np.geomspace(4.5, 700, 80)
        axis.plot(ratios, np.asarray(curve.evaluate(flops=6 * size**2 * ratios, tokens_per_param=ratios)), color=shade, linewidth=1.4)
        for kind, face in ((True, shade), (False, "white")):
            dots = own[own["fitted"] == kind]
            axis.plot(dots["tokens_per_param"], dots["loss"], "o", color=shade, markerfacecolor=face, markersize=5.5, zorder=3)
        label(axis, count(size), (ratios[-1], float(curve.evaluate(flops=6 * size**2 * ratios[-1], tokens_per_param=ratios[-1]))), shade)
    ahead = part[(part["params"] > 1e9) & (part["tokens_per_param"] > 10)]
    error = (ahead["predicted"] / ahead["loss"] - 1).abs().max()
    note(axis, f"filled: fitted (5 runs); hollow: predicted\n1.4B and 6.9B: within {error:.1%}")
    axis.set(xscale="log", yscale="log", xlabel="tokens per parameter", title=f"Trained on {title}", xlim=(4.5, 1500), ylim=(1.85, 6.4))
    plain(axis.xaxis, [5, 20, 80, 320])
    plain(axis.yaxis, [2.3, 2.5, 3, 3.5, 4, 5])


FIGURES = (
    Entry(
        "repetition",
        "loss against epochs, and what repeated tokens are worth: published and refitted",
        repetition_figure,
        (REPEATED,),
        (PUBLISHED,),
    ),
    Entry("overtraining", "over-trained models of three corpora, predicted from five small runs each", overtraining_figure, (OVERTRAINED,)),
)
