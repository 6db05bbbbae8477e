"""Broken power laws (Caballero et al. 2022): a law with a break predicts what comes after a plateau."""

from __future__ import annotations

import numpy as np

import fits
from fits.laws.broken import broken_power_law
from reproduced.drawing import draws_of, label, note, plain, quantile_band, spread
from reproduced.entry import Drawn, Entry
from scaling.plots import BLACK, BLUE, ORANGE, RED, _axes, _styled

TABLE = "bnsl-4digit-addition"


@_styled
def addition_figure(draws: int) -> Drawn:
    """Loss of four-digit addition against training examples: 14 points fitted without and with a break, the last 3 predicted."""
    rows = fits.dataset(TABLE)
    seen, ahead = rows[rows["split"] == "train"], rows[rows["split"] != "train"]
    grid = np.geomspace(rows["examples"].min(), 1.5 * rows["examples"].max(), 160)
    figure, (axis,) = _axes(7.4, 4.8)
    table, columns = rows[["split", "examples", "loss"]].copy(), {}
    for breaks, colour, name in ((0, ORANGE, "no break"), (1, BLUE, "one break")):
        curve = fits.fit(broken_power_law(breaks, "examples"), seen, objective="log-squared", bootstrap=draws if breaks else 0)
        line = np.asarray(curve.evaluate(examples=grid))
        axis.plot(grid, line, color=colour, linewidth=2)
        table[name] = np.asarray(curve.evaluate(examples=rows["examples"].to_numpy(float)))
        columns[name] = line
        if curve.draws is not None:
            low, high = quantile_band(draws_of(curve, examples=grid))
            spread(axis, grid, low, high, colour)
            table["one break, low"], table["one break, high"] = quantile_band(draws_of(curve, examples=rows["examples"].to_numpy(float)))
    axis.plot(seen["examples"], seen["loss"], "o", color=BLACK, markersize=5.5)
    axis.plot(ahead["examples"], ahead["loss"], "D", color=RED, markersize=6, zorder=4)
    error = float(np.sqrt(np.mean(np.log(table["one break"] / table["loss"])[table["split"] != "train"] ** 2)))
    axis.axvline(float(np.sqrt(seen["examples"].max() * ahead["examples"].min())), color=BLACK, linewidth=0.8, linestyle=":")
    label(
        axis,
        f"held out; one break is {error:.1%}\noff (rms of log)",
        (float(ahead["examples"].iloc[1]), float(ahead["loss"].iloc[1])),
        RED,
        shift=(-34, -20),
        ha="right",
    )
    label(axis, "no break", (grid[-1], columns["no break"][-1]), ORANGE, shift=(0, 10), ha="right")
    label(axis, "one break, 95% band", (grid[40], columns["one break"][40]), BLUE, shift=(0, 12), ha="left")
    note(axis, "4-digit addition, losses of Caballero et al. 2022", "lower left")
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="training examples",
        ylabel="test loss (nats)",
        title="Three points ahead of the fit, without and with a break",
    )
    plain(axis.xaxis, [200, 300, 500, 700, 1000])
    plain(axis.yaxis, [0.1, 0.2, 0.5, 1, 2])
    return figure, table


FIGURES = (Entry("broken-power-law", "four-digit addition: fitted before the break ends, predicted after it", addition_figure, (TABLE,)),)
