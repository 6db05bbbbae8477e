"""Counts against referees: the arrays of a real model, the products of its program, and XLA's own count."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from models import ModelConfig, Transformer, count_params, ladder, training_flops
from models.moe import MoE

SHAPES = [
    ladder(32, context=24),
    ModelConfig(layers=3, width=48, heads=4, vocab_size=100, context=16, ffn=80),
    ModelConfig(layers=2, width=32, heads=2, context=16, experts=4, experts_per_token=2),
    ModelConfig(layers=2, width=32, heads=2, context=16, experts=8, experts_per_token=3, expert_ffn=20),
]


@pytest.mark.parametrize("config", SHAPES)
def test_groups_sum_to_the_parameters_of_a_real_model(config):
    params = nnx.state(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))), nnx.Param)
    count = count_params(config)
    assert count.total == sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert count.total == sum(count.groups.values())
    assert count.active <= count.total
    assert (count.active < count.total) == config.is_moe


def _program(config: ModelConfig, batch: int, dispatch: str = "dropless"):
    model = Transformer(config, rngs=nnx.Rngs(0), unroll=True)
    if config.is_moe:
        assert isinstance(model.blocks_L.ffn, MoE)
        model.blocks_L.ffn.dispatch = dispatch
    graph, params = nnx.split(model, nnx.Param)
    tokens = jnp.zeros((batch, config.context), jnp.int32)
    return jax.grad(lambda params: jnp.sum(jax.nn.logsumexp(nnx.merge(graph, params)(tokens), axis=-1))), params


def _dot_flops(jaxpr) -> int:
    """2 * output size * contracted size of every dot_general, inner programs included."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
        repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += repeats * _dot_flops(inner)
    return total


@pytest.mark.parametrize("config", SHAPES[:2])
def test_training_flops_are_every_product_of_the_gradient_program(config):
    gradient, params = _program(config, batch=3)
    counted = _dot_flops(jax.make_jaxpr(gradient)(params).jaxpr)
    assert training_flops(config).training * 3 * config.context == counted


def test_moe_flops_are_those_of_the_dense_oracle_with_as_many_experts_as_a_token_visits():
    """With all experts visited nothing is inactive, and the oracle's program does exactly the nominal work.

    Less the products that combine experts, which the count leaves out: 2 R E D forward, twice that backward, and the gates.
    """
    config = ModelConfig(layers=2, width=32, heads=2, context=16, experts=4, experts_per_token=4)
    gradient, params = _program(config, batch=2, dispatch="dense")
    rows = 2 * config.context
    nominal = training_flops(config).training * rows
    counted = _dot_flops(jax.make_jaxpr(gradient)(params).jaxpr)
    assert 1.0 <= counted / nominal < 1.03


def test_training_flops_against_xla_on_an_unrolled_model():
    """XLA also counts element-wise work: at this width a few per cent, never less than ours."""
    config = ModelConfig(layers=2, width=256, heads=4, context=32)
    gradient, params = _program(config, batch=2)
    analysis = jax.jit(gradient).lower(params).compile().cost_analysis()
    assert analysis is not None
    counted = analysis["flops"]
    assert 1.0 <= counted / (training_flops(config).training * 2 * config.context) < 1.04


def test_causal_count_lies_below_the_full_one_by_half_the_square():
    config = ladder(32, context=128)
    count = training_flops(config)
    square = 3 * 4 * 128 * 32 * config.layers
    assert count.training - count.training_causal == pytest.approx(square * 127 / 256)
