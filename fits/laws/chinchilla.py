"""L(N, D) = E + A N^-alpha + B D^-beta (Hoffmann et al. 2022, arXiv 2203.15556, equation 2), and its compute-optimal frontier.

Frontier for a cost of c N D FLOP, in closed form: G = (alpha A / (beta B))^(1 / (alpha + beta)), N* = G (C/c)^(beta / (alpha + beta)),
D* = (C/c) / N*. The reducible loss along it is R C^-gamma with gamma = alpha beta / (alpha + beta).
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.optimize import nnls

from fits.laws.base import Law

_START_EXPONENTS = (0.08, 0.2, 0.35, 0.55, 0.85, 1.3)


def _log_loss(theta: Array, inputs: Array) -> Array:
    log_e, log_a, log_b, alpha, beta = theta
    log_n, log_d = inputs[:, 0], inputs[:, 1]
    terms = jnp.stack([jnp.full_like(log_n, log_e), log_a - alpha * log_n, log_b - beta * log_d])
    return jax.nn.logsumexp(terms, axis=0)


def _to_constants(theta: np.ndarray) -> np.ndarray:
    return np.concatenate([np.exp(theta[..., :3]), theta[..., 3:]], axis=-1)


def _from_constants(constants: np.ndarray) -> np.ndarray:
    return np.concatenate([np.log(constants[..., :3]), constants[..., 3:]], axis=-1)


def _starts(inputs: np.ndarray, log_loss: np.ndarray) -> np.ndarray:
    """For a grid of exponents the non-negative E, A, B that fit best: with the exponents given, the law is linear in them.

    The errors are relative to the loss, as in the log objective.
    """
    loss, starts = np.exp(log_loss), []
    for alpha, beta in itertools.product(_START_EXPONENTS, repeat=2):
        columns = np.stack([np.ones_like(loss), np.exp(-alpha * inputs[:, 0]), np.exp(-beta * inputs[:, 1])], axis=1)
        scale = columns.max(axis=0)
        linear, _ = nnls(columns / scale / loss[:, None], np.ones_like(loss))
        # A term that fits best at zero starts at a thousandth of the loss: zero has no logarithm to move.
        linear = np.maximum(linear, 1e-3 * loss.min()) / scale
        starts.append([*np.log(linear), alpha, beta])
    return np.array(starts)


def _lower(log_loss: np.ndarray) -> np.ndarray:
    """E at least a millionth of the smallest loss, exponents at least 0.001: what is there is called zero."""
    return np.array([log_loss.min() + np.log(1e-6), -np.inf, -np.inf, 1e-3, 1e-3])


CHINCHILLA = Law(
    name="chinchilla",
    formula="E + A * params^-alpha + B * tokens^-beta",
    inputs=("params", "tokens"),
    constants=("E", "A", "B", "alpha", "beta"),
    positive=("A", "B", "alpha", "beta"),
    log_loss=_log_loss,
    to_constants=_to_constants,
    from_constants=_from_constants,
    starts=_starts,
    lower=_lower,
)


def loss(constants: np.ndarray, params: np.ndarray | float, tokens: np.ndarray | float) -> np.ndarray:
    """The loss, for constants of shape (..., 5); the rest broadcasts against the leading axes."""
    e, a, b, alpha, beta = np.moveaxis(constants, -1, 0)
    return e + a * np.asarray(params) ** -alpha + b * np.asarray(tokens) ** -beta


def optimal_params(constants: np.ndarray, product: np.ndarray | float) -> np.ndarray:
    """N* where params * tokens = product."""
    _, a, b, alpha, beta = np.moveaxis(constants, -1, 0)
    return np.exp((np.log(alpha * a / (beta * b)) + beta * np.log(product)) / (alpha + beta))


def product_for(constants: np.ndarray, target: np.ndarray | float) -> np.ndarray:
    """The least params * tokens whose frontier loss is `target`; infinite at or below E."""
    e, a, b, alpha, beta = np.moveaxis(constants, -1, 0)
    gamma = alpha * beta / (alpha + beta)
    at_one = optimal_params(constants, 1.0)  # on the frontier N = N*(1) p^(gamma / alpha): both terms fall as p^-gamma
    amplitude = a * at_one**-alpha + b * at_one**beta
    reducible = np.asarray(target) - e
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(reducible > 0, (amplitude / np.where(reducible > 0, reducible, 1.0)) ** (1 / gamma), np.inf)
