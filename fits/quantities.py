"""Quantities derived from a law's constants, for intervals: a constant, the optimal size, the loss there, the compute for a loss, the allocation exponent.

Each is a function of the solver's parameters theta that JAX can differentiate, so that a profile can be drawn over it. Sizes and computes are
logarithms. Which quantity it is, and where, are numbers to the compiled program, so that one program of a law serves them all.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fits.errors import InputError
from fits.laws.base import Inputs, Law, PowerTerms

_STEPS = 80  # bisections of the logarithm of size times tokens
_WIDEST = 140.0
KINDS = ("size", "loss", "exponent", "compute")


@dataclasses.dataclass(frozen=True)
class Frontier:
    """The derived quantities of one law at fixed other inputs; hashable by value."""

    law: Law
    extras: tuple[tuple[str, float], ...] = ()

    def value(self, theta: Array, kind: Array, at: Array) -> Array:
        """The quantity of number `kind` in KINDS, `at` a log of size times tokens or a loss."""
        constants, terms = self._constants(theta)
        return jax.lax.switch(kind, [*self._simple(constants, terms, at), lambda: self._product_for(constants, terms, at)])

    def __call__(self, theta: Array, aims: Array) -> Array:
        """The quantity to first order around aims[0], exact where that is met: for a compute one Newton step in place of a search. aims: (aim, strength, kind, at)."""
        aim, at = aims[0], aims[3]
        constants, terms = self._constants(theta)

        def step() -> Array:
            excess = self._excess(constants, terms, at)
            return aim - excess(aim) / jax.grad(excess)(aim)

        return jax.lax.switch(aims[2].astype(jnp.int32), [*self._simple(constants, terms, at), step])

    def _simple(self, constants: dict[str, Any], terms: PowerTerms, at: Array) -> list[Any]:
        def size() -> Array:
            return _optimal_size(terms, at)

        def loss() -> Array:
            return self._loss(constants, _optimal_size(terms, at), at)

        def exponent() -> Array:
            return jnp.asarray(terms.beta / (terms.alpha + terms.beta))

        return [size, loss, exponent]

    def _constants(self, theta: Array) -> tuple[dict[str, Any], PowerTerms]:
        if self.law.terms is None:
            raise InputError(f"law {self.law.name} has no closed form of its optimum, so no profile over it; use bootstrap draws")
        constants = {p.name: jnp.exp(theta[i]) if p.log else theta[i] for i, p in enumerate(self.law.parameters)}
        return constants, self.law.terms(constants, Inputs(dict(self.extras)))

    def _loss(self, constants: dict[str, Any], size: Array, product: Array) -> Array:
        logs = {str(self.law.size): size, "tokens": product - size} | {name: jnp.log(value) for name, value in self.extras}
        return self.law.function(constants, Inputs({name: jnp.exp(value) for name, value in logs.items()}, logs))

    def _excess(self, constants: dict[str, Any], terms: PowerTerms, target: Array) -> Any:
        return lambda log_product: self._loss(constants, _optimal_size(terms, log_product), log_product) - target

    def _product_for(self, constants: dict[str, Any], terms: PowerTerms, target: Array) -> Array:
        """log P whose frontier loss is `target`: bisection finds it, two Newton steps carry the derivatives."""
        still, still_terms = jax.lax.stop_gradient((constants, tuple(terms)))
        still_excess = self._excess(still, PowerTerms(*still_terms), target)

        def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            middle = (ends[0] + ends[1]) / 2
            above = still_excess(middle) > 0
            return jnp.where(above, middle, ends[0]), jnp.where(above, ends[1], middle)

        ends = jax.lax.fori_loop(0, _STEPS, halve, (jnp.zeros_like(target), jnp.full_like(target, _WIDEST)))
        root, excess = (ends[0] + ends[1]) / 2, self._excess(constants, terms, target)
        for _ in range(2):
            root = root - excess(root) / jax.grad(excess)(root)
        return root


@dataclasses.dataclass(frozen=True)
class Quantity:
    """What to derive: a constant by its name, or a kind of KINDS at a log of size times tokens or a loss (`at`), other inputs as given."""

    law: Law
    kind: str
    at: float = 0.0
    name: str = ""
    extras: tuple[tuple[str, float], ...] = ()

    @property
    def logarithm(self) -> bool:
        """Whether the value is a logarithm."""
        return self.kind in ("size", "compute") or (self.kind == "constant" and self.law.parameter(self.name).log)

    @property
    def frontier(self) -> Frontier:
        """The functions of the law's derived quantities."""
        return Frontier(self.law, self.extras)

    def __call__(self, theta: Array) -> Array:
        if self.kind == "constant":
            return theta[self.law.constants.index(self.name)]
        return self.frontier.value(theta, jnp.asarray(KINDS.index(self.kind)), jnp.asarray(self.at, jnp.float64))

    def aims(self, aim: np.ndarray, strength: np.ndarray) -> np.ndarray:
        """Rows (aim, strength, kind, at) for springs on this quantity."""
        return np.stack([aim, strength, np.full_like(aim, KINDS.index(self.kind)), np.full_like(aim, self.at)], axis=1)


def _optimal_size(terms: PowerTerms, log_product: Array) -> Array:
    return (jnp.log(terms.alpha * terms.a / (terms.beta * terms.b)) + terms.beta * log_product) / (terms.alpha + terms.beta)
