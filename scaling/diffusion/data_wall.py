"""What limited data cost, as one function of one number: compute that repetition wastes at the optimum, tabulated for each world's law.

A law E + A (N/m)^-alpha + B (Deff(D, U)/k)^-beta with c = C / (6 m U) and n0 = (A/B)^(1/alpha) (U/k)^(beta/alpha) becomes, in units of
B (U/k)^-beta and of n0, the least over v of v^-alpha + g(e^y / v)^-beta with y = ln(c / n0), g the effect of d = D/U epochs (Muennighoff et al.
2023). So for all actors of a world, whatever their gaps and their data, the loss of compute against fresh data is one function of y: the
deficit, in e-folds. At d epochs, with e = d ln g / d ln d, the optimum has v^-alpha = (beta/alpha) g^-beta e, hence y(d), and the deficit's
slope is alpha (1 - e) / (alpha + beta e): all in closed form, up to the inversion of y(d).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from scaling.repetition import REPETITION_HALF_LIFE as R

NODES = 128
REACH = 16.0  # e-folds of compute beyond the wall that the table covers; the deficit is a straight line from there on
STEPS = 14  # of Newton's method
WIDTH = REACH / NODES


class Table(NamedTuple):
    """Deficit, its slope and its curvature at the middles of NODES equal cells of y from the wall on, (nodes, worlds); the wall (1, worlds)."""

    value: Array
    slope: Array
    curvature: Array
    wall: Array


def log_effect(log_d: Array) -> tuple[Array, Array, Array]:
    """ln g, e = d ln g / d ln d, and d ln e / d ln d, of d >= 1 epochs."""
    d = jnp.exp(log_d)
    faded = jnp.exp(-(d - 1) / R)
    g = 1 + R * (1 - faded)
    e = d * faded / g
    return jnp.log(g), e, 1 - d / R - e


def tabulate(alpha: Array, beta: Array) -> Table:
    """The table of each world's law; alpha and beta are (1, worlds)."""
    wall = -jnp.log(beta / alpha) / alpha
    beyond = (jnp.arange(NODES, dtype=wall.dtype)[:, None] + 0.5) * WIDTH + jnp.zeros_like(wall)

    def y(log_d: Array) -> tuple[Array, Array]:
        """y beyond the wall, and its slope. Convex, so that Newton's method from the right goes straight to the root."""
        log_g, _, slope_e = log_effect(log_d)
        # ln e from its parts, which stays finite where e itself has faded to nothing.
        log_e = log_d - (jnp.exp(log_d) - 1) / R - log_g
        e = jnp.exp(log_e)
        return (beta * log_g - log_e) / alpha + log_d, 1 + (beta * e - slope_e) / alpha

    def step(_: int, log_d: Array) -> Array:
        value, slope = y(log_d)
        return jnp.maximum(log_d - (value - beyond) / slope, 0.0)

    at_wall = 1 + (beta + 1 / R) / alpha
    start = jnp.minimum(beyond / at_wall, jnp.log1p(alpha * R * beyond + R))
    log_d = jax.lax.fori_loop(0, STEPS, step, start)
    log_g, e, slope_e = log_effect(log_d)
    slope = alpha * (1 - e) / (alpha + beta * e)
    # Fresh data of the same loss: g^-beta (1 + (beta/alpha) e) = (1 + beta/alpha) e^(-gamma y_fresh), y measured from the wall.
    gamma = alpha * beta / (alpha + beta)
    fresh = (beta * log_g - jnp.log((alpha + beta * e) / (alpha + beta))) / gamma
    curvature = -alpha * (alpha + beta) / (alpha + beta * e) ** 2 * e * slope_e / y(log_d)[1]
    return Table(beyond - fresh, slope, curvature, wall)


def deficit(table: Table, y: Array) -> Array:
    """The deficit at y (actors, worlds): zero short of the wall."""
    beyond = y - table.wall
    inside = jnp.clip(beyond, 0.0, REACH)
    node = jnp.minimum((inside / WIDTH).astype(jnp.int32), NODES - 1)
    value, slope, curvature = (_at(column, node) for column in (table.value, table.slope, table.curvature))
    off = inside - (node.astype(y.dtype) + 0.5) * WIDTH
    found = value + off * (slope + off * curvature / 2) + (beyond - inside) * slope
    return jnp.where(beyond > 0, jnp.maximum(found, 0.0), 0.0)


def _at(column: Array, node: Array) -> Array:
    """column[node] in the world's own column, or in the only one."""
    if column.shape[1] == 1:
        return column[:, 0][node]
    return jnp.take_along_axis(column, node, axis=0, mode="clip")
