"""Properties of the forward pass."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import ModelConfig, Transformer
from models.attention import attend, rope
from models.config import ConfigError, ladder
from models.norms import norm
from models.precision import policy

T = 12


def make(experts: int = 0, precision: str = "fp32", **more) -> Transformer:
    moe = {"experts": experts, "experts_per_token": 2} if experts else {}
    fields: dict[str, Any] = {"layers": 2, "width": 32, "heads": 2, "vocab_size": 64, "context": T} | moe | more
    config = ModelConfig(**fields)
    model = Transformer(config, precision, rngs=nnx.Rngs(0))
    # The head starts at zero; a trained one does not, and properties must hold for it.
    if not config.tied:
        model.head_DV.set_value(jax.random.normal(jax.random.key(1), (32, 64)))
    return model


LAGGARD: dict[str, Any] = {"positions": "learned", "norm": "layer", "qk_norm": False, "activation": "gelu"}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"experts": 4},
    LAGGARD,
    {"kv_heads": 1, "activation": "relu2", "softcap": 30.0, "attention_softcap": 20.0},
    {"tied": True, "activation": "geglu", "parametrization": "standard"},
]
NAMES = ["default", "moe", "laggard", "grouped-capped", "tied-geglu"]


def slowly(variant: tuple, *quick: str) -> object:
    """A named variant as a parameter, marked slow unless it is one of the quick ones."""
    return pytest.param(variant[0], id=variant[1], marks=[] if variant[1] in quick else [pytest.mark.slow])


@pytest.mark.parametrize("variant", [slowly(each, "moe", "grouped-capped") for each in zip(VARIANTS, NAMES, strict=True)])
def test_causality_by_gradients(variant):
    """All tokens differ, so a row of the embedding's gradient is the influence of one position."""
    graph, params = nnx.split(make(**(variant | {"tied": False})))
    tokens_BT = jnp.arange(T)[None]

    @jax.jit
    def influence(params, position):
        def output(params):
            return jnp.sum(jnp.sin(nnx.merge(graph, params)(tokens_BT)[0, position]))

        return jnp.abs(jax.grad(output)(params)["embedding_VD"].get_value()[:T]).sum(axis=1)

    for position in (0, 5, T - 1):
        influence_T = np.asarray(influence(params, position))
        assert (influence_T[position + 1 :] == 0).all()
        assert (influence_T[: position + 1] > 0).all()


@pytest.mark.parametrize("variant", [slowly(each, "default", "moe") for each in zip(VARIANTS, NAMES, strict=True)])
def test_rows_of_a_batch_do_not_touch(variant):
    graph, state = nnx.split(make(**variant))
    logits = jax.jit(lambda state, tokens_BT: nnx.merge(graph, state)(tokens_BT))
    tokens_BT = jax.random.randint(jax.random.key(2), (3, T), 0, 64)
    together = logits(state, tokens_BT)
    alone = jnp.concatenate([logits(state, tokens_BT[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(together, alone, atol=5e-5)


def test_grouped_queries_equal_full_heads_whose_keys_and_values_repeat():
    """Four query heads on two key heads are four heads of which pairs have equal keys and values."""
    grouped, full = make(heads=4, kv_heads=2), make(heads=4)
    weights_LDGH = grouped.blocks_L.attention.qkv_DGH[...]
    q, k, v = jnp.split(weights_LDGH, [4, 6], axis=2)
    full.blocks_L.attention.qkv_DGH.set_value(jnp.concatenate([q, *(jnp.repeat(x, 2, axis=2) for x in (k, v))], axis=2))
    for name in ("out_NHD",):
        getattr(full.blocks_L.attention, name).set_value(getattr(grouped.blocks_L.attention, name)[...])
    full.blocks_L.ffn, full.embedding_VD = grouped.blocks_L.ffn, grouped.embedding_VD
    tokens_BT = jnp.arange(2 * T).reshape(2, T)
    np.testing.assert_allclose(full(tokens_BT), grouped(tokens_BT), atol=2e-5)


def test_attention_is_the_softmax_average_of_the_past():
    """Against the definition, written out position by position in numpy, with and without a soft cap."""
    q, k, v = (np.asarray(jax.random.normal(jax.random.key(i), (1, 2, T, 8))) for i in range(3))
    for cap in (0.0, 2.0):
        mixed = attend(*map(jnp.asarray, (q, k, v)), policy("fp32"), cap)
        for head, t in ((0, 0), (0, 5), (1, T - 1)):
            scores = k[0, head, : t + 1] @ q[0, head, t] / np.sqrt(8)
            scores = cap * np.tanh(scores / cap) if cap else scores
            odds = np.exp(scores - scores.max())
            np.testing.assert_allclose(mixed[0, head, t], odds @ v[0, head, : t + 1] / odds.sum(), rtol=2e-5, atol=1e-6)


def test_softcap_bounds_logits_and_a_tied_head_is_the_embedding():
    tokens_BT = jnp.arange(T)[None]
    free, capped = make(), make(softcap=1.0)
    assert float(jnp.abs(free(tokens_BT)).max()) > 2
    np.testing.assert_allclose(capped(tokens_BT), jnp.tanh(free(tokens_BT)), atol=1e-5)
    tied = make(tied=True, parametrization="standard")
    own = make(parametrization="standard")
    own.embedding_VD.set_value(tied.embedding_VD[...])
    own.head_DV.set_value(tied.embedding_VD[...].T)
    own.blocks_L = tied.blocks_L
    np.testing.assert_allclose(tied(tokens_BT), own(tokens_BT), atol=1e-5)


def test_layer_norm_does_not_see_the_mean_and_learned_positions_see_order():
    config = ModelConfig(layers=1, width=32, heads=2, **LAGGARD)
    layer = norm(config, policy("fp32"), rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (3, 32))
    np.testing.assert_allclose(layer(x + 5), layer(x), atol=1e-5)
    np.testing.assert_allclose(jnp.std(layer(3 * x), axis=-1), 1, rtol=1e-3)
    model = make(layers=1, **LAGGARD)
    swapped = jnp.arange(T).at[jnp.array([2, 5])].set(jnp.array([5, 2]))
    assert float(jnp.abs(model(jnp.arange(T)[None]) - model(swapped[None]))[0, -1].max()) > 1e-3


@pytest.mark.parametrize(("unroll", "remat"), [(False, "none"), (False, "blocks"), pytest.param(True, "blocks", marks=pytest.mark.slow)])
def test_remat_and_loops_change_no_gradient(remat, unroll):
    config = ladder(32, context=T)
    tokens_BT = jax.random.randint(jax.random.key(2), (2, T), 0, 256)

    def gradient(**options):
        model = Transformer(config, rngs=nnx.Rngs(3), **options)
        model.head_DV.set_value(jnp.ones_like(model.head_DV[...]))
        graph, params = nnx.split(model)
        return jax.jit(jax.grad(lambda p: jnp.mean(jnp.sin(nnx.merge(graph, p)(tokens_BT)))))(params)

    for got, expected in zip(*map(jax.tree.leaves, (gradient(remat=remat, unroll=unroll), gradient())), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-5)


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
    qkv_LDGH = model.blocks_L.attention.qkv_DGH
    qkv_LDGH.set_value(qkv_LDGH[...].at[:, :, :4].multiply(10.0))
    np.testing.assert_allclose(model(tokens_BT), before, atol=1e-3)


@pytest.mark.slow
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
        ({"kv_heads": 3}, "kv_heads must divide the 2 heads"),
        ({"activation": "swish"}, "activation must be one of swiglu"),
        ({"softcap": -1.0}, "softcap must be 0"),
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
