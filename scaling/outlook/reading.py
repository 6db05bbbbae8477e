"""The frontier in one paragraph, every number taken from its tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scaling.outlook import trends
from scaling.outlook.departures import EXCESS, SLOWER, amount

if TYPE_CHECKING:
    from scaling.outlook.frontiers import Frontier

SPREAD = 0.005  # relative width below which a band is one number


def reading(found: Frontier) -> str:
    """What the tables say, in the order of the question: when is it structure x data, when not, and what is it worth."""
    return " ".join((_where_it_holds(found), _where_it_does_not(found), _supply(found), _worth(found)))


def _where_it_holds(found: Frontier) -> str:
    free = found.penalties[found.penalties["departure"] == "free"]
    low, high = free["low"].min(), free["high"].max()
    exact = number(low) if high - low < 1e-6 * low else f"{number(low)} to {number(high)}"
    return (
        f"A follower {found.structure:g}x behind in structure and {found.data:g}x in data, free in size and tokens, needs {exact} times the compute at every scale from "
        f"{flop(found.flops[0])} to {flop(found.flops[-1])}, under all {len(found.curves)} laws."
    )


def _where_it_does_not(found: Frontier) -> str:
    end = found.flops[-1]

    def at(departure: str, flops: float) -> pd.Series:
        rows = found.penalties[found.penalties["departure"] == departure]
        return rows.iloc[int(np.argmin(np.abs(np.log(rows["flops"] / flops))))]

    slower, excess, served = ([at(name, flops) for flops in (found.flops[0], end)] for name in ("exponents", "irreducible", "served-1e14"))
    return (
        f"With its tokens fixed the penalty is {banded(at('tokens-fixed', end))}, with its size fixed {banded(at('size-fixed', end))}; against a leader trained on ten times the optimal "
        f"tokens per parameter {banded(at('overtrained-10', end))} if free and {banded(at('overtrained-10-size-fixed', end))} with that size. From the first scale to the last it goes from "
        f"{banded(slower[0])} to {banded(slower[1])} if the follower's exponents are {1 - SLOWER:.0%} lower, from {banded(excess[0])} to {banded(excess[1])} if its irreducible loss is {EXCESS} nats higher, "
        f"and from {banded(served[0])} to {banded(served[1])} if serving 1e14 tokens counts."
    )


def _supply(found: Frontier) -> str:
    uncertain = found.walls[found.walls["stock"].isna() & (found.walls["what"] == "wall")].iloc[0]
    leaves = found.walls[(found.walls["stock"] == found.stock) & found.walls["what"].str.startswith("penalty")].iloc[0]
    last = found.penalties[found.penalties["departure"] == "stock"].iloc[-1]
    low, high = found.stock_range
    far = "With repetition the penalty never exceeds structure x data by more than a tenth. "
    if math.isfinite(leaves["median"]):
        far = f"With repetition the penalty exceeds structure x data by a tenth at {flop(leaves['median'])} ({flop(leaves['low'])} to {flop(leaves['high'])}). "
    return (
        f"{amount(found.stock)} unique tokens ({amount(low)} to {amount(high)}) are what the leader's optimum takes at {flop(uncertain['median'])} "
        f"({flop(uncertain['low'])} to {flop(uncertain['high'])}); variance of that: {made_of(uncertain)}. {far}"
        f"At {flop(last['flops'])} it is {banded(last)}{infeasible(last)}; variance of its logarithm: {made_of(last)}."
    )


def _worth(found: Frontier) -> str:
    endless = found.losses[found.losses["supply"] == "endless"]
    value = endless[endless["quantity"] == "value"]
    share = endless[endless["quantity"] == "share"].iloc[-1]
    first = found.months[np.isclose(found.months["flops"], found.flops[0])].set_index("trend")
    named = (
        "frontier algorithms",
        "catch-up in algorithms",
        "training dollars for a fixed loss",
        "hardware price performance",
        "effective compute of the frontier",
    )
    months = ", ".join(
        f"{number(row['median'])} months of {trend} at {row['growth']:g}x a year" for trend, row in first.loc[list(named)].iterrows()
    )
    least, most = trends.inference(found.structure * found.data)
    return (
        f"{found.structure * found.data:g}x of compute is worth {banded(value.iloc[0])} nats/token at {flop(found.flops[0])} and {banded(value.iloc[-1])} at {flop(found.flops[-1])}, "
        f"{banded(share)} of the reducible loss; it equals {months}, or {number(least)} to {number(most)} times the inference compute per answer."
    )


def banded(row: pd.Series) -> str:
    """A median with its band, or one number where the band has no width."""
    median, low, high = float(row["median"]), float(row["low"]), float(row["high"])
    if low == high or high - low <= SPREAD * abs(low):
        return number(median)
    return f"{number(median)} ({number(low)} to {number(high)})"


def made_of(row: pd.Series) -> str:
    """The shares of a band's variance."""
    if math.isnan(row["parameters"]):
        return "no variance"
    return ", ".join(f"{row[name]:.0%} {name}" for name in ("parameters", "form", "assumption"))


def infeasible(row: pd.Series) -> str:
    """Said only where some of the cases have no answer."""
    return f" (out of reach in {row['infinite']:.0%} of the cases)" if row["infinite"] > 0 else ""


def number(value: float) -> str:
    """A number of three digits."""
    return "infinite" if math.isinf(value) else f"{value:.3g}".replace("e+0", "e").replace("e+", "e")


def flop(value: float) -> str:
    """FLOP in powers of ten."""
    return "no compute" if math.isinf(value) else f"{value:.2g} FLOP".replace("e+", "e")
