"""Where a penalty may leave structure x data: the departures of the frontier, each a setting of `scaling.penalties`.

The theorem that makes it structure x data needs size and tokens free, data without end, both at their optimum, one law, and no cost but training. Each departure
breaks one of these, the last two of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fits import frontier
from fits.curve import Curve
from scaling.errors import InputError

SLOWER = 0.95  # the follower's exponents over the leader's
ANCHOR = 1e22  # FLOP, about the largest runs that laws were fitted to: there both laws agree
EXCESS = 0.01  # nats/token of the follower's irreducible loss above the leader's


@dataclasses.dataclass(frozen=True)
class Departure:
    """`settings` of `scaling.penalties` beside the gaps; `follower` makes the follower's law; `supply` says that the stock of unique tokens is uncertain."""

    name: str
    label: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    follower: Callable[[Curve], Curve] | None = None
    supply: bool = False


def departures(stock: float, low: float, high: float) -> tuple[Departure, ...]:
    """The departures, for a stock of unique tokens known to lie between `low` and `high`."""
    return (
        Departure("free", "size and tokens free, data without end"),
        Departure("tokens-fixed", "tokens fixed", {"fixed": "tokens"}),
        Departure("size-fixed", "size fixed", {"fixed": "params"}),
        Departure("overtrained-10", "leader over-trained 10x, follower free", {"overtraining": 10.0}),
        Departure("overtrained-10-tokens-fixed", "over-trained 10x, tokens fixed", {"overtraining": 10.0, "fixed": "tokens"}),
        Departure("overtrained-10-size-fixed", "over-trained 10x, size fixed", {"overtraining": 10.0, "fixed": "params"}),
        Departure("overtrained-100-size-fixed", "over-trained 100x, size fixed", {"overtraining": 100.0, "fixed": "params"}),
        Departure("stock", "unique tokens uncertain", supply=True),
        Departure("stock-low", f"{amount(low)} unique tokens", {"unique_tokens": low}),
        Departure("stock-middle", f"{amount(stock)} unique tokens", {"unique_tokens": stock}),
        Departure("stock-high", f"{amount(high)} unique tokens", {"unique_tokens": high}),
        Departure("stock-halved", f"{amount(stock)}, the follower half", {"unique_tokens": stock, "follower_unique_tokens": stock / 2}),
        Departure("served-1e14", "1e14 tokens served", {"served_tokens": 1e14}),
        Departure("served-1e15", "1e15 tokens served", {"served_tokens": 1e15}),
        Departure("exponents", f"exponents {1 - SLOWER:.0%} lower", follower=slower),
        Departure("irreducible", f"irreducible loss {EXCESS} higher", follower=higher),
        Departure("stock-served", f"{amount(stock)} and 1e14 tokens served", {"unique_tokens": stock, "served_tokens": 1e14}),
    )


def slower(curve: Curve, factor: float = SLOWER, anchor: float = ANCHOR) -> Curve:
    """The curve with exponents of size and tokens times `factor`, its terms and so its loss and optimum as they were at the optimum of `anchor` FLOP.

    Its reducible loss falls as C^-(factor gamma): a gap that is a power law in compute (Gundlach et al. 2025 find such gaps between architectures). With draws, each is changed.
    """
    names = curve.law.constants
    if not {"A", "B", "alpha"} <= set(names):
        raise InputError(f"frontier: law {curve.law.name} of curve {curve.name!r} has no exponents alpha and beta to lower")
    extras = {name: value for name, value in curve.law.typical if name != curve.law.size}

    def changed(rows: np.ndarray) -> np.ndarray:
        product = anchor / curve.flops_per_param_token
        size = frontier.optimal_size(curve.law, rows, product, extras)
        named = {name: rows[..., place] for place, name in enumerate(names)}
        second = "beta" if "beta" in named else "alpha"
        moved = {"A": named["A"] * size ** ((factor - 1) * named["alpha"]), "alpha": factor * named["alpha"]}
        moved |= {"B": named["B"] * (product / size) ** ((factor - 1) * named[second]), second: factor * named[second]}
        return np.stack([moved.get(name, named[name]) for name in names], axis=-1)

    return _changed(curve, changed)


def higher(curve: Curve, excess: float = EXCESS) -> Curve:
    """The curve with `excess` nats/token more of irreducible loss, its draws too."""
    if "E" not in curve.law.constants:
        raise InputError(f"frontier: law {curve.law.name} of curve {curve.name!r} has no irreducible loss to raise")
    step = excess * np.eye(len(curve.law.constants))[curve.law.constants.index("E")]
    return _changed(curve, lambda rows: rows + step)


def _changed(curve: Curve, change: Callable[[np.ndarray], np.ndarray]) -> Curve:
    constants = dict(zip(curve.law.constants, map(float, change(curve.vector)), strict=True))
    return dataclasses.replace(curve, constants=constants, draws=None if curve.draws is None else change(curve.draws), sample=None)


def amount(tokens: float) -> str:
    """Tokens as one says them: 300T."""
    for unit, size in (("Q", 1e15), ("T", 1e12), ("B", 1e9), ("M", 1e6)):
        if tokens >= size and not (unit == "Q" and tokens < 1e16):
            return f"{tokens / size:.4g}{unit}"
    return f"{tokens:.4g}"
