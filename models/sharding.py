"""How arrays lie on devices: a mesh of four axes, and one table from the axes of a model to the axes of the mesh.

| mesh axis | what it splits                                                                                     |
|-----------|----------------------------------------------------------------------------------------------------|
| data      | the micro-batches of a step                                                                        |
| fsdp      | likewise, and the width of every weight at rest (FSDP; ZeRO stage 3, Rajbhandari et al. 2020)       |
| expert    | likewise, and the experts (GShard, Lepikhin et al. 2020, arXiv 2006.16668)                          |
| tensor    | heads, hidden units and vocabulary of one micro-batch (Shoeybi et al. 2019, arXiv 1909.08053)       |

At rest, and where the optimiser moves them, arrays are global and their sharding is part of their type: all mesh axes are explicit.
Loss and gradient are computed inside one `jax.shard_map`, where each device sees its own part; `models.collectives` is what the
model says there. A micro-batch is the same computation on every layout, so that layouts agree to rounding.

Weights are named after their axes (`qkv_DGH`), and moments after their weights, so the table is all there is: nothing is annotated.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from models.config import ConfigError, ModelConfig
from models.fields import is_whole

AXES = ("data", "fsdp", "tensor", "expert")

# The one table. Router and selection biases are small and every device needs them whole, whatever their letters say.
RULES: Mapping[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp", "expert"),
    "width": ("fsdp",),
    "heads": ("tensor",),
    "projections": ("tensor",),
    "hidden": ("tensor",),
    "vocabulary": ("tensor",),
    "experts": ("expert",),
}
LETTERS = {"D": "width", "N": "heads", "G": "projections", "F": "hidden", "V": "vocabulary", "E": "experts"}
WHOLE = ("bias_E", "router_DE")

BATCH = RULES["batch"]
REPLICATED = PartitionSpec()


@dataclasses.dataclass(frozen=True)
class Layout:
    """How many devices along each axis of the mesh. Their product is the number of devices; all ones is a single device."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    expert: int = 1

    def __post_init__(self) -> None:
        for axis in AXES:
            size = getattr(self, axis)
            if not is_whole(size) or size < 1:
                raise ConfigError(f"layout: {axis} must be a whole number of devices, at least 1, got {size!r}")

    @property
    def devices(self) -> int:
        return self.data * self.fsdp * self.tensor * self.expert

    @property
    def batch_shares(self) -> int:
        """Into how many shares the micro-batches of a step fall."""
        return self.devices // self.tensor

    def __str__(self) -> str:
        """`data 2 x tensor 4`; `one device`."""
        return " x ".join(f"{axis} {getattr(self, axis)}" for axis in AXES if getattr(self, axis) > 1) or "one device"


ONE_DEVICE = Layout()


@functools.cache
def mesh(layout: Layout) -> Mesh:
    """The first devices that JAX has, of all processes, as a mesh of explicit axes; ConfigError where they are too few."""
    there = jax.devices()
    if layout.devices > len(there):
        raise ConfigError(f"layout {layout} needs {layout.devices} devices, but JAX has {len(there)}")
    shape = tuple(getattr(layout, axis) for axis in AXES)
    return Mesh(np.array(there[: layout.devices]).reshape(shape), AXES, axis_types=(AxisType.Explicit,) * len(AXES))


def logical_axes(name: str) -> tuple[str | None, ...]:
    """The logical axis of each letter of a weight's name, None where an axis has none: ("width", "heads", None) for `weight_DNH`."""
    letters = re.search(r"_([A-Z]+)$", name)
    if letters is None or name in WHOLE:
        return ()
    return tuple(LETTERS.get(letter) for letter in letters[1])


def spec(axes: Sequence[str | None], rules: Mapping[str, tuple[str, ...]] = RULES) -> PartitionSpec:
    """The mesh axes of an array with these logical axes; ConfigError where two of them claim one mesh axis."""
    claimed: dict[str, str] = {}
    entries: list[tuple[str, ...] | None] = []
    for logical in axes:
        if logical is not None and logical not in rules:
            raise ConfigError(f"the sharding table has no logical axis {logical!r}; it has {', '.join(rules)}")
        physical = () if logical is None else rules[logical]
        for axis in physical:
            if axis in claimed:
                raise ConfigError(f"mesh axis {axis} would split both {claimed[axis]} and {logical} of one array")
            claimed[axis] = str(logical)
        entries.append(physical or None)
    return PartitionSpec(*entries)


def spec_of(name: str, ndim: int, layout: Layout, rules: Mapping[str, tuple[str, ...]] = RULES) -> PartitionSpec:
    """The mesh axes of the weight called `name`, whose axes before those letters (stacked layers) are whole.

    Mesh axes of one device are left out, so that on one device every spec is empty.
    """
    axes = logical_axes(name)
    present = {logical: tuple(axis for axis in physical if getattr(layout, axis) > 1) for logical, physical in rules.items()}
    entries = (None,) * (ndim - len(axes)) + tuple(spec(axes, present))
    return PartitionSpec(*entries) if any(entries) else REPLICATED


def mesh_axes(entries: PartitionSpec) -> set[str]:
    """The mesh axes that a spec names."""
    return {axis for entry in entries for axis in ((entry,) if isinstance(entry, str) else entry or ())}


def specs(tree: Any, layout: Layout) -> Any:
    """The PartitionSpec of every array in a tree of parameters, optimiser moments or whole training states."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: spec_of(weight_name(path), np.ndim(leaf), layout), tree)


def weight_name(path: Sequence[Any]) -> str:
    """The name of the weight that a leaf of a tree belongs to, by the innermost part of its path that is a name; "" where none is."""
    names = [getattr(part, "key", None) for part in path]
    return next((name.rpartition("/")[2] for name in reversed(names) if isinstance(name, str) and name != "value"), "")


def shardings(tree: Any, layout: Layout) -> Any:
    """`specs` as shardings on the layout's mesh."""
    return jax.tree.map(
        lambda entry: NamedSharding(mesh(layout), entry), specs(tree, layout), is_leaf=lambda x: isinstance(x, PartitionSpec)
    )


def placed(tree: Any, layout: Layout) -> Any:
    """`tree`, known in full to every process, on the layout's devices. On one device it stays as it is."""
    if layout.devices == 1:
        return tree

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda part: whole[part])

    return jax.tree.map(put, tree, shardings(tree, layout))


def check_layout(config: ModelConfig, layout: Layout) -> None:
    """ConfigError, with the numbers, where the model does not divide over the layout."""
    sizes = {"width": ("fsdp", config.width), "heads": ("tensor", config.heads), "kv_heads": ("tensor", config.key_heads)}
    sizes["vocab_size"] = ("tensor", config.vocab_size)
    if config.is_moe:
        sizes |= {"expert_ffn": ("tensor", config.expert_width), "experts": ("expert", config.experts)}
    else:
        sizes["ffn"] = ("tensor", config.ffn_width)
    for name, (axis, size) in sizes.items():
        over = getattr(layout, axis)
        if size % over:
            raise ConfigError(f"layout {layout}: {name} = {size} does not divide into {axis} = {over} equal parts")


def data_mesh(devices: int) -> Mesh:
    """The first `devices` devices along the axis `data`."""
    return mesh(Layout(data=devices))
