"""Stocks of chips: one step of what is owned, in H100 equivalents of training and of serving, with exact integrals of growing flows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

FLOWS = ("purchases", "domestic", "smuggled", "cloud")


class Stock(NamedTuple):
    """What is owned, by what it is worth in training and in serving, and the yearly flows at this date (cloud: what is rented at once)."""

    training: Array
    serving: Array
    flows: dict[str, Array]


def first(f: Mapping[str, Array], p: Mapping[str, Array]) -> Stock:
    """The stock at the start. What is owned then counts in H100 equivalents, for training and serving alike."""
    zero = 0.0 * (p["training_free"] + f["stock"] + f["stockpile"])
    owned = f["stock"] + f["stockpile"] + zero
    return Stock(owned, owned, {name: f[name] + zero for name in FLOWS})


def step(stock: Stock, f: Mapping[str, Array], p: Mapping[str, Array], years: float) -> Stock:
    """The stock `years` later: decay, and flows that grow at their own rates while what came in decays, by their exact integrals."""
    keep = jnp.exp(-f["decay"] * years)

    def inflow(name: str, flow: Array) -> Array:
        # integral of e^(rate s) e^(-decay (years - s)) ds, finite where rate + decay is zero
        both = f[f"{name}_rate"] + f["decay"]
        return flow * keep * years * _expm1_ratio(both * years)

    bought = bought_per_year(stock, f, p)
    bound = p["bound"] * f["on_controls"]
    home = inflow("domestic", stock.flows["domestic"]) + bound * inflow("smuggled", stock.flows["smuggled"])
    new = [inflow("purchases", bought * _quality(f, p, work)) + home for work in ("training", "serving")]
    grown = {name: flow * jnp.exp(f[f"{name}_rate"] * years) for name, flow in stock.flows.items()}
    # Illicit purchase starts with the control: until then its flow waits.
    grown["smuggled"] = jnp.where(bound > 0, grown["smuggled"], stock.flows["smuggled"])
    return Stock(stock.training * keep + new[0], stock.serving * keep + new[1], grown)


def bought_per_year(stock: Stock, f: Mapping[str, Array], p: Mapping[str, Array]) -> Array:
    """Chips bought a year: what is wanted, as far as licences and caps let it through."""
    wanted, on = stock.flows["purchases"], f["on_controls"]
    let = jnp.minimum(wanted * p["allowed"], p["flow_cap"])
    return wanted + on * (let - wanted)


def at_work(stock: Stock, f: Mapping[str, Array], p: Mapping[str, Array], work: str) -> Array:
    """H100 equivalents at work: owned, within a cap on ownership, and rented once a control binds."""
    owned, on = getattr(stock, work), f["on_controls"]
    capped = owned + on * (jnp.minimum(owned, p["stock_cap"]) - owned)
    return capped + p["bound"] * on * stock.flows["cloud"]


def _quality(f: Mapping[str, Array], p: Mapping[str, Array], work: str) -> Any:
    """Of a chip bought: that of the actor's own choice, times what a control makes of it."""
    free, held = p[f"{work}_free"], p[f"{work}_held"]
    return (1 + f["on_chips"] * (free - 1)) * (1 + f["on_controls"] * (held / free - 1))


def _expm1_ratio(x: Array) -> Array:
    """(e^x - 1) / x, 1 at zero."""
    small = jnp.abs(x) < 1e-8
    safe = jnp.where(small, 1.0, x)
    return jnp.where(small, 1 + x / 2, jnp.expm1(safe) / safe)
