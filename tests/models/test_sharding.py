"""The table from a model's axes to the mesh's: every weight once, no mesh axis twice, and layouts that do not divide are refused."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from models import ladder
from models.collectives import added, from_experts, joined, looked_up, own_heads, parts, to_experts, whole
from models.config import ConfigError, ModelConfig
from models.sharding import (
    AXES,
    LETTERS,
    RULES,
    Layout,
    check_layout,
    logical_axes,
    mesh,
    mesh_axes,
    placed,
    spec,
    spec_of,
    specs,
    weight_name,
)
from scaling.step import Static, initialise

EVERY_AXIS = Layout(data=2, fsdp=2, tensor=2, expert=2)
DENSE = ladder(32, context=16, heads=4)
MOE = ladder(32, context=16, heads=4, experts=4, experts_per_token=2, shared_experts=1, balance="bias")


def state_of(model: ModelConfig, optimizer: str = "adam") -> Any:
    return jax.eval_shape(lambda: initialise(Static(model, "fp32", 2, "wsd", optimizer), jnp.int32(0)))


def split(weight: str, ndim: int, layout: Layout = EVERY_AXIS) -> tuple:
    return tuple(spec_of(weight, ndim, layout))


def test_weights_lie_as_the_table_says():
    assert split("qkv_DGH", 4) == (None, "fsdp", "tensor", None)  # behind stacked layers
    assert split("out_NHD", 4) == (None, "tensor", None, "fsdp")
    assert split("up_DCF", 4) == (None, "fsdp", None, "tensor")
    assert split("down_FD", 3) == (None, "tensor", "fsdp")
    assert split("up_EDCF", 5) == (None, "expert", "fsdp", None, "tensor")
    assert split("embedding_VD", 2) == ("tensor", "fsdp")
    assert split("head_DV", 2) == ("fsdp", "tensor")
    for small in ("router_DE", "bias_E", "gain", "bias"):
        assert split(small, 2) == ()


def test_mesh_axes_of_one_device_are_left_out():
    assert split("up_EDCF", 5, Layout(tensor=4)) == (None, None, None, None, "tensor")
    assert split("up_EDCF", 5, Layout(data=8)) == ()


@pytest.mark.parametrize("model", [DENSE, MOE, dataclasses.replace(DENSE, tied=True, norm="layer", positions="learned")])
@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_every_array_of_a_state_divides_and_claims_no_mesh_axis_twice(model, optimizer):
    """So do the moments, which lie as their weights."""
    check_layout(model, EVERY_AXIS)
    state = state_of(model, optimizer)
    entries = jax.tree.leaves(specs(state, EVERY_AXIS), is_leaf=lambda x: isinstance(x, PartitionSpec))
    for array, entry in zip(jax.tree.leaves(state), entries, strict=True):
        named = [axis for part in entry for axis in ((part,) if isinstance(part, str) else part or ())]
        assert len(named) == len(set(named))
        for size, part in zip(array.shape, entry, strict=False):
            over = [part] if isinstance(part, str) else part or []
            assert size % np.prod([getattr(EVERY_AXIS, axis) for axis in over], dtype=int) == 0


@pytest.mark.parametrize("layout", [EVERY_AXIS, Layout(fsdp=4)], ids=str)
def test_fsdp_splits_every_matrix_but_the_router(layout):
    for path, array in jax.tree_util.tree_leaves_with_path(state_of(MOE).params):
        name = weight_name(path)
        if name not in ("router_DE", "gain"):
            assert "fsdp" in mesh_axes(spec_of(name, array.ndim, layout)), name


def test_the_letters_are_those_of_the_table():
    assert set(LETTERS.values()) <= set(RULES)
    assert {axis for axes in RULES.values() for axis in axes} == set(AXES)
    assert logical_axes("weight_DNH") == ("width", "heads", None)
    assert logical_axes("gain") == ()


def test_one_mesh_axis_for_two_axes_of_an_array_is_refused():
    with pytest.raises(ConfigError, match="mesh axis tensor would split both hidden and heads"):
        spec(("hidden", None, "heads"))
    with pytest.raises(ConfigError, match="mesh axis fsdp would split both width and vocabulary"):
        spec_of("head_DV", 2, EVERY_AXIS, {**RULES, "vocabulary": ("fsdp",)})
    with pytest.raises(ConfigError, match="no logical axis 'depth'"):
        spec(("depth",))


@pytest.mark.parametrize(
    ("model", "layout", "says"),
    [
        (DENSE, {"tensor": 3}, "heads = 4 does not divide into tensor = 3"),
        (dataclasses.replace(DENSE, kv_heads=1), {"tensor": 2}, "kv_heads = 1 does not divide into tensor = 2"),
        (dataclasses.replace(DENSE, ffn=90), {"tensor": 4}, "ffn = 90 does not divide into tensor = 4"),
        (dataclasses.replace(DENSE, vocab_size=257), {"tensor": 2}, "vocab_size = 257 does not divide into tensor = 2"),
        (DENSE, {"fsdp": 5}, "width = 32 does not divide into fsdp = 5"),
        (MOE, {"expert": 3}, "experts = 4 does not divide into expert = 3"),
        (dataclasses.replace(MOE, expert_ffn=7), {"tensor": 2}, "expert_ffn = 7 does not divide into tensor = 2"),
    ],
)
def test_what_does_not_divide_is_refused_with_the_numbers(model, layout, says):
    with pytest.raises(ConfigError, match=says):
        check_layout(model, Layout(**layout))


@pytest.mark.parametrize("size", [0, -1, 2.0, None])
def test_a_layout_counts_devices(size):
    with pytest.raises(ConfigError, match="layout: tensor must be a whole number of devices"):
        Layout(tensor=size)


def test_a_layout_of_more_devices_than_there_are_is_refused():
    with pytest.raises(ConfigError, match=r"layout data 1000 x tensor 2 needs 2000 devices, but JAX has \d+"):
        mesh(Layout(data=1000, tensor=2))


def test_layouts_count_and_name_themselves():
    assert (str(Layout()), str(Layout(data=2, expert=4))) == ("one device", "data 2 x expert 4")
    for sizes in itertools.product((1, 2), (1, 3), (1, 4), (1, 5)):
        layout = Layout(*sizes)
        assert layout.devices == np.prod(sizes)
        assert layout.batch_shares * layout.tensor == layout.devices


def test_one_device_hears_nothing_of_all_this():
    """The very objects come back: nothing enters the program."""
    x, tree = jnp.ones((2, 4, 3)), {"up_DCF": jnp.ones((2, 2))}
    assert all(parts(axis) == 1 for axis in AXES)
    assert placed(tree, Layout()) is tree
    assert whole("up_DCF", x) is x
    assert own_heads(x, 2, 1)[0] is x
    assert added(x) is joined(x) is to_experts(x) is from_experts(x) is x
    np.testing.assert_array_equal(looked_up(x[0], jnp.array([3, 0])), x[0][jnp.array([3, 0])])
