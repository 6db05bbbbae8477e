"""What a model says to the other devices inside `jax.shard_map`, where every device holds its part of the weights.

`parts(axis)` is how many devices share a mesh axis; outside `shard_map`, and on one device, it is 1 and every function here gives back
what it was given: the program of one device has none of this.

Gradients are those of the sum of all devices' losses, in which each weight's copies are separate: then a collective's transpose is the
plain one (psum: psum; all_gather: psum_scatter; all_to_all: its inverse) and `total_gradient` adds up the copies. The devices of a
`tensor` group compute the same loss, so the sum counts it that many times, and the total is divided by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from models.sharding import AXES, BATCH, RULES, logical_axes, mesh_axes, weight_name

GATHERED = "gathered"  # the name under which a remat policy finds weights brought together from other devices
TOGETHER = ("width", "projections")  # logical axes that are split at rest and whole in use


def parts(axis: str) -> int:
    """Over how many devices `axis` of the mesh reaches here."""
    here = jax.sharding.get_abstract_mesh()
    return here.shape[axis] if axis in here.manual_axes else 1


def whole_tree(weights: Any) -> Any:
    """`whole` of every weight in a tree."""
    if all(parts(axis) == 1 for logical in TOGETHER for axis in RULES[logical]):
        return weights
    return jax.tree_util.tree_map_with_path(lambda path, w: whole(weight_name(path), w), weights)


def whole(name: str, w: Array) -> Array:
    """The weight called `name` with the axes brought together that are split at rest only. Its gradient goes back to where they lie."""
    axes = logical_axes(name)
    for place, logical in enumerate(axes):
        for axis in RULES[logical] if logical in TOGETHER else ():
            if parts(axis) > 1:
                w = checkpoint_name(lax.all_gather(w, axis, axis=place - len(axes) + w.ndim, tiled=True), GATHERED)
    return w


def own_heads(qkv_DGH: Array, heads: int, key_heads: int) -> tuple[Array, int, int]:
    """The projections of this device's heads, and how many of queries and of keys they are. `qkv_DGH` holds N + 2 K heads."""
    n = parts("tensor")
    if n == 1:
        return qkv_DGH, heads, key_heads
    place = lax.axis_index("tensor")
    groups = jnp.split(qkv_DGH, [heads, heads + key_heads], axis=-2)
    own = [lax.dynamic_slice_in_dim(part, place * (part.shape[-2] // n), part.shape[-2] // n, axis=-2) for part in groups]
    return jnp.concatenate(own, axis=-2), heads // n, key_heads // n


def added(y: Array) -> Array:
    """The sum of what the devices of a `tensor` group found for their heads or hidden units."""
    return y if parts("tensor") == 1 else lax.psum(y, "tensor")


def joined(y: Array) -> Array:
    """What the devices of a `tensor` group found, side by side along the last axis."""
    return y if parts("tensor") == 1 else lax.all_gather(y, "tensor", axis=y.ndim - 1, tiled=True)


def looked_up(table_VD: Array, tokens: Array) -> Array:
    """`table[tokens]`, where each device of a `tensor` group holds a range of the vocabulary."""
    if parts("tensor") == 1:
        return table_VD[tokens]
    own = tokens - lax.axis_index("tensor") * table_VD.shape[0]
    here = (own >= 0) & (own < table_VD.shape[0])
    return lax.psum(jnp.where(here[..., None], table_VD[jnp.where(here, own, 0)], 0), "tensor")


def to_experts(x_ERD: Array) -> Array:
    """Rows for all experts to the devices that hold them: (E, R, D) to (E / n, n R, D) over an `expert` group of n."""
    return x_ERD if parts("expert") == 1 else lax.all_to_all(x_ERD, "expert", split_axis=0, concat_axis=1, tiled=True)


def from_experts(y_ERD: Array) -> Array:
    """The inverse of `to_experts`."""
    return y_ERD if parts("expert") == 1 else lax.all_to_all(y_ERD, "expert", split_axis=1, concat_axis=0, tiled=True)


def own_experts(x_E: Array) -> Array:
    """What each device of an `expert` group of n says of this device's experts: E numbers, of n devices one after another."""
    return x_E if parts("expert") == 1 else lax.all_to_all(x_E, "expert", split_axis=0, concat_axis=0, tiled=True)


def rows_of_all(x_PD: Array) -> Array:
    """The rows of all devices of an `expert` group, one after another."""
    return x_PD if parts("expert") == 1 else lax.all_gather(x_PD, "expert", axis=0, tiled=True)


def rows_returned(y_PD: Array) -> Array:
    """The sum of what the devices of an `expert` group found for this device's rows, where `y_PD` is for the rows of all."""
    return y_PD if parts("expert") == 1 else lax.psum_scatter(y_PD, "expert", scatter_dimension=0, tiled=True)


def total_gradient(gradient: Any, layout_specs: Any) -> Any:
    """The gradient of the sum of all micro-batches' losses, each weight's where `layout_specs` says that the weight lies."""
    leaves, tree = jax.tree.flatten(gradient)
    entries = jax.tree.leaves(layout_specs, is_leaf=lambda x: isinstance(x, PartitionSpec))
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, entry in enumerate(entries):
        groups.setdefault(tuple(axis for axis in AXES if axis not in mesh_axes(entry)), []).append(i)
    for axes, members in groups.items():  # one collective for all weights that lie alike
        for i, total in zip(members, lax.psum([leaves[i] for i in members], axes), strict=True):
            leaves[i] = total / parts("tensor")
    return jax.tree.unflatten(tree, leaves)


def batch_total(values: Any) -> Any:
    """The sum of what the devices found for their shares of the micro-batches."""
    return lax.psum(values, BATCH)


def batch_share() -> Array:
    """Which share of a step's micro-batches is this device's."""
    return lax.axis_index(BATCH)


def spread_over_batch(run: Callable[[Array], Array], items_G: Array) -> Array:
    """`run(items_G)`, each device running its share of the items; some are run twice where their number does not divide."""
    shares, G = math.prod(parts(axis) for axis in BATCH), items_G.shape[0]
    own = -(-G // shares)
    found = run(items_G[(batch_share() * own + jnp.arange(own)) % G])
    return lax.all_gather(found, BATCH, axis=0, tiled=True)[:G]
