"""The follower's law where it differs from the leader's in itself: in constants, in exponents, in the irreducible loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from fits import frontier
from fits.curve import Curve
from scaling.errors import InputError


def differing(curve: Curve, changes: Sequence[str]) -> Curve:
    """The curve with constants changed, in its draws too: NAME=NUMBER, NAME=xFACTOR or NAME=+STEP, as in alpha=0.33, A=x2, E=+0.02.

    A gap of 2 in a coefficient of the loss is not one in size or tokens: A=x2 costs 2^(1/alpha) in compute, A=x2 and B=x2 together 2^(1/gamma). Raises InputError.
    """
    for change in changes:
        name, _, text = change.partition("=")
        if name not in curve.law.constants:
            raise InputError(f"follower: law {curve.law.name} has no constant {name!r}; it has {', '.join(curve.law.constants)}")
        try:
            value = float(text.removeprefix("x").removeprefix("+"))
        except ValueError:
            raise InputError(f"follower: write NAME=NUMBER, NAME=xFACTOR or NAME=+STEP, as in A=x2, got {change!r}") from None
        factor, step = (value, 0.0) if text.startswith("x") else (1.0, value) if text.startswith("+") else (0.0, value)
        here = np.eye(len(curve.law.constants))[curve.law.constants.index(name)]
        curve = _changed(curve, lambda rows, factor=factor, step=step, here=here: rows * (1 + here * (factor - 1)) + here * step)
    return curve


def slower(curve: Curve, factor: float, anchor: float) -> Curve:
    """The curve with exponents of size and tokens times `factor`, its terms and so its loss and optimum as they were at the optimum of `anchor` FLOP.

    Its reducible loss falls as C^-(factor gamma): a gap that is a power law in compute (Gundlach et al. 2025 find such gaps between architectures). With draws, each is changed.
    """
    names = curve.law.constants
    if not {"A", "B", "alpha"} <= set(names):
        raise InputError(f"follower: law {curve.law.name} of curve {curve.name!r} has no exponents alpha and beta to lower")
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


def higher(curve: Curve, excess: float) -> Curve:
    """The curve with `excess` nats/token more of irreducible loss, its draws too."""
    if "E" not in curve.law.constants:
        raise InputError(f"follower: law {curve.law.name} of curve {curve.name!r} has no irreducible loss to raise")
    step = excess * np.eye(len(curve.law.constants))[curve.law.constants.index("E")]
    return _changed(curve, lambda rows: rows + step)


def _changed(curve: Curve, change: Callable[[np.ndarray], np.ndarray]) -> Curve:
    constants = dict(zip(curve.law.constants, map(float, change(curve.vector)), strict=True))
    return dataclasses.replace(curve, constants=constants, draws=None if curve.draws is None else change(curve.draws), sample=None)
