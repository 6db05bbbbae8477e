"""Why Kaplan and Chinchilla differ: the stages of Porian et al. 2024, from their isoFLOP profiles."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

import fits
from fits.isoflops import Optima, isoflop
from reproduced.drawing import interval, label, note, shades
from reproduced.entry import Drawn, Entry
from scaling.plots import BLACK, BLUE, ORANGE, _axes, _styled

PROFILES, PUBLISHED = "porian-isoflops", "porian-published-fits"
STAGES = ("Kaplan's recipe", "head counted", "short warm-up", "decay to the budget", "tuned")
CORPORA = {"summary_df": ("RefinedWeb", 0.002), "summary_df_owt2": ("OpenWebText2", 0.01)}  # noise of a loss, nats, as in refits.py


def exponents(draws: int) -> tuple[pd.DataFrame, dict[tuple[str, int], Optima]]:
    """a of N* ~ C^a at every stage of both corpora: ours by Akima interpolation with 95% intervals, and theirs."""
    profiles = fits.dataset(PROFILES)
    theirs = fits.dataset(PUBLISHED, raw=True).set_index(["file", "row", "fit"])["n_exponent"]
    rows, found = [], {}
    for file, (corpus, noise) in CORPORA.items():
        for row, stage in enumerate(STAGES):
            part = profiles[(profiles["file"] == file) & (profiles["row"] == row)]
            optima = isoflop(part, method="akima", noise=noise, bootstrap=max(draws, 200))
            assert optima.params is not None
            low, high = optima.params.interval(method="bootstrap")["a"]
            found[file, row] = optima
            rows.append(
                (
                    corpus,
                    row,
                    stage,
                    theirs[file, row, "basic"],
                    optima.params.constants["a"],
                    low,
                    high,
                    int(optima.table["bracketed"].sum()),
                )
            )
    return pd.DataFrame(rows, columns=["corpus", "stage", "what", "published", "ours", "low", "high", "budgets"]), found


@_styled
def stages_figure(draws: int) -> Drawn:
    """Optimal sizes by stage on RefinedWeb, and the exponent of every stage with its interval beside the published one."""
    table, found = exponents(draws)
    figure, (left, right) = _axes(11.5, 4.8, columns=2)
    optima = _optima(left, found)
    for number, (corpus, colour) in enumerate(zip(("RefinedWeb", "OpenWebText2"), (BLUE, ORANGE), strict=True)):
        for _, row in table[table["corpus"] == corpus].iterrows():
            place = row["stage"] + 0.16 * (2 * number - 1)
            interval(right, place, row["ours"], (row["low"], row["high"]), colour)
            right.plot([place + 0.09], [row["published"]], "_", color=BLACK, markersize=9, markeredgewidth=1.8)
    right.axhline(0.5, color=BLACK, linewidth=0.8, linestyle=":")
    label(right, "Chinchilla: 0.5", (-0.45, 0.5), shift=(0, -8), fontsize=8.5)
    label(right, "RefinedWeb", (0 - 0.16, table["ours"][0]), BLUE, shift=(8, -14))
    label(right, "OpenWebText2", (0 + 0.16, table["ours"][5]), ORANGE, shift=(20, 5))
    note(right, "dots: ours with 95% interval; bars: published", "upper right")
    right.set_xticks(
        range(5), [stage.replace(" to ", "\nto ").replace("'s ", "'s\n").replace(" c", "\nc").replace(" w", "\nw") for stage in STAGES]
    )
    right.set(xlim=(-0.5, 4.5), ylabel=r"exponent $a$ of $N^*\propto C^a$", title="The exponent, stage by stage")
    right.grid(axis="x", visible=False)
    return figure, pd.concat([table.assign(panel="exponents"), optima], ignore_index=True)


def _optima(axis: Axes, found: dict[tuple[str, int], Optima]) -> pd.DataFrame:
    """The optima of every budget with the line through them; returns both."""
    kept = []
    flops = np.geomspace(1e16, 3e19, 30)
    for row, shade in zip(range(len(STAGES)), shades(len(STAGES)), strict=True):
        optima = found["summary_df", row]
        seen = optima.table[optima.table["bracketed"]]
        assert optima.params is not None
        line = np.asarray(optima.params.evaluate(flops=flops))
        kept.append(seen[["flops", "params"]].assign(stage=row, what=STAGES[row], panel="optima"))
        kept.append(pd.DataFrame({"flops": flops, "params": line, "stage": row, "what": STAGES[row], "panel": "lines"}))
        axis.plot(seen["flops"], seen["params"], "o", color=shade, markersize=5)
        axis.plot(flops, line, color=shade, linewidth=1.5)
        label(axis, STAGES[row], (flops[0], line[0]), shade, shift=(-5, {2: -4, 3: 4, 4: 4}.get(row, 0)), ha="right")
    axis.set(xscale="log", yscale="log", xlim=(1.5e14, 5e19), xlabel="training compute (FLOP)", ylabel="optimal parameters")
    axis.set_xticks([1e16, 1e17, 1e18, 1e19])
    axis.set_title("Optimal sizes on RefinedWeb")
    return pd.concat(kept).assign(corpus=CORPORA["summary_df"][0])


FIGURES = (
    Entry(
        "porian-stages",
        "the allocation exponent from Kaplan's recipe to a tuned one, published and by our isoFLOP fits",
        stages_figure,
        (PROFILES, PUBLISHED),
    ),
)
