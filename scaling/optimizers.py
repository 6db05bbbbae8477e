"""Optimisers as pure functions of the weights, with the multipliers of `models.parametrization`.

`adam` is AdamW (Loshchilov & Hutter 2019). `muon` (Jordan et al. 2024) replaces the momentum of every hidden matrix by the nearest
orthogonal matrix, through five Newton-Schulz steps, and leaves embedding, head, router, gains and biases to Adam. Which axes
of a weight make the matrices is what `new_weight` was told; stacked layers, experts, and fused queries, keys and values are matrices of
their own. Every matrix' update is scaled by MUON_RMS sqrt(max(in, out)), which gives it a root mean square near MUON_RMS: that of
a typical AdamW update, so that both share a learning rate at the base width (Liu et al. 2025, arXiv 2502.16982, section 2.2).

Both clip the norm of the whole gradient first. Under `jax.vmap` everything is per member.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from models.config import ModelConfig
from models.parametrization import Weight, named_weights, rule_of
from scaling.errors import InputError

OPTIMIZERS = ("adam", "muon")
ADAM_B1, ADAM_B2, ADAM_EPS = 0.9, 0.95, 1e-10
MUON_BETA, MUON_RMS = 0.95, 0.2
CLIP_NORM = 1.0

Params = nnx.State  # of `Weight`s
OptimizerState = dict[str, Any]  # method -> its moments, by path of the weight


class Optimizer(NamedTuple):
    """`init(params) -> state` and `update(grads, state, params, rate, weight_decay) -> (params, state)`."""

    init: Callable[[Params], OptimizerState]
    update: Callable[[Params, OptimizerState, Params, ArrayLike, ArrayLike], tuple[Params, OptimizerState]]


class _Method(NamedTuple):
    """Gradients by path to directions by path, whose entries are of order one (Adam) or MUON_RMS (Muon)."""

    init: Callable[[dict[str, Array]], Any]
    update: Callable[[dict[str, Array], Any], tuple[dict[str, Array], Any]]


def optimizer(name: str, config: ModelConfig) -> Optimizer:
    """The optimiser called `name` for a model of `config`; InputError names the known ones.

    Rate and decay may be traced. A weight moves by -rate * rule.learning_rate * (direction + weight_decay * rule.decay * weight).
    """
    if name not in OPTIMIZERS:
        raise InputError(f"optimizer {name!r} is not known; it is one of {', '.join(OPTIMIZERS)}")

    def init(params: Params) -> OptimizerState:
        return {method: _method(method, weights).init(_values(weights)) for method, weights in _methods(name, params).items()}

    def update(
        grads: Params, state: OptimizerState, params: Params, rate: ArrayLike, weight_decay: ArrayLike
    ) -> tuple[Params, OptimizerState]:
        gradients = _clipped(_values(named_weights(grads)))
        moved: dict[str, Array] = {}
        after: OptimizerState = {}
        for method, weights in _methods(name, params).items():
            rules = {path: rule_of(weight, config, method) for path, weight in weights.items()}
            # Adam sees no scale but through its epsilon: a smaller gradient is a larger epsilon.
            own = {path: gradients[path] / rule.epsilon for path, rule in rules.items()}
            directions, after[method] = _method(method, weights).update(own, state[method])
            for path, rule in rules.items():
                value = weights[path].get_value()
                moved[path] = value - rate * rule.learning_rate * (directions[path] + weight_decay * rule.decay * value)
        return jax.tree.unflatten(jax.tree.structure(params), [moved[path] for path in named_weights(params)]), after

    return Optimizer(init, update)


def _clipped(gradients: dict[str, Array]) -> dict[str, Array]:
    clip: Any = optax.clip_by_global_norm(CLIP_NORM)
    return clip.update(gradients, clip.init(gradients))[0]


def _methods(name: str, params: Params) -> dict[str, dict[str, Weight]]:
    """The weights that each method moves."""
    weights = named_weights(params)
    if name == "adam":
        return {"adam": weights}
    hidden = {path: weight for path, weight in weights.items() if weight.get_metadata("kind") == "hidden"}
    return {"adam": {path: weight for path, weight in weights.items() if path not in hidden}, "muon": hidden}


def _method(method: str, weights: dict[str, Weight]) -> _Method:
    return _muon(weights) if method == "muon" else _adam()


def _adam() -> _Method:
    adam: Any = optax.scale_by_adam(ADAM_B1, ADAM_B2, ADAM_EPS)
    return _Method(adam.init, adam.update)


def _muon(weights: dict[str, Weight]) -> _Method:
    """Optax's Newton-Schulz on the matrices of every weight."""
    axes = {path: [matrix_axes(path, weight)] * max(1, len(weight.get_metadata("parts"))) for path, weight in weights.items()}
    muon: Any = optax.contrib.scale_by_muon(beta=MUON_BETA, weight_dimension_numbers=axes)

    def split(values: dict[str, Array]) -> dict[str, list[Array]]:
        return {path: _split(weight, values[path]) for path, weight in weights.items()}

    def update(gradients: dict[str, Array], state: Any) -> tuple[dict[str, Array], Any]:
        found, after = muon.update(split(gradients), state)
        return {path: _joined(weight, [_scaled(weight, part) for part in found[path]]) for path, weight in weights.items()}, after

    return _Method(lambda values: muon.init(split(values)), update)


def matrix_axes(path: str, weight: Weight) -> optax.contrib.MuonDimensionNumbers:
    """Which axes of `weight` are its matrices' inputs and outputs, counted from the end; all others count matrices.

    ValueError where the inputs do not multiply to the weight's fan-in: its metadata then describe another matrix.
    """
    shape, inputs, fan_in = weight.get_value().shape, weight.get_metadata("inputs"), weight.get_metadata("fan_in")
    given = math.prod(shape[axis] for axis in inputs)
    if given != fan_in:
        raise ValueError(f"{path}: axes {inputs} of shape {shape} have {given} inputs, but its fan_in is {fan_in}")
    return optax.contrib.MuonDimensionNumbers(inputs, weight.get_metadata("outputs"))


def _split(weight: Weight, value: Array) -> list[Array]:
    """The parts of a weight that lie side by side along its first output axis."""
    cuts = list(itertools.accumulate(weight.get_metadata("parts")))[:-1]
    return jnp.split(value, cuts, axis=weight.get_metadata("outputs")[0])


def _joined(weight: Weight, parts: list[Array]) -> Array:
    return jnp.concatenate(parts, axis=weight.get_metadata("outputs")[0])


def _scaled(weight: Weight, part: Array) -> Array:
    """Orthogonal matrices with a root mean square near MUON_RMS: an orthogonal (a, b) has 1 / sqrt(max(a, b))."""
    inputs, outputs = (math.prod(part.shape[axis] for axis in weight.get_metadata(side)) for side in ("inputs", "outputs"))
    return MUON_RMS * math.sqrt(max(inputs, outputs)) * part


def _values(weights: dict[str, Weight]) -> dict[str, Array]:
    return {path: weight.get_value() for path, weight in weights.items()}
