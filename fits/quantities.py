"""Quantities derived from a law's constants, for intervals: a constant, the optimum, the loss there, the compute for a loss, the allocation exponent.

Each is a function of the solver's parameters theta that JAX can differentiate, so that a profile can be drawn over it, and hashable by value.
Sizes, tokens and computes are logarithms.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from fits.errors import InputError
from fits.laws.base import Inputs, Law, PowerTerms

_STEPS = 80  # bisections of the logarithm of size times tokens
_WIDEST = 140.0


@dataclasses.dataclass(frozen=True)
class Quantity:
    """What to derive: `kind`, at a log of size times tokens or a loss (`at`), other inputs as given."""

    law: Law
    kind: str  # constant, size, tokens, loss, compute, exponent
    at: float = 0.0
    name: str = ""  # of the constant
    extras: tuple[tuple[str, float], ...] = ()

    @property
    def logarithm(self) -> bool:
        """Whether the value is a logarithm."""
        return self.kind in ("size", "tokens", "compute") or (self.kind == "constant" and self.law.parameter(self.name).log)

    def __call__(self, theta: Array) -> Array:
        if self.kind == "constant":
            return theta[self.law.constants.index(self.name)]
        constants = {p.name: jnp.exp(theta[i]) if p.log else theta[i] for i, p in enumerate(self.law.parameters)}
        terms = self._terms(constants)
        if self.kind == "exponent":
            return terms.beta / (terms.alpha + terms.beta)
        if self.kind == "compute":
            return self._product_for(constants, terms)
        size = _optimal_size(terms, jnp.asarray(self.at, jnp.float64))
        if self.kind == "size":
            return size
        return self.at - size if self.kind == "tokens" else self._loss(constants, size, jnp.asarray(self.at, jnp.float64))

    def near(self, theta: Array, aim: Array) -> Array:
        """The value to first order around `aim`, which is exact where it is met: for a compute one Newton step in place of a search."""
        if self.kind != "compute":
            return self(theta)
        constants = {p.name: jnp.exp(theta[i]) if p.log else theta[i] for i, p in enumerate(self.law.parameters)}
        terms = self._terms(constants)

        def excess(log_product: Array) -> Array:
            return self._loss(constants, _optimal_size(terms, log_product), log_product) - self.at

        return aim - excess(aim) / jax.grad(excess)(aim)

    def _terms(self, constants: dict[str, Any]) -> PowerTerms:
        if self.law.terms is None:
            raise InputError(f"law {self.law.name} has no closed form of its optimum, so no profile over it; use bootstrap draws")
        return self.law.terms(constants, Inputs(dict(self.extras)))

    def _loss(self, constants: dict[str, Any], size: Array, product: Array) -> Array:
        logs = {str(self.law.size): size, "tokens": product - size} | {name: jnp.log(value) for name, value in self.extras}
        return self.law.function(constants, Inputs({name: jnp.exp(value) for name, value in logs.items()}, logs))

    def _product_for(self, constants: dict[str, Any], terms: PowerTerms) -> Array:
        """log P whose frontier loss is `at`: bisection finds it, two Newton steps carry the derivatives."""

        def excess(log_product: Array) -> Array:
            return self._loss(constants, _optimal_size(terms, log_product), log_product) - self.at

        still, still_terms = jax.lax.stop_gradient((constants, tuple(terms)))

        def still_excess(log_product: Array) -> Array:
            return self._loss(still, _optimal_size(PowerTerms(*still_terms), log_product), log_product) - self.at

        def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            middle = (ends[0] + ends[1]) / 2
            above = still_excess(middle) > 0
            return jnp.where(above, middle, ends[0]), jnp.where(above, ends[1], middle)

        ends = jax.lax.fori_loop(0, _STEPS, halve, (jnp.asarray(0.0, jnp.float64), jnp.asarray(_WIDEST, jnp.float64)))
        root = (ends[0] + ends[1]) / 2
        for _ in range(2):
            root = root - excess(root) / jax.grad(excess)(root)
        return root


def _optimal_size(terms: PowerTerms, log_product: Array) -> Array:
    return (jnp.log(terms.alpha * terms.a / (terms.beta * terms.b)) + terms.beta * log_product) / (terms.alpha + terms.beta)
