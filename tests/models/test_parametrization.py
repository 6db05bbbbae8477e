"""Width transfer: after a few large steps every width's activations have moved equally far (a coordinate check)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from models import ladder
from models.parametrization import leaf_rule
from scaling import step

WIDTHS = (32, 128)


def logits_after(width: int, rate: float, transfer: bool, steps: int = 4) -> float:
    """RMS of the logits after some steps of the project's own update, with the rule of `width` or the base width's for all."""
    config = ladder(width, layers=2, context=32)
    model = step.new_model(config, "fp32", 0)
    graph, params = nnx.split(model, nnx.Param)
    tokens = jax.random.randint(jax.random.key(0), (8, 33), 0, 256)
    adam = step._adam()
    moments = adam.init(params)

    @jax.jit
    def update(params, moments):
        gradient = jax.grad(lambda p: jnp.mean(step.cross_entropy(nnx.merge(graph, p)(tokens[:, :-1]), tokens[:, 1:])))(params)
        direction, moments = adam.update(gradient, moments)
        rule_width = width if transfer else 64
        return step.apply_update(params, direction, jnp.float32(rate), jnp.float32(0), rule_width), moments

    for _ in range(steps):
        params, moments = update(params, moments)
    return float(jnp.sqrt(jnp.mean(jnp.square(nnx.merge(graph, params)(tokens[:, :-1])))))


@pytest.mark.slow
def test_coordinate_check_is_flat_with_the_rule_and_not_without():
    def slope(transfer: bool) -> float:
        narrow, wide = (logits_after(width, 0.05, transfer) for width in WIDTHS)
        return math.log(wide / narrow) / math.log(WIDTHS[1] / WIDTHS[0])

    flat, without = slope(True), slope(False)
    assert abs(flat) < 0.2
    assert without > 0.45


def test_rates_and_decays_multiply_to_the_same_at_every_width():
    for kind in ("embedding", "hidden", "head"):
        products = {leaf_rule(kind, 10, width).learning_rate * leaf_rule(kind, 10, width).decay for width in WIDTHS}
        assert max(products) / min(products) < 1 + 1e-12
