"""The dispatches mean the same layer, the router does what its losses say, and counts of rows are those of the programs."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import ModelConfig
from models.dispatch import DISPATCHES, Experts, capacity_dispatch, dense_dispatch, dropless_dispatch, has_grouped_product
from models.expert_rows import block_rows, expert_capacity, expert_rows
from models.moe import MoE
from models.parametrization import Weight
from models.precision import policy
from models.routing import RouterBias, Routing, balance_loss, route, updated_bias, z_loss

D, F, R = 16, 24, 70


def config(**more: Any) -> ModelConfig:
    fields: dict[str, Any] = {"layers": 1, "width": D, "heads": 1, "experts": 8, "experts_per_token": 2, "expert_ffn": F}
    return ModelConfig(**(fields | more))


@functools.cache
def layer(E: int = 8, activation: str = "swiglu", precision: str = "fp32") -> tuple[jax.Array, jax.Array, Experts]:
    """Rows, a router and experts of a layer."""
    rng = np.random.default_rng(0)
    C = 2 if activation in ("swiglu", "geglu") else 1
    x_RD, router_DE, up_EDCF, down_EFD = (
        jnp.asarray(scale * rng.standard_normal(shape), jnp.float32)
        for shape, scale in (((R, D), 1), ((D, E), 1), ((E, D, C, F), 0.25), ((E, F, D), 0.2))
    )
    return x_RD.astype(policy(precision).compute), router_DE, Experts(up_EDCF, down_EFD, activation, policy(precision))


def mlp(x, up_DCF, down_FD, activation: str = "swiglu") -> np.ndarray:
    """A dense MLP in float64, for swiglu or relu2."""
    hidden_CXF = np.einsum("...D,DCF->C...F", np.asarray(x, np.float64), np.asarray(up_DCF, np.float64))
    if activation == "swiglu":
        return hidden_CXF[0] / (1 + np.exp(-hidden_CXF[0])) * hidden_CXF[1] @ np.asarray(down_FD, np.float64)
    return np.maximum(hidden_CXF[0], 0) ** 2 @ np.asarray(down_FD, np.float64)


def by_hand(x_RD, experts_RK, weights_RK, experts: Experts) -> np.ndarray:
    """The layer row by row and choice by choice, in float64."""
    x_RD, experts_RK, weights_RK, up_EDCF, down_EFD = map(np.asarray, (x_RD, experts_RK, weights_RK, experts.up_EDCF, experts.down_EFD))
    y_RD = np.zeros(x_RD.shape)
    for r, k in np.ndindex(experts_RK.shape):
        e = experts_RK[r, k]
        y_RD[r] += weights_RK[r, k] * mlp(x_RD[r], up_EDCF[e], down_EFD[e])
    return y_RD


quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # half the time to compile
routed = quick_jit(route, static_argnames="config")


@functools.partial(quick_jit, static_argnames=("dispatch", "capacity", "native"))
def dispatched(dispatch, x_RD, routing, experts, capacity, **native):
    return dispatch(x_RD, routing, experts, capacity, **native)


@functools.partial(quick_jit, static_argnames=("dispatch", "k", "capacity", "native"))
def with_gradients(dispatch, x_RD, router_DE, experts, k, capacity, **native):
    """Output and share dropped, and the gradients of rows, router and weights."""

    def total(x_RD, router_DE, experts):
        routing, _ = route(x_RD, router_DE, config(experts=router_DE.shape[1], experts_per_token=k))
        y_RD, dropped = dispatch(x_RD, routing, experts, capacity, **native)
        return jnp.sum(jnp.sin(y_RD.astype(jnp.float32))), (y_RD, dropped)

    (_, out), grads = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)(x_RD, router_DE, experts)
    return out, grads


WAYS = {
    "capacity": {"dispatch": capacity_dispatch, "capacity": R},
    "one product": {"dispatch": dropless_dispatch, "capacity": R},
    "mostly blocks": {"dispatch": dropless_dispatch, "capacity": 3},
    "ragged": {"dispatch": dropless_dispatch, "capacity": 3, "native": True},
}


def assert_equal_to_the_oracle(way: str, k: int, arrays, atol_out: float = 1e-5, atol_grad: float = 1e-4):
    (expected_RD, _), expected = with_gradients(dense_dispatch, *arrays, k=k, capacity=0)
    (y_RD, dropped), grads = with_gradients(*arrays_of(way, arrays), k=k, **options(way))
    assert dropped == 0
    np.testing.assert_allclose(np.float32(y_RD), np.float32(expected_RD), atol=atol_out)
    for got, want in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(np.float32(got), np.float32(want), atol=atol_grad)


def arrays_of(way: str, arrays):
    return WAYS[way]["dispatch"], *arrays


def options(way: str) -> dict:
    return {name: value for name, value in WAYS[way].items() if name != "dispatch"}


def test_the_oracle_is_the_layer_by_hand():
    x_RD, router_DE, experts = layer()
    routing, _ = routed(x_RD, router_DE, config())
    y_RD, dropped = dispatched(dense_dispatch, x_RD, routing, experts, capacity=18)
    np.testing.assert_allclose(y_RD, by_hand(x_RD, *routing, experts), atol=1e-5)
    assert dropped == 0


@pytest.mark.parametrize("way", ["capacity", "mostly blocks", "ragged"])
def test_dispatches_and_their_gradients_equal_the_dense_oracle(way):
    assert_equal_to_the_oracle(way, 2, layer())


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("E", "k", "activation"), [(1, 1, "gelu"), (4, 1, "swiglu"), (8, 8, "relu2"), (128, 4, "geglu"), (8, 3, "relu")])
def test_dispatches_and_their_gradients_equal_the_dense_oracle_at_other_shapes(way, E, k, activation):
    assert_equal_to_the_oracle(way, k, layer(E, activation))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_dispatches_agree_in_bf16_to_its_rounding(way):
    """Sums over choices are float32: about one rounding of the result, however many there are."""
    assert_equal_to_the_oracle(way, 4, layer(precision="bf16"), atol_out=0.02, atol_grad=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp8", "int8", "w4a8"])
def test_quantised_formats_go_through_every_dispatch(precision):
    """Nearer to each other than to float32; dropless never takes the unquantised grouped product by itself."""
    x_RD, router_DE, experts = layer(precision=precision)
    routing, _ = routed(x_RD, router_DE, config())
    exact_RD = by_hand(x_RD, *routing, experts)
    dense_RD, _ = dispatched(dense_dispatch, x_RD, routing, experts, capacity=0)
    blocks_RD, _ = dispatched(dropless_dispatch, x_RD, routing, experts, capacity=3)
    error = np.std(np.float32(dense_RD) - exact_RD)
    assert 0 < error < 0.2 * np.std(exact_RD)
    assert np.std(np.float32(blocks_RD) - np.float32(dense_RD)) < error
    assert not experts.unquantised


def test_dropless_drops_nothing_when_all_rows_want_the_same_experts():
    """The last block reaches beyond the choices."""
    x_RD, _, experts = layer()
    routing = Routing(jnp.tile(jnp.array([[3, 5]]), (R, 1)), jnp.tile(jnp.array([[0.75, 0.25]]), (R, 1)))
    y_RD, dropped = dispatched(dropless_dispatch, x_RD, routing, experts, capacity=18)
    assert (R - 18) % block_rows(18) > 0
    assert dropped == 0
    np.testing.assert_allclose(y_RD, by_hand(x_RD, *routing, experts), atol=1e-5)


def test_capacity_drops_what_comes_last_and_says_how_much():
    """All rows choose expert 3 first, and by turns 0 or 1 second; each has 18 places."""
    x_RD, _, experts = layer()
    experts_RK = jnp.stack([jnp.full(R, 3), jnp.arange(R) % 2], axis=1)
    weights_RK = jnp.tile(jnp.array([[0.75, 0.25]]), (R, 1))
    y_RD, dropped = dispatched(capacity_dispatch, x_RD, Routing(experts_RK, weights_RK), experts, capacity=18)
    kept_RK = np.stack([np.arange(R) < 18, np.arange(R) < 36], axis=1)
    np.testing.assert_allclose(dropped, 1 - 54 / (2 * R), rtol=1e-6)
    np.testing.assert_allclose(y_RD, by_hand(x_RD, experts_RK, weights_RK * kept_RK, experts), atol=1e-5)


def test_first_choices_come_before_second_ones_whatever_the_row():
    """All rows choose expert 0 and then 1, but the last, which chooses 1 and then 0."""
    x_RD, _, experts = layer()
    experts_RK = jnp.tile(jnp.array([[0, 1]]), (R, 1)).at[-1].set(jnp.array([1, 0]))
    weights_RK = jnp.full((R, 2), 0.5)
    y_RD, dropped = dispatched(capacity_dispatch, x_RD, Routing(experts_RK, weights_RK), experts, capacity=18)
    kept_RK = np.stack([np.arange(R) < 18, np.arange(R) < 17], axis=1)
    kept_RK[-1] = [True, False]
    np.testing.assert_allclose(dropped, 1 - 36 / (2 * R), rtol=1e-6)
    np.testing.assert_allclose(y_RD, by_hand(x_RD, experts_RK, weights_RK * kept_RK, experts), atol=1e-5)


@pytest.mark.parametrize("native", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_members_under_vmap_are_those_alone(native):
    """Each has its own number of blocks: one member's rows all want the same experts, another's spread."""
    x_RD, router_DE, experts = layer()
    way = {"dispatch": dropless_dispatch, "x_RD": x_RD, "k": 2, "capacity": 20, "native": native}
    members = (jnp.stack([jnp.zeros_like(router_DE), router_DE]), jax.tree.map(lambda w: jnp.stack([w, -2 * w]), experts))
    together = jax.vmap(lambda router_DE, experts: with_gradients(router_DE=router_DE, experts=experts, **way))(*members)
    for m in range(2):
        alone = with_gradients(router_DE=members[0][m], experts=jax.tree.map(lambda w, m=m: w[m], members[1]), **way)
        for got, expected in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(got[m], expected, atol=2e-4)


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_experts_are_interchangeable(dispatch):
    x_RD, router_DE, experts = layer()
    order = np.random.default_rng(9).permutation(8)
    shuffled = dataclasses.replace(experts, up_EDCF=experts.up_EDCF[order], down_EFD=experts.down_EFD[order])
    run = functools.partial(dispatched, DISPATCHES[dispatch], x_RD, capacity=18)
    plain_RD, dropped = run(routed(x_RD, router_DE, config())[0], experts)
    other_RD, _ = run(routed(x_RD, router_DE[:, order], config())[0], shuffled)
    assert (dropped > 0) == (dispatch == "capacity")
    np.testing.assert_allclose(plain_RD, other_RD, atol=1e-5)


def test_ragged_products_are_used_where_they_are_real():
    assert has_grouped_product("tpu")
    assert not has_grouped_product("cpu")


# The module

X_BTD = jnp.asarray(np.random.default_rng(5).standard_normal((2, 12, D)), jnp.float32)


def moe_of(shape: ModelConfig, precision: str = "fp32") -> MoE:
    """A module with weights of numpy, which need no compilation; all of one name, and of as many values, are the same."""

    def value(path: tuple, weight: nnx.Variable) -> nnx.Variable:
        scale = weight.get_metadata().get("fan_in", math.inf) ** -0.5
        rng = np.random.default_rng(list(str(path[-1]).encode()))
        return weight.replace(jnp.asarray(scale * rng.standard_normal(weight.shape), jnp.float32))

    graph, state = nnx.split(nnx.eval_shape(lambda: MoE(shape, policy(precision), rngs=nnx.Rngs(0))))
    return nnx.merge(graph, nnx.from_flat_state([(path, value(path, weight)) for path, weight in nnx.to_flat_state(state)]))


def applied(moe: MoE, x_BTD: jax.Array = X_BTD):
    return quick_jit(lambda moe, x_BTD: moe(x_BTD))(moe, x_BTD)


@pytest.mark.parametrize("activation", ["swiglu", "relu2"])
def test_one_expert_is_a_dense_mlp(activation):
    moe = moe_of(config(experts=1, experts_per_token=1, activation=activation))
    y_BTD, stats = applied(moe)
    np.testing.assert_allclose(y_BTD, mlp(X_BTD, moe.up_EDCF[0], moe.down_EFD[0], activation), atol=1e-5)
    np.testing.assert_allclose([stats.entropy, stats.balance_loss, stats.dropped], [0, 1, 0], atol=1e-6)


def test_shared_experts_add_a_dense_mlp_of_their_joint_width():
    moe, alone = moe_of(config(shared_experts=2)), moe_of(config())
    np.testing.assert_array_equal(moe.down_EFD[...], alone.down_EFD[...])
    assert moe.shared_up_DCF.shape == (D, 2, 2 * F)
    shared_BTD = mlp(X_BTD, moe.shared_up_DCF[...], moe.shared_down_FD[...])
    np.testing.assert_allclose(applied(moe)[0], applied(alone)[0] + shared_BTD, atol=1e-5)


def test_a_hundred_and_twenty_eight_experts():
    """Fewer choices than experts: some have none."""
    moe = moe_of(config(experts=128, experts_per_token=4))
    y_BTD, stats = applied(moe)
    routing, _ = routed(X_BTD.reshape(-1, D), moe.router_DE[...], moe.config)
    experts = Experts(moe.up_EDCF[...], moe.down_EFD[...], "swiglu", moe.precision)
    np.testing.assert_allclose(y_BTD.reshape(-1, D), by_hand(X_BTD.reshape(-1, D), *routing, experts), atol=1e-5)
    np.testing.assert_allclose(jnp.sum(stats.load_E), 1, rtol=1e-6)
    assert 0 < stats.entropy < math.log(128)
    assert jnp.sum(stats.load_E == 0) > 32


def test_everything_about_routing_is_float32_under_bf16():
    moe = moe_of(config(balance="bias", shared_experts=1), "bf16")
    y_BTD, stats = applied(moe, X_BTD.astype(jnp.bfloat16))
    assert y_BTD.dtype == jnp.bfloat16
    assert {value.dtype for value in stats} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(moe))} == {jnp.dtype("float32")}
    # The same choices and weights as float32 makes from the same rounded rows.
    rounded_RD = X_BTD.astype(jnp.bfloat16).reshape(-1, D)
    low, high = (routed(x, moe.router_DE[...], moe.config)[0] for x in (rounded_RD, rounded_RD.astype(jnp.float32)))
    np.testing.assert_array_equal(low.experts_RK, high.experts_RK)
    np.testing.assert_array_equal(low.weights_RK, high.weights_RK)


def test_the_bias_is_state_without_gradient_and_weights_know_their_kind_and_fan_in():
    moe = moe_of(config(balance="bias", shared_experts=2))
    graph, params, rest = nnx.split(moe, nnx.Param, ...)
    assert set(params) == {"router_DE", "up_EDCF", "down_EFD", "shared_up_DCF", "shared_down_FD"}
    assert all(isinstance(getattr(moe, name), Weight) for name in params)
    assert moe.router_DE.get_metadata("kind") == "router"
    assert moe.shared_down_FD.get_metadata("fan_in") == 2 * F
    assert isinstance(moe.bias_E, RouterBias)
    assert not hasattr(moe_of(config()), "bias_E")

    @quick_jit
    @jax.grad
    def gradient(rest):
        y_BTD, stats = nnx.merge(graph, params, rest)(X_BTD)
        return jnp.sum(y_BTD) + stats.balance_loss + stats.z_loss

    assert [leaf.shape for leaf in jax.tree.leaves(rest)] == [(8,)]
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient(rest)))


def test_layers_stack_under_vmap_and_run_in_a_scan_with_gradients():
    shape = config(experts=4, balance="bias")
    make = quick_jit(jax.vmap(lambda key: MoE(shape, policy("fp32"), rngs=nnx.Rngs(params=key))))
    stacked = make(jax.random.split(jax.random.key(1), 3))
    graph, params, rest = nnx.split(stacked, nnx.Param, ...)
    assert jax.tree.leaves(rest)[0].shape == (3, 4)

    @quick_jit
    @jax.grad
    def gradient(params):
        def body(x_BTD, layer):
            y_BTD, stats = nnx.merge(graph, *layer)(x_BTD)
            return x_BTD + y_BTD, stats

        x_BTD, stats = jax.lax.scan(jax.checkpoint(body, prevent_cse=False), X_BTD, (params, rest))
        assert stats.load_E.shape == (3, 4)
        assert stats.z_loss.shape == (3,)
        return jnp.sum(x_BTD**2) + jnp.sum(stats.balance_loss)

    for leaf in jax.tree.leaves(gradient(params)):
        assert jnp.isfinite(leaf).all()
        assert (jnp.abs(leaf).reshape(3, -1).sum(axis=1) > 0).all()


# The router


@pytest.mark.parametrize("k", [1, 2, 4])
def test_balance_loss_is_one_when_balanced_for_every_k(k):
    E = 8
    order = (np.arange(64)[:, None] + np.arange(E)[None]) % E  # row r likes expert r most, then r + 1, ...
    logits_RE = np.zeros((64, E), np.float32)
    logits_RE[np.arange(64)[:, None], order] = -np.arange(E)
    _, stats = routed(jnp.asarray(logits_RE), np.eye(E, dtype=np.float32), config(experts_per_token=k))
    np.testing.assert_allclose(stats.balance_loss, 1.0, rtol=1e-5)
    np.testing.assert_allclose(stats.load_E, jnp.full(E, 1 / E), rtol=1e-6)


def test_balance_loss_is_the_number_of_experts_when_one_gets_all():
    _, stats = routed(np.ones((64, 8), np.float32), np.eye(8, dtype=np.float32)[:1].repeat(8, axis=0) * 1e3, config(experts_per_token=1))
    np.testing.assert_allclose(stats.balance_loss, 8, rtol=1e-5)
    np.testing.assert_allclose(balance_loss(jnp.full((3, 4), 0.25), jnp.array([1.0, 0, 0, 0])), 1.0)


def test_balance_loss_moves_a_skewed_router_towards_balance():
    x_RD, router_DE, _ = layer()
    x_RD = x_RD.at[:, 0].set(1.0)
    loss = jax.value_and_grad(lambda router_DE: route(x_RD, router_DE, config())[1].balance_loss)

    def step(router_DE, _):
        value, gradient = loss(router_DE)
        return router_DE - 0.3 * gradient, value

    values_S = jax.lax.scan(step, router_DE.at[0, 2].add(8.0), length=200)[1]
    assert values_S[0] > 1.5
    assert values_S[-1] < 1.1


def test_z_loss_and_entropy_by_hand():
    logits_RE = jnp.asarray(np.log([[1, 2, 3, 2], [4, 4, 4, 4]]), jnp.float32)
    _, stats = routed(logits_RE, np.eye(4, dtype=np.float32), config(experts=4))
    np.testing.assert_allclose(stats.z_loss, (math.log(8) ** 2 + math.log(16) ** 2) / 2, rtol=1e-5)
    np.testing.assert_allclose(z_loss(jnp.array([2.0, -3.0])), 6.5)
    first = -sum(p * math.log(p) for p in (1 / 8, 2 / 8, 3 / 8, 2 / 8))
    np.testing.assert_allclose(stats.entropy, (first + math.log(4)) / 2, rtol=1e-6)

    _, stats = routed(logits_RE, np.eye(4, dtype=np.float32), config(experts=4, router="sigmoid"))
    scores = [s / (1 + s) for s in (1, 2, 3, 2)]
    first = -sum(s / sum(scores) * math.log(s / sum(scores)) for s in scores)
    np.testing.assert_allclose(stats.entropy, (first + math.log(4)) / 2, rtol=1e-6)


@functools.partial(quick_jit, static_argnames="shape")
def weights_and_gradient(x_RD, router_DE, shape):
    def total(router_DE):
        weights_RK = route(x_RD, router_DE, shape)[0].weights_RK
        return jnp.sum(weights_RK[:, 0]), weights_RK

    (_, weights_RK), gradient_DE = jax.value_and_grad(total, has_aux=True)(router_DE)
    return weights_RK, gradient_DE


@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
def test_weights_are_the_chosen_scores_over_their_sum_and_alone_the_score_itself(router):
    x_RD, router_DE, _ = layer()
    logits_RE = np.asarray(x_RD, np.float64) @ np.asarray(router_DE, np.float64)
    scores_RE = np.exp(logits_RE) / np.exp(logits_RE).sum(axis=1, keepdims=True) if router == "softmax" else 1 / (1 + np.exp(-logits_RE))
    for k in (1, 3):
        weights_RK, gradient_DE = weights_and_gradient(x_RD, router_DE, config(experts_per_token=k, router=router))
        best_RK = np.sort(scores_RE, axis=1)[:, ::-1][:, :k]
        np.testing.assert_allclose(weights_RK, best_RK if k == 1 else best_RK / best_RK.sum(axis=1, keepdims=True), atol=1e-5)
        assert jnp.abs(gradient_DE).max() > 0.01  # with one choice too the router learns from the loss


def test_bias_balances_a_skewed_router_and_leaves_the_weights_of_what_is_chosen():
    """Three of eight experts take nearly everything; some hundred updates bring the fullest within 1.15 of the mean."""
    shape, rng = config(router="sigmoid", balance="bias"), np.random.default_rng(2)
    x_RD = jnp.asarray(rng.standard_normal((512, D)), jnp.float32).at[:, 0].set(1.0)
    router_DE = jnp.asarray(rng.standard_normal((D, 8)) / 8, jnp.float32).at[0, :3].add(2.0)

    def step(bias_E, _):
        _, stats = route(x_RD, router_DE, shape, bias_E)
        return updated_bias(bias_E, stats.load_E, 2e-3), stats.load_E

    bias_E, loads_SE = jax.lax.scan(step, jnp.zeros(8), length=400)
    assert loads_SE[0].max() * 8 > 2
    assert loads_SE[-1].max() * 8 < 1.15

    routing, _ = routed(x_RD, router_DE, shape, bias_E)
    scores_RE = 1 / (1 + np.exp(-np.asarray(x_RD @ router_DE, np.float64)))
    scores_RK = np.take_along_axis(scores_RE, np.asarray(routing.experts_RK), axis=1)
    np.testing.assert_allclose(routing.weights_RK, scores_RK / scores_RK.sum(axis=1, keepdims=True), atol=1e-6)


def test_bias_update_is_the_sign_of_what_is_missing_and_small_steps_count():
    bias_E = updated_bias(jnp.full(4, 0.5, jnp.bfloat16), jnp.array([0.4, 0.1, 0.25, 0.25]), 1e-3)
    assert bias_E.dtype == jnp.float32
    np.testing.assert_allclose(bias_E, [0.499, 0.501, 0.5, 0.5], rtol=1e-6)
    layers_LE = updated_bias(jnp.zeros((2, 2)), jnp.array([[0.7, 0.3], [0.2, 0.8]]), 0.1)
    np.testing.assert_allclose(layers_LE, [[-0.1, 0.1], [0.1, -0.1]], rtol=1e-6)


# Counts of rows


def test_capacity_is_its_share_rounded_up_and_never_more_than_the_rows():
    assert expert_capacity(config(dispatch="capacity", capacity_factor=1.0), 64) == 16
    assert expert_capacity(config(dispatch="capacity", capacity_factor=1.1), 40) == 11  # 1.1 * 10 in floating point is above 11
    assert expert_capacity(config(dispatch="capacity", capacity_factor=9.0), 64) == 64
    assert expert_capacity(config(dispatch="dense"), 64) == 64
    assert expert_rows(config(dispatch="dense"), 64) == 8 * 64
    assert expert_rows(config(dispatch="capacity", capacity_factor=1.0), 64, [1.0] + [0.0] * 7) == 8 * 16
    assert expert_rows(config(), 128) == 8 * (32 + 12)  # twice the root of 32, rounded up


def test_dropless_rows_are_those_that_its_program_multiplies():
    """The batched product and the blocks are in the program; how often the loop runs follows from the loads."""
    x_RD, router_DE, experts = layer()
    shape = config()
    capacity = expert_capacity(shape, R)
    rows = block_rows(capacity)
    routing, stats = routed(x_RD, router_DE.at[:, 0].multiply(4.0), shape)
    program = str(jax.make_jaxpr(lambda x_RD: dropless_dispatch(x_RD, routing, experts, capacity)[0])(x_RD))
    assert f"f32[8,{capacity},{D}]" in program
    assert f"f32[1,{rows},{D}]" in program

    expected = 8 * capacity
    for count in np.bincount(np.asarray(routing.experts_RK).reshape(-1), minlength=8):
        left = count - capacity
        while left > 0:
            expected, left = expected + rows, left - rows
    assert expected > 8 * capacity
    assert expert_rows(shape, R, stats.load_E.tolist()) == expected
