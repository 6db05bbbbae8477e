"""Properties of the forward pass."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import ModelConfig, Transformer
from models.config import ConfigError, ladder
from models.transformer import rope

T = 12


def make(experts: int = 0, precision: str = "fp32", **more) -> Transformer:
    moe = {"experts": experts, "experts_per_token": 2} if experts else {}
    config = ModelConfig(**({"layers": 2, "width": 32, "heads": 2, "vocab_size": 64, "context": T} | moe | more))
    model = Transformer(config, precision, rngs=nnx.Rngs(0))
    # The head starts at zero; a trained one does not, and properties must hold for it.
    model.head_DV.set_value(jax.random.normal(jax.random.key(1), (32, 64)))
    return model


@pytest.mark.parametrize("experts", [0, 4])
@pytest.mark.parametrize("position", [0, 5, T - 1])
def test_causality_by_gradients(experts, position):
    """All tokens differ, so a row of the embedding's gradient is the influence of one position."""
    graph, params = nnx.split(make(experts))
    tokens_BT = jnp.arange(T)[None]

    def output(params):
        return jnp.sum(jnp.sin(nnx.merge(graph, params)(tokens_BT)[0, position]))

    influence_T = np.abs(jax.grad(output)(params)["embedding_VD"].get_value()[:T]).sum(axis=1)
    assert (influence_T[position + 1 :] == 0).all()
    assert (influence_T[: position + 1] > 0).all()


@pytest.mark.parametrize("experts", [0, 4])
def test_rows_of_a_batch_do_not_touch(experts):
    model = make(experts)
    tokens_BT = jax.random.randint(jax.random.key(2), (3, T), 0, 64)
    together = model(tokens_BT)
    alone = jnp.concatenate([model(tokens_BT[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(together, alone, atol=2e-5)


def test_scan_and_unrolled_blocks_agree():
    config = ladder(32, context=T)
    tokens_BT = jax.random.randint(jax.random.key(2), (2, T), 0, 256)
    outputs = []
    for unroll in (False, True):
        model = Transformer(config, rngs=nnx.Rngs(3), unroll=unroll)
        model.head_DV.set_value(jnp.ones_like(model.head_DV[...]))
        outputs.append(model(tokens_BT))
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-4)


def test_rope_scores_depend_on_distance_only():
    query, key = jax.random.normal(jax.random.key(0), (2, 16))
    turned_q = rope(jnp.broadcast_to(query, (1, T, 1, 16)), 100.0)[0, :, 0]
    turned_k = rope(jnp.broadcast_to(key, (1, T, 1, 16)), 100.0)[0, :, 0]
    scores_TS = np.asarray(turned_q @ turned_k.T)
    for distance in range(1, 5):
        band = np.diagonal(scores_TS, -distance)
        np.testing.assert_allclose(band, band[0], rtol=1e-4, atol=1e-4)
    assert np.ptp(scores_TS[:, 0]) > 0.1  # and it does depend on distance


def test_attention_sees_order_and_normalises_queries_and_keys():
    """Without positions, swapping two earlier tokens could not matter to a later one; with QK-norm the size of W_qk does not."""
    model = make(layers=1)
    tokens_BT = jnp.arange(T)[None]
    swapped = tokens_BT.at[0, 2].set(5).at[0, 5].set(2)
    assert float(jnp.abs(model(tokens_BT)[0, -1] - model(swapped)[0, -1]).max()) > 1e-3
    before = model(tokens_BT)
    qkv_LD3NH = model.blocks_L.attention.qkv_D3NH
    qkv_LD3NH.set_value(qkv_LD3NH[...].at[:, :, :2].multiply(10.0))
    np.testing.assert_allclose(model(tokens_BT), before, atol=1e-3)


def test_deeper_models_add_less_per_branch():
    """With the residual multiplier 16 layers move the stream no farther than 2 do."""

    def moved(layers: int) -> float:
        config = ModelConfig(layers=layers, width=32, heads=2, context=T)
        model: Any = Transformer(config, rngs=nnx.Rngs(0))
        model.head_DV.set_value(jnp.eye(32, 256))
        model.final_norm = lambda x: x
        tokens_BT = jnp.arange(T)[None]
        start = model.embedding_VD[...][tokens_BT]
        return float(jnp.sqrt(jnp.mean(jnp.square(model(tokens_BT)[..., :32] - start))))

    assert moved(16) < 1.2 * moved(2)


def test_bf16_multiplies_in_bf16_and_keeps_the_rest_in_float32():
    model = make(precision="bf16")
    tokens_BT = jnp.arange(T)[None]
    graph, params = nnx.split(model)
    jaxpr = str(jax.make_jaxpr(lambda params: nnx.merge(graph, params)(tokens_BT))(params))
    assert "bf16" in jaxpr
    assert model(tokens_BT).dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    difference = jnp.abs(model(tokens_BT) - make(precision="fp32")(tokens_BT))
    assert 0 < float(difference.mean()) < 0.1


def test_initial_loss_is_that_of_a_uniform_guess():
    model = Transformer(ladder(32), rngs=nnx.Rngs(0))
    assert (model(jnp.arange(20)[None]) == 0).all()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"width": 30, "heads": 4}, "does not divide"),
        ({"width": 12, "heads": 4}, "even head width"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"experts_per_token": 2}, "needs experts"),
        ({"experts": 4, "experts_per_token": 5}, r"experts_per_token must lie in 1\.\.4"),
        ({"experts": 1, "experts_per_token": 1}, "experts must be 0"),
    ],
)
def test_impossible_shapes_are_refused(fields, says):
    with pytest.raises(ConfigError, match=says):
        ModelConfig(**({"layers": 2, "width": 32, "heads": 2} | fields))


def test_unknown_precision_and_too_long_a_sequence_are_refused():
    with pytest.raises(ConfigError, match="fp32, bf16"):
        Transformer(ladder(32), "fp3", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="exceed the model's context"):
        make()(jnp.zeros((1, T + 1), jnp.int32))
