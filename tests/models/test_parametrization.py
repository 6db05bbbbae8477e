"""Width and depth transfer: the rules are what their sources print, and after large steps every width has moved equally far."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import ModelConfig, Transformer, ladder
from models.parametrization import (
    BASE_LAYERS,
    BASE_WIDTH,
    HEAD_RATE,
    KINDS,
    POSITION_STD,
    LeafRule,
    Weight,
    head_multiplier,
    leaf_rule,
    named_weights,
    new_weight,
    residual_multiplier,
    rules,
    rules_table,
)
from models.precision import policy
from scaling.optimizers import optimizer

FAN_IN = 100


def shape(width: int = BASE_WIDTH, layers: int = BASE_LAYERS, **more: Any) -> ModelConfig:
    return ModelConfig(layers=layers, width=width, heads=width // 16, **more)


def test_completep_is_its_table():
    """Twice the base's width and four times its depth (Dey et al. 2025, table 1 with alpha = 1); the head in the form of muP's table 3."""
    wide = shape(2 * BASE_WIDTH, 4 * BASE_LAYERS)
    assert {kind: leaf_rule(kind, FAN_IN, wide) for kind in KINDS} == {
        "embedding": LeafRule(1.0, 1.0, 1.0, 1 / 2),
        "position": LeafRule(POSITION_STD, 1.0, 1.0, 1 / 2),
        "hidden": LeafRule(0.1, 1 / 2, 2.0, 1 / 8),
        "router": LeafRule(0.1, 1 / 2, 2.0, 1 / 4),
        "head": LeafRule(0.0, HEAD_RATE / 2, 2.0, 1.0),
        "gain": LeafRule(0.0, 1.0, 0.0, 1 / 8),
        "bias": LeafRule(0.0, 1.0, 0.0, 1 / 8),
    }
    assert residual_multiplier(wide) == 1 / 4


def test_mup_has_no_depth_in_it_and_standard_neither():
    deep, base = shape(2 * BASE_WIDTH, 4 * BASE_LAYERS, parametrization="mup"), shape(2 * BASE_WIDTH, parametrization="completep")
    assert residual_multiplier(deep) == residual_multiplier(base) == 1
    for kind in KINDS:
        assert leaf_rule(kind, FAN_IN, deep) == leaf_rule(kind, FAN_IN, base)
    plain = shape(2 * BASE_WIDTH, 4 * BASE_LAYERS, parametrization="standard")
    assert residual_multiplier(plain) == head_multiplier(plain) == 1
    for kind in ("embedding", "hidden", "router", "head"):
        assert dataclasses.astuple(leaf_rule(kind, FAN_IN, plain))[1:] == (1, 1, 1)
    assert leaf_rule("head", FAN_IN, plain).init_std == 0.1


@pytest.mark.parametrize("name", ["adam", "muon"])
@pytest.mark.parametrize("parametrization", ["completep", "mup", "standard"])
def test_rates_and_decays_multiply_to_the_same_at_every_width(parametrization, name):
    for kind in KINDS:
        found = [leaf_rule(kind, FAN_IN, shape(width, parametrization=parametrization), name) for width in (32, 64, 256)]
        products = [rule.learning_rate * rule.decay for rule in found]
        assert max(products) == pytest.approx(min(products), rel=1e-12)


def test_muon_changes_hidden_weights_only():
    for kind in KINDS:
        adam, muon = (leaf_rule(kind, FAN_IN, shape(4 * BASE_WIDTH), name) for name in ("adam", "muon"))
        assert (adam == muon) == (kind != "hidden")
    hidden = leaf_rule("hidden", FAN_IN, shape(4 * BASE_WIDTH), "muon")
    assert (hidden.learning_rate, hidden.decay) == (1 / 2, 2)


def test_weights_start_as_their_rule_says():
    config = shape(128)
    rngs = nnx.Rngs(0)
    for kind in KINDS:
        value = new_weight(rngs, (128, 128), kind, FAN_IN, config, policy("fp32")).get_value()
        if kind == "gain":
            assert (value == 1).all()
        else:
            assert float(jnp.std(value)) == pytest.approx(leaf_rule(kind, FAN_IN, config).init_std, rel=0.02)


def test_every_weight_of_a_model_has_a_rule():
    config = ModelConfig(layers=3, width=128, heads=2, experts=4, experts_per_token=2)
    params = nnx.state(jax.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))), nnx.Param)
    found = rules(params, config)
    assert len(found) == len(jax.tree.leaves(params)) > 8
    kinds = {path: weight.get_metadata("kind") for path, weight in named_weights(params).items()}
    assert {"embedding", "hidden", "router", "head", "gain"} == set(kinds.values())
    assert {rule.learning_rate for path, rule in found.items() if kinds[path] == "hidden"} == {0.5}
    table = rules_table(params, config).splitlines()
    assert len(table) == 2 + len(found)
    row = next(line for line in table if "embedding" in line)
    assert row == "| embedding_VD | embedding | 256x128 | 1 | 1 | 1 | 0.5 |"


V, B, STEPS = 32, 64, 4


def toy_weights(config: ModelConfig) -> nnx.State:
    """Embedding, one residual block, head: the least that has every kind of matrix."""
    rng, D = np.random.default_rng(0), config.width

    def new(size: tuple[int, int], kind: str, fan_in: int) -> Weight:
        value = leaf_rule(kind, fan_in, config).init_std * rng.normal(size=size)
        return Weight(jnp.asarray(value, jnp.float32), kind=kind, fan_in=fan_in, inputs=(-2,), outputs=(-1,), parts=())

    return nnx.State(
        {
            "embedding_VD": new((V, D), "embedding", 1),
            "up_DF": new((D, 2 * D), "hidden", D),
            "down_FD": new((2 * D, D), "hidden", 2 * D),
            "head_DV": new((D, V), "head", D),
        }
    )


def toy(params: nnx.State, tokens_B: jax.Array) -> dict[str, jax.Array]:
    """The activations of every place."""

    def normed(x: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)

    weights = {path: weight.get_value() for path, weight in named_weights(params).items()}
    x_BD = weights["embedding_VD"][tokens_B]
    hidden_BF = jax.nn.relu(normed(x_BD) @ weights["up_DF"])
    branch_BD = hidden_BF @ weights["down_FD"]
    return {"hidden": hidden_BF, "branch": branch_BD, "logits": normed(x_BD + branch_BD) @ weights["head_DV"]}


def toy_after_steps(width: int, name: str, parametrization: str) -> dict[str, float]:
    """Root mean square of the activations of every place after STEPS large steps."""
    config = shape(width, parametrization=parametrization)
    rng = np.random.default_rng(1)
    tokens_B, targets_B = jnp.asarray(rng.integers(V, size=B)), jnp.asarray(rng.integers(V, size=B))
    own = optimizer(name, config)

    def loss(params: nnx.State) -> jax.Array:
        picked_B1 = jnp.take_along_axis(jax.nn.log_softmax(toy(params, tokens_B)["logits"]), targets_B[:, None], axis=1)
        return -jnp.mean(picked_B1)

    def step(_: int, carry: tuple[nnx.State, dict]) -> tuple[nnx.State, dict]:
        return own.update(jax.grad(loss)(carry[0]), carry[1], carry[0], 0.1, 0.0)

    @jax.jit
    def trained(params: nnx.State) -> dict[str, jax.Array]:
        return toy(jax.lax.fori_loop(0, STEPS, step, (params, own.init(params)))[0], tokens_B)

    return {place: float(np.sqrt(np.mean(np.square(x)))) for place, x in trained(toy_weights(config)).items()}


def slopes(name: str, parametrization: str) -> dict[str, float]:
    """d log rms / d log width of every place."""
    narrow, wide = (toy_after_steps(width, name, parametrization) for width in (32, 256))
    return {place: math.log(wide[place] / narrow[place]) / math.log(256 / 32) for place in narrow}


def test_coordinate_check_of_adam_is_flat_with_the_rules_and_not_without():
    flat, without = slopes("adam", "completep"), slopes("adam", "standard")
    assert max(map(abs, flat.values())) < 0.2, flat
    assert min(without.values()) > 0.7, without


@pytest.mark.slow
def test_coordinate_check_of_muon_is_flat():
    """With one rate for all widths the branch's slope is 0.4 here (0.5 in the limit), with Adam's 1 / m it would fall instead."""
    flat = slopes("muon", "completep")
    assert max(map(abs, flat.values())) < 0.2, flat


WIDTHS = (32, 128)


def logits_after(width: int, name: str, parametrization: str, rate: float = 0.03, steps: int = 4) -> float:
    """RMS of a transformer's logits after some large steps on text: this library's own source."""
    config = ladder(width, layers=2, context=32, parametrization=parametrization)
    graph, params = nnx.split(Transformer(config, rngs=nnx.Rngs(0)))
    text = Path(dataclasses.__file__).read_bytes()[: 16 * 33]
    tokens = jnp.asarray(np.frombuffer(text, np.uint8).reshape(16, 33), jnp.int32)
    own = optimizer(name, config)

    def loss(params: nnx.State) -> jax.Array:
        logits_BTV = nnx.merge(graph, params)(tokens[:, :-1])
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits_BTV), tokens[:, 1:, None], axis=-1))

    @jax.jit
    def update(params, state):
        return own.update(jax.grad(loss)(params), state, params, rate, 0.0)

    state = own.init(params)
    for _ in range(steps):
        params, state = update(params, state)
    return float(jnp.sqrt(jnp.mean(jnp.square(nnx.merge(graph, params)(tokens[:, :-1])))))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adam", "muon"])
def test_the_logits_of_a_transformer_move_equally_far_at_every_width(name):
    def slope(parametrization: str) -> float:
        narrow, wide = (logits_after(width, name, parametrization) for width in WIDTHS)
        return math.log(wide / narrow) / math.log(WIDTHS[1] / WIDTHS[0])

    flat, without = slope("completep"), slope("standard")
    assert abs(flat) < 0.2
    assert without > 0.45
