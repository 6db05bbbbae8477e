"""The two dispatches agree, and the router does what its loss says."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import ModelConfig
from models.moe import BLOCK_ROWS, MoE, Routing, dense_dispatch, dropless_dispatch, route
from models.precision import policy


def weights(E: int, D: int = 16, F: int = 24, seed: int = 0):
    keys = jax.random.split(jax.random.key(seed), 4)
    return (
        jax.random.normal(keys[0], (70, D)),
        jax.random.normal(keys[1], (D, E)),
        jax.random.normal(keys[2], (E, D, 2, F)) / 4,
        jax.random.normal(keys[3], (E, F, D)) / 5,
    )


@pytest.mark.parametrize(
    ("E", "k"), [pytest.param(4, 1, marks=pytest.mark.slow), (8, 2), (8, 8), pytest.param(32, 4, marks=pytest.mark.slow)]
)
def test_dropless_equals_the_dense_oracle_and_so_do_its_gradients(E, k):
    x_RD, router_DE, up, down = weights(E)

    def output(dispatch, x_RD, router_DE, up, down):
        routing, _ = route(x_RD, router_DE, k)
        return dispatch(x_RD, routing, up, down)

    np.testing.assert_allclose(
        output(dropless_dispatch, x_RD, router_DE, up, down), output(dense_dispatch, x_RD, router_DE, up, down), atol=2e-5
    )

    def gradients(dispatch):
        total = jax.jit(jax.grad(lambda *arrays: jnp.sum(jnp.sin(output(dispatch, *arrays))), argnums=(0, 1, 2, 3)))
        return total(x_RD, router_DE, up, down)

    for got, expected in zip(gradients(dropless_dispatch), gradients(dense_dispatch), strict=True):
        np.testing.assert_allclose(got, expected, atol=3e-4)


@pytest.mark.parametrize("rows", [1, BLOCK_ROWS - 1, BLOCK_ROWS, 3 * BLOCK_ROWS + 1])
def test_dropless_drops_nothing_when_all_tokens_want_one_expert(rows):
    x_RD, _, up, down = weights(4)
    x_RD = jnp.concatenate([x_RD, x_RD])[:rows]
    routing = Routing(jnp.full((rows, 1), 3), jnp.ones((rows, 1)))
    np.testing.assert_allclose(dropless_dispatch(x_RD, routing, up, down), dense_dispatch(x_RD, routing, up, down), atol=2e-5)


def test_experts_are_interchangeable():
    x_RD, router_DE, up, down = weights(8)
    order = jax.random.permutation(jax.random.key(9), 8)
    plain = dropless_dispatch(x_RD, route(x_RD, router_DE, 2)[0], up, down)
    shuffled = dropless_dispatch(x_RD, route(x_RD, router_DE[:, order], 2)[0], up[order], down[order])
    np.testing.assert_allclose(plain, shuffled, atol=2e-5)


def test_balance_loss_is_one_when_balanced_and_the_number_of_experts_when_collapsed():
    E = 8
    x_RE = 1e3 * jnp.eye(E)[jnp.arange(64) % E]
    _, stats = route(x_RE, jnp.eye(E), 1)
    np.testing.assert_allclose(stats.balance_loss, 1.0, rtol=1e-5)
    np.testing.assert_allclose(stats.load_E, jnp.full(E, 1 / E), rtol=1e-6)
    _, stats = route(jnp.ones((64, E)), 1e3 * jnp.eye(E)[:1].repeat(E, axis=0), 1)
    np.testing.assert_allclose(stats.balance_loss, E, rtol=1e-5)


def test_router_works_in_float32_under_bf16():
    config = ModelConfig(layers=1, width=16, heads=1, experts=4, experts_per_token=2)
    moe = MoE(config, policy("bf16"), rngs=nnx.Rngs(0))
    y_BTD, stats = moe(jnp.ones((1, 3, 16), jnp.bfloat16))
    assert y_BTD.dtype == jnp.bfloat16
    assert stats.balance_loss.dtype == jnp.float32
