"""Optimisers: AdamW is AdamW with each weight's own multipliers, and Muon orthogonalises every matrix and nothing else."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from models import ModelConfig, Transformer
from models.parametrization import Weight, named_weights, new_weight, rules
from models.precision import policy
from scaling import optimizers
from scaling.errors import InputError
from scaling.optimizers import optimizer

# No square matrices: the smallest singular value of square noise is too small for five Newton-Schulz steps.
L, D, N, K, H, F, E = 3, 32, 3, 2, 8, 48, 2
CONFIG = ModelConfig(layers=L, width=D, heads=4, vocab_size=40)
HIDDEN = ("qkv_DGH", "out_NHD", "up_EDCF", "down_EFD")


class Layer(nnx.Module):
    """Every layout that a block stores its weights in."""

    def __init__(self, rngs: nnx.Rngs):
        def new(shape, kind, fan_in, **axes):
            return new_weight(rngs, shape, kind, fan_in, CONFIG, policy("fp32"), **axes)

        self.qkv_DGH = new((D, N + 2 * K, H), "hidden", D, inputs=(-3,), outputs=(-2, -1), parts=(N, K, K))
        self.out_NHD = new((N, H, D), "hidden", N * H, inputs=(-3, -2))
        self.up_EDCF = new((E, D, 2, F), "hidden", D, inputs=(-3,))
        self.down_EFD = new((E, F, D), "hidden", F)
        self.router_DE = new((D, E), "router", D)
        self.gain = new((D,), "gain", 1)
        self.bias = new((D,), "bias", 1)


class Model(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(params=jax.random.key(0))
        self.embedding_VD = new_weight(rngs, (40, D), "embedding", 1, CONFIG, policy("fp32"))
        self.blocks_L = jax.vmap(lambda key: Layer(nnx.Rngs(params=key)))(jax.random.split(rngs.params(), L))
        self.head_DV = new_weight(rngs, (D, 40), "head", D, CONFIG, policy("fp32"))


SHAPES = nnx.state(jax.eval_shape(Model), nnx.Param)


def noise(seed: int, scale: float = 1.0, members: tuple[int, ...] = ()) -> nnx.State:
    """Normal noise in place of every weight, `scale` an entry; weights and gradients alike."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(scale * rng.normal(size=(*members, *leaf.shape)), jnp.float32), SHAPES)


PARAMS = noise(0)


@pytest.fixture(scope="module")
def updates():
    """Compiled updates by name; one compilation each for all tests."""
    return {name: jax.jit(optimizer(name, CONFIG).update) for name in optimizers.OPTIMIZERS}


def arrays(params: nnx.State) -> dict[str, np.ndarray]:
    return {path.rpartition("/")[2]: np.asarray(weight.get_value()) for path, weight in named_weights(params).items()}


def moved(name: str, updates, grads: nnx.State) -> dict[str, np.ndarray]:
    """How far each weight goes in one step without decay, the learning-rate multipliers taken out."""
    after, _ = updates[name](grads, optimizer(name, CONFIG).init(PARAMS), PARAMS, jnp.float32(1), jnp.float32(0))
    own = {path.rpartition("/")[2]: rule for path, rule in rules(PARAMS, CONFIG, name).items()}
    return {leaf: (arrays(PARAMS)[leaf] - arrays(after)[leaf]) / own[leaf].learning_rate for leaf in own}


def matrices(leaf: str, update: np.ndarray) -> list[np.ndarray]:
    """The update of one leaf as stacks (matrices, inputs, outputs), written out by hand from the letters of its name."""
    shapes = {
        "qkv_DGH": lambda u: [u[:, :, heads].reshape(L, D, -1) for heads in (slice(0, N), slice(N, N + K), slice(N + K, None))],
        "out_NHD": lambda u: [u.reshape(L, N * H, D)],
        "up_EDCF": lambda u: [u[:, :, :, c].reshape(L * E, D, F) for c in range(2)],
        "down_EFD": lambda u: [u.reshape(L * E, F, D)],
    }
    return shapes[leaf](update)


def test_muon_orthogonalises_every_matrix_of_a_stack(updates):
    found = moved("muon", updates, noise(1))
    for leaf in HIDDEN:
        for stack in matrices(leaf, found[leaf]):
            singular = np.linalg.svd(stack, compute_uv=False) / (optimizers.MUON_RMS * math.sqrt(max(stack.shape[1:])))
            # Five steps with Jordan's coefficients leave singular values between about 0.7 and 1.2; a matrix of noise has 0.02 to 2.
            assert singular.min() > 0.6, leaf
            assert singular.max() < 1.3, leaf


def test_a_wrong_view_of_a_fused_weight_would_be_seen(updates):
    fused = moved("muon", updates, noise(1))["qkv_DGH"].reshape(L, D, -1)
    singular = np.linalg.svd(fused, compute_uv=False) / (optimizers.MUON_RMS * math.sqrt(D))
    assert singular.max() > 1.4


def test_adam_moves_what_is_not_a_hidden_matrix(updates):
    grads = noise(1)
    by_muon, by_adam = moved("muon", updates, grads), moved("adam", updates, grads)
    for leaf in by_muon:
        same = np.allclose(by_muon[leaf], by_adam[leaf], atol=1e-5)
        assert same != (leaf in HIDDEN), leaf


def test_both_move_a_hidden_matrix_equally_far_at_the_base_width(updates):
    """A mean square of 0.2: AdamW's in training (arXiv 2502.16982), Muon's by its scale, for every shape."""
    found = moved("muon", updates, noise(1))
    for leaf in HIDDEN:
        for stack in matrices(leaf, found[leaf]):
            assert math.sqrt(float(np.mean(stack**2))) == pytest.approx(0.2 * 0.9, rel=0.2), leaf


def test_adam_is_adamw_with_each_weights_own_multipliers(updates):
    """Gradients near the epsilon, so that its multiplier counts too; optax's AdamW, weight by weight, is the referee."""
    rate, decay = 0.01, 0.1
    params, state = PARAMS, optimizer("adam", CONFIG).init(PARAMS)
    own = {path.rpartition("/")[2]: rule for path, rule in rules(PARAMS, CONFIG).items()}
    referee = {
        leaf: optax.adamw(
            rate * rule.learning_rate,
            optimizers.ADAM_B1,
            optimizers.ADAM_B2,
            optimizers.ADAM_EPS * rule.epsilon,
            weight_decay=decay * rule.decay,
        )
        for leaf, rule in own.items()
    }
    expected = arrays(params)
    states = {leaf: referee[leaf].init(expected[leaf]) for leaf in own}

    @jax.jit
    def referee_step(grads, states, values):
        found = {leaf: referee[leaf].update(grads[leaf], states[leaf], values[leaf]) for leaf in own}
        return {leaf: values[leaf] + found[leaf][0] for leaf in own}, {leaf: found[leaf][1] for leaf in own}

    for seed in (1, 2):
        grads = noise(seed, 1e-10)
        params, state = updates["adam"](grads, state, params, jnp.float32(rate), jnp.float32(decay))
        expected, states = referee_step(arrays(grads), states, expected)
    assert own["down_EFD"].epsilon != own["embedding_VD"].epsilon != own["head_DV"].epsilon
    for leaf, value in arrays(params).items():
        np.testing.assert_allclose(value, expected[leaf], atol=1e-6, err_msg=leaf)


def test_a_large_gradient_is_clipped_as_a_whole(updates):
    grads = noise(1, 1e3)
    norm = math.sqrt(sum(float(np.sum(np.square(g))) for g in jax.tree.leaves(grads)))
    clipped = jax.tree.map(lambda g: g / norm, grads)
    for name in optimizers.OPTIMIZERS:
        after = [
            updates[name](g, optimizer(name, CONFIG).init(PARAMS), PARAMS, jnp.float32(1), jnp.float32(0))[1]["adam"].mu
            for g in (grads, clipped)
        ]
        for path in after[0]:
            np.testing.assert_allclose(after[0][path], after[1][path], rtol=1e-4, err_msg=path)


def test_members_of_an_ensemble_move_as_alone():
    """Rates and decays are traced; each member's gradient is clipped by its own norm."""
    rates, decays = jnp.array([0.01, 0.1]), jnp.array([0.0, 0.3])
    muon = optimizer("muon", CONFIG)
    some = lambda state: nnx.State({"out_NHD": state["blocks_L"]["out_NHD"], "head_DV": state["head_DV"]})  # noqa: E731
    params, grads = some(noise(3, members=(2,))), some(noise(4, members=(2,)))
    grads = jax.tree.map(lambda g: g * jnp.array([1e-3, 1e3]).reshape(2, *[1] * (g.ndim - 1)), grads)
    together, _ = jax.jit(jax.vmap(muon.update))(grads, jax.vmap(muon.init)(params), params, rates, decays)
    alone = jax.jit(muon.update)
    for member in range(2):
        own, gradient, expected = (jax.tree.map(lambda leaf, member=member: leaf[member], tree) for tree in (params, grads, together))
        after, _ = alone(gradient, muon.init(own), own, rates[member], decays[member])
        for leaf, value in arrays(after).items():
            np.testing.assert_allclose(arrays(expected)[leaf], value, atol=1e-4, err_msg=leaf)


def test_an_expert_that_saw_nothing_stays_finite(updates):
    found = moved("muon", updates, jax.tree.map(jnp.zeros_like, PARAMS))
    assert all((update == 0).all() for update in found.values())


@pytest.mark.parametrize("more", [{}, {"experts": 4, "experts_per_token": 2, "shared_experts": 1}], ids=["dense", "moe"])
def test_every_hidden_weight_of_a_transformer_says_which_matrices_it_holds(more):
    """Inputs that multiply to the fan-in, and queries, keys and values (here of grouped-query attention) as matrices of their own."""
    config = ModelConfig(layers=2, width=64, heads=4, kv_heads=2, **more)
    params = nnx.state(jax.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))), nnx.Param)
    state = jax.eval_shape(optimizer("muon", config).init, params)
    momentum = state["muon"].mu
    assert set(momentum) == {path for path, weight in named_weights(params).items() if weight.get_metadata("kind") == "hidden"}
    shapes = sorted(part.shape for parts in momentum.values() for part in parts if len(parts) > 1)
    assert [math.prod(shape) for shape in shapes] == [2 * 64 * 32, 2 * 64 * 32, 2 * 64 * 64]


def test_metadata_that_describe_another_matrix_are_refused():
    weight = Weight(jnp.zeros((N, H, D)), kind="hidden", fan_in=N * H, inputs=(-2,), outputs=(-1,), parts=())
    wrong = nnx.State({"out_NHD": weight})
    with pytest.raises(ValueError, match=r"out_NHD: axes .* have 8 inputs, but its fan_in is 24"):
        optimizer("muon", CONFIG).init(wrong)


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="'sgd' is not known; it is one of adam, muon"):
        optimizer("sgd", CONFIG)
