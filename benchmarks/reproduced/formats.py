"""Precision (Kumar et al. 2024): what bits are worth in parameters, and how many of them pay."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

import fits
from fits.curve import Curve
from reproduced.drawing import count, label, note, plain, shades
from reproduced.entry import Drawn, Entry
from scaling.plots import BLACK, BLUE, GREEN, ORANGE, _axes, _styled

TRAINED, AFTERWARDS = "kumar2024", "kumar2024-post-training"
PLACES = {
    "bits_weights": ("weights", "gamma_w", BLUE),
    "bits_activations": ("activations", "gamma_a", ORANGE),
    "bits_cache": ("attention cache", "gamma_kv", GREEN),
}
BITS = np.linspace(2, 16, 57)
BUDGETS = (1e17, 1e19, 1e21)
SIZE = 2.2e8


@_styled
def precision_figure(draws: int) -> Drawn:
    """Effective parameters by bits, the loss at equal cost in bits, and what rounding afterwards adds as data grow."""
    trained = fits.load(TRAINED)
    figure, axes = _axes(12.6, 4.4, columns=3)
    parts = [_effective(axes[0], trained), _optimal(axes[1], trained), _afterwards(axes[2])]
    return figure, pd.concat(parts, ignore_index=True)


def _effective(axis: Axes, curve: Curve) -> pd.DataFrame:
    columns = {"bits": BITS}
    for place, (name, gamma, colour) in PLACES.items():
        share = 1 - np.exp(-BITS / curve.constants[gamma])
        columns[f"share_{place}"] = share
        axis.plot(BITS, share, color=colour, linewidth=2, label=name)
    together = np.prod([columns[f"share_{place}"] for place in PLACES], axis=0)
    axis.plot(BITS, together, "--", color=BLACK, linewidth=1.6, label="all three")
    columns["share_all"] = together
    axis.legend(loc="lower right")  # the lines run too close for names beside them
    axis.set(xlabel="bits in training", ylabel="effective / counted parameters", ylim=(0, 1.05), title="What bits are worth")
    axis.set_xticks([2, 4, 6, 8, 12, 16])
    return pd.DataFrame(columns).assign(what="effective parameters")


def _optimal(axis: Axes, curve: Curve) -> pd.DataFrame:
    """Loss at the optimum of size and tokens when cost is proportional to N D bits: C = 6 N D bits/16 (section 4 of the paper), all three at the same bits."""
    kept = []
    for budget, shade in zip(BUDGETS, shades(len(BUDGETS)), strict=True):
        loss = np.array([curve.optimal(budget * 16 / bits, **dict.fromkeys(PLACES, bits)).loss for bits in BITS])
        axis.plot(BITS, loss - loss.min(), color=shade, linewidth=2)
        best = int(loss.argmin())
        axis.plot(BITS[best], 0, "D", color=shade, markersize=6, zorder=4, clip_on=False)
        label(axis, f"$10^{{{np.log10(budget):.0f}}}$ FLOP", (BITS[-1], (loss - loss.min())[-1]), shade)
        kept.append(pd.DataFrame({"flops": budget, "bits": BITS, "loss": loss, "what": "equal cost in bits"}))
    best = BITS[int(kept[-1]["loss"].argmin())]
    note(axis, f"least: {best:.1f} bits at every budget\n(the paper says 7 to 8; its printed\nconstants do not give that)", "upper left")
    axis.set(
        xlabel="bits of weights, activations and cache",
        ylabel="loss over the least (nats per token)",
        title="Which pay at C = 6 N D bits / 16",
    )
    axis.set(xlim=(3, 20.5), ylim=(0, 0.42))
    axis.set_xticks([4, 6, 8, 12, 16])
    return pd.concat(kept)


def _afterwards(axis: Axes) -> pd.DataFrame:
    curve, kept = fits.load(AFTERWARDS), []
    ratios = np.geomspace(10, 1000, 41)
    bits = (3, 4, 5, 6)
    for each, shade in zip(bits, shades(len(bits)), strict=True):
        added = np.asarray(curve.evaluate(non_embedding_params=np.full(41, SIZE), tokens=ratios * SIZE, bits=np.full(41, each)))
        axis.plot(ratios, added, color=shade, linewidth=2)
        label(axis, f"{each} bits", (ratios[-1], added[-1]), shade)
        kept.append(
            pd.DataFrame(
                {"non_embedding_params": SIZE, "tokens_per_param": ratios, "bits": each, "added": added, "what": "rounded after training"}
            )
        )
    edge = 2.6e10 / SIZE
    axis.axvline(edge, color=BLACK, linewidth=0.8, linestyle=":")
    note(axis, f"{count(SIZE)} parameters;\ndotted: most tokens of the fit", "lower right")
    axis.set(
        xscale="log",
        yscale="log",
        xlim=(10, 2200),
        ylim=(5e-5, 1),
        xlabel="tokens per parameter",
        ylabel="added loss (nats per token)",
        title="Weights rounded after training",
    )
    plain(axis.xaxis, [10, 30, 100, 300, 1000])
    plain(axis.yaxis, [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1])
    return pd.concat(kept)


FIGURES = (
    Entry(
        "precision",
        "effective parameters by bits, the bits that pay, and rounding after training",
        precision_figure,
        curves=(TRAINED, AFTERWARDS),
    ),
)
