"""Rows to experts and back: three dispatches that mean the same layer.

`dense` multiplies every row with every expert: the meaning of the layer in two lines, the referee of the tests, E / K times the work.

`capacity` gives each expert the same number of rows, in one batched product. Choices beyond it are dropped: in the order of first
choices before second ones, and then of position (Switch, Fedus et al. 2021, arXiv 2101.03961; GShard, arXiv 2006.16668).

`dropless` drops nothing. Up to a capacity it does the same batched product; what exceeds it follows block by block, in a loop that runs
as often as the routing needs. The loop reads one expert's weights in place, where a product over blocks (MegaBlocks, Gale et al. 2022,
arXiv 2211.15841, in array operations) copies an expert for every block. Where the platform has a true grouped product, dropless is
`jax.lax.ragged_dot` over the sorted rows instead. (On a CPU, and on a GPU by default, that one multiplies every row with every expert.)

All have one signature: `y_RD, dropped = dispatch(x_RD, routing, experts, capacity)`, `capacity` from `models.expert_rows`.
A format that scales by tensor takes each block for a tensor, so under such formats the dispatches agree to rounding of that format.
"""

from __future__ import annotations

import dataclasses
import functools
from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax

from models.collectives import from_experts, own_experts, parts, rows_of_all, rows_returned, to_experts
from models.expert_rows import block_rows
from models.feedforward import activate
from models.precision import Precision
from models.routing import Routing


@partial(jax.tree_util.register_dataclass, data_fields=["up_EDCF", "down_EFD"], meta_fields=["activation", "precision"])
@dataclasses.dataclass(frozen=True)
class Experts:
    """The float32 weights of E feed-forward layers of one shape; C = 2 (gate, up) for gated activations, else 1."""

    up_EDCF: Array
    down_EFD: Array
    activation: str
    precision: Precision

    def __call__(self, x_ERD: Array) -> Array:
        """Expert e on the rows x[e]: shape ERD again."""
        E, D, C, F = self.up_EDCF.shape
        # One product over both halves of the hidden layer: XLA's CPU backend takes twice the time with C an axis of the einsum.
        hidden_ERCF = self.precision.product("GRD,GDF->GRF", x_ERD, self.up_EDCF.reshape(E, D, C * F)).reshape(E, -1, C, F)
        hidden_ERF = activate(self.activation, jnp.moveaxis(hidden_ERCF, 2, 0))
        return self.precision.product("GRF,GFD->GRD", hidden_ERF, self.down_EFD)

    def everywhere(self, x_ERD: Array) -> Array:
        """Every expert of the layer on its rows, on the devices that hold the experts."""
        return from_experts(self(to_experts(x_ERD)))

    @property
    def count(self) -> int:
        """Experts of the layer, on all devices."""
        return self.up_EDCF.shape[0] * parts("expert")

    @property
    def unquantised(self) -> bool:
        """Whether a cast is all that the format asks of a product, as in fp32, bf16 and fp16."""
        return self.precision.weights is self.precision.activations is self.precision.gradients is None

    def one(self, expert: Array) -> Experts:
        """One expert, E = 1."""
        up, down = (lax.dynamic_index_in_dim(w, expert, keepdims=True) for w in (self.up_EDCF, self.down_EFD))
        return dataclasses.replace(self, up_EDCF=up, down_EFD=down)


class Dispatch(Protocol):
    """`(y_RD, dropped)`: the weighted sum of each row's experts, and the share of choices left out (float32 scalar)."""

    def __call__(self, x_RD: Array, routing: Routing, experts: Experts, capacity: int) -> tuple[Array, Array]: ...


def dense_dispatch(x_RD: Array, routing: Routing, experts: Experts, capacity: int) -> tuple[Array, Array]:
    """Every expert on every row, then the weights, zero for experts that were not chosen. `capacity` is not used."""
    E = experts.count
    y_ERD = experts.everywhere(jnp.broadcast_to(x_RD[None], (E, *x_RD.shape)))
    gates_RE = jnp.einsum("RK,RKE->RE", routing.weights_RK, jax.nn.one_hot(routing.experts_RK, E, dtype=jnp.float32))
    return jnp.einsum("RE,ERD->RD", gates_RE, y_ERD.astype(jnp.float32)).astype(x_RD.dtype), jnp.zeros((), jnp.float32)


class Order(NamedTuple):
    """The P = K R choices sorted by expert; within an expert first choices come before second ones, then rows in order.

    Choice p is row p % R as its (p // R)-th choice.
    """

    pair_P: Array  # the choice at each sorted place
    place_P: Array  # the sorted place of each choice
    expert_P: Array  # of each choice
    counts_E: Array
    first_E: Array  # the place where an expert's choices begin


def sort_choices(experts_RK: Array, experts: int) -> Order:
    """Choices in the order of their experts. One sort of integers that carry expert and choice: five times faster than argsort."""
    P = experts_RK.size
    if experts * P >= 2**31:
        raise ValueError(f"{P} choices of {experts} experts at once exceed 32-bit integers; use smaller micro-batches")
    expert_P = experts_RK.T.reshape(-1).astype(jnp.int32)
    pair_P = jnp.sort(expert_P * P + jnp.arange(P, dtype=jnp.int32)) % P
    place_P = jnp.zeros((P,), jnp.int32).at[pair_P].set(jnp.arange(P, dtype=jnp.int32), unique_indices=True)
    counts_E = jnp.bincount(expert_P, length=experts).astype(jnp.int32)
    return Order(pair_P, place_P, expert_P, counts_E, jnp.cumsum(counts_E) - counts_E)


class Slots(NamedTuple):
    """A layout of S slots, each read by at most one choice: where slots come from and where choices find themselves."""

    pair_S: Array  # the choice whose row a slot holds
    used_S: Array  # whether that choice reads this slot
    slot_P: Array  # the slot of each choice
    kept_P: Array  # whether it has one


def _choices(y_SD: Array, slots: Slots, rows: int) -> list[Array]:
    """For k = 1..K what each row finds in the slot of its k-th choice, float32 RD; zero where that was dropped.

    A list, to be summed term by term: a sum over a short leading axis takes XLA's CPU backend twenty times as long.
    """
    slot_KR, kept_KR = slots.slot_P.reshape(-1, rows), slots.kept_P.reshape(-1, rows)
    return [jnp.where(kept_R[:, None], y_SD[slot_R], 0).astype(jnp.float32) for slot_R, kept_R in zip(slot_KR, kept_KR, strict=True)]


# Both have their gradients written as gathers: on a GPU a scatter-add is not the same twice, and here it would be slower.
@jax.custom_vjp
def spread(x_RD: Array, slots: Slots) -> Array:
    """The row of each slot, shape SD."""
    return x_RD[slots.pair_S % x_RD.shape[0]]


def _spread_forward(x_RD: Array, slots: Slots) -> tuple[Array, tuple[Slots, int]]:
    return spread(x_RD, slots), (slots, x_RD.shape[0])


def _spread_backward(saved: tuple[Slots, int], dx_SD: Array) -> tuple[Array, None]:
    return functools.reduce(jnp.add, _choices(dx_SD, *saved)).astype(dx_SD.dtype), None


spread.defvjp(_spread_forward, _spread_backward)


@jax.custom_vjp
def combine(y_SD: Array, slots: Slots, weights_RK: Array) -> Array:
    """The weighted sum of what each row's choices find in their slots, shape RD; summed in float32."""
    terms = _choices(y_SD, slots, weights_RK.shape[0])
    return functools.reduce(jnp.add, [weights_RK[:, k, None] * y_RD for k, y_RD in enumerate(terms)]).astype(y_SD.dtype)


def _combine_forward(y_SD: Array, slots: Slots, weights_RK: Array) -> tuple[Array, tuple[Array, Slots, Array]]:
    return combine(y_SD, slots, weights_RK), (y_SD, slots, weights_RK)


def _combine_backward(saved: tuple[Array, Slots, Array], dy_RD: Array) -> tuple[Array, None, Array]:
    y_SD, slots, weights_RK = saved
    R, dy32_RD = dy_RD.shape[0], dy_RD.astype(jnp.float32)
    weight_S = jnp.where(slots.used_S, weights_RK.T.reshape(-1)[slots.pair_S], 0)
    dy_SD = (weight_S[:, None] * dy32_RD[slots.pair_S % R]).astype(y_SD.dtype)
    dweights_RK = jnp.stack([jnp.sum(dy32_RD * y_RD, axis=-1) for y_RD in _choices(y_SD, slots, R)], axis=-1)
    return dy_SD, None, dweights_RK


combine.defvjp(_combine_forward, _combine_backward)


def _batched_slots(order: Order, capacity: int) -> Slots:
    """`capacity` slots for each expert; slots without a choice repeat some row, whose product nobody reads."""
    P, rank_P = order.pair_P.size, order.place_P - order.first_E[order.expert_P]
    within_C = jnp.arange(capacity, dtype=jnp.int32)[None]
    places_EC = jnp.minimum(order.first_E[:, None] + within_C, P - 1)
    return Slots(
        pair_S=order.pair_P[places_EC.reshape(-1)],
        used_S=(within_C < order.counts_E[:, None]).reshape(-1),
        slot_P=jnp.where(rank_P < capacity, order.expert_P * capacity + rank_P, 0),
        kept_P=rank_P < capacity,
    )


def _with_sorted_slots(slots: Slots, order: Order) -> Slots:
    """The batched slots, then one for every choice in sorted order, read by the choices that the first part does not hold."""
    return Slots(
        pair_S=jnp.concatenate([slots.pair_S, order.pair_P]),
        used_S=jnp.concatenate([slots.used_S, ~slots.kept_P[order.pair_P]]),
        slot_P=jnp.where(slots.kept_P, slots.slot_P, slots.pair_S.size + order.place_P),
        kept_P=jnp.ones_like(slots.kept_P),
    )


class Blocks(NamedTuple):
    """The rows beyond the capacity, cut into blocks of one expert each: places in the sorted order. The first `count` of G are used."""

    expert_G: Array
    start_G: Array
    stop_G: Array
    count: Array


def _blocks(order: Order, capacity: int, rows: int, apart: int) -> Blocks:
    """The blocks of this device's experts. Over an `expert` group they lie in the rows of all its devices, each device's `apart` rows.

    There E stands for (device, own expert): as many again.
    """
    E, P, n = order.counts_E.size, order.pair_P.size, parts("expert")
    counts_E, first_E = own_experts(order.counts_E), own_experts(order.first_E)
    if n > 1:
        first_E = first_E + apart * (jnp.arange(E, dtype=jnp.int32) // (E // n))
    blocks_E = -(-jnp.maximum(counts_E - capacity, 0) // rows)
    last_E = jnp.cumsum(blocks_E)
    block_G = jnp.arange(-(-P // rows) * n + E, dtype=jnp.int32)
    expert_G = jnp.minimum(jnp.searchsorted(last_E, block_G, side="right"), E - 1).astype(jnp.int32)
    start_G = first_E[expert_G] + capacity + rows * (block_G - (last_E - blocks_E)[expert_G])
    own_G = expert_G if n == 1 else expert_G % (E // n)
    return Blocks(own_G, start_G, (first_E + counts_E)[expert_G], last_E[-1])


def _returned(y_PD: Array, order: Order) -> Array:
    """The rows of the sorted order from the devices that multiplied them; what a device has at the places of others' experts is noise."""
    n = parts("expert")
    if n == 1:
        return y_PD
    first_NE, counts_NE = (own_experts(x).reshape(n, -1) for x in (order.first_E, order.counts_E))
    place_P = jnp.arange(y_PD.shape[0] // n, dtype=jnp.int32)[None]
    own_NP = (place_P >= first_NE[:, :1]) & (place_P < first_NE[:, -1:] + counts_NE[:, -1:])
    return rows_returned(jnp.where(own_NP.reshape(-1, 1), y_PD, 0))


def _blocks_forward(rows: int, x_PD: Array, experts: Experts, blocks: Blocks) -> Array:
    """Each block's rows of x through its expert; other rows of the result mean nothing.

    A block reads and writes `rows` rows even where its expert has fewer left: what it spoils lies behind it, where the next block of
    those rows writes again.
    """

    def body(i: Array, y_PD: Array) -> Array:
        start = blocks.start_G[i]
        y_ETD = experts.one(blocks.expert_G[i])(lax.dynamic_slice_in_dim(x_PD, start, rows)[None])
        return lax.dynamic_update_slice_in_dim(y_PD, y_ETD[0], start, 0)

    return lax.fori_loop(0, blocks.count, body, jnp.zeros_like(x_PD))


def _blocks_backward(rows: int, x_PD: Array, experts: Experts, blocks: Blocks, dy_PD: Array, dexperts: Experts) -> tuple[Array, Experts]:
    """Gradients of `_blocks_forward`, those of the weights added onto `dexperts`. The hidden layer of a block is computed again."""

    def body(i: Array, carry: tuple[Array, Experts]) -> tuple[Array, Experts]:
        dx_PD, totals = carry
        start, expert = blocks.start_G[i], blocks.expert_G[i]
        own_T = start + jnp.arange(rows) < blocks.stop_G[i]
        dy_TD = jnp.where(own_T[:, None], lax.dynamic_slice_in_dim(dy_PD, start, rows), 0)
        _, pull = jax.vjp(lambda one, x: one(x), experts.one(expert), lax.dynamic_slice_in_dim(x_PD, start, rows)[None])
        parts, dx_ETD = pull(dy_TD[None])
        totals = jax.tree.map(
            lambda old, new, part: lax.dynamic_update_slice_in_dim(old, new + part, expert, 0), totals, totals.one(expert), parts
        )
        return lax.dynamic_update_slice_in_dim(dx_PD, dx_ETD[0], start, 0), totals

    return lax.fori_loop(0, blocks.count, body, (jnp.zeros_like(x_PD), dexperts))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def multiply(rows: int, x_ECD: Array, x_PD: Array, experts: Experts, blocks: Blocks) -> tuple[Array, Array]:
    """Every expert on its rows of x_ECD in one product, and on its blocks, of `rows` rows, of x_PD. Reverse mode only.

    Under vmap members take turns with their blocks, whose numbers differ.
    """
    return _multiply_forward(rows, x_ECD, x_PD, experts, blocks)[0]


def _multiply_forward(rows: int, x_ECD: Array, x_PD: Array, experts: Experts, blocks: Blocks) -> tuple[tuple[Array, Array], tuple]:
    y_ECD, pull = jax.vjp(lambda experts, x: experts.everywhere(x), experts, x_ECD)
    y_PD = jax.custom_batching.sequential_vmap(partial(_blocks_forward, rows))(x_PD, experts, blocks)
    return (y_ECD, y_PD), (pull, x_PD, experts, blocks)


def _multiply_backward(rows: int, saved: tuple, dy: tuple[Array, Array]) -> tuple[Array, Array, Experts, None]:
    pull, x_PD, experts, blocks = saved
    dexperts, dx_ECD = pull(dy[0])
    # The loop adds onto the gradient of the batched product: a second set of weights' gradients would cost as much as the loop.
    loop = jax.custom_batching.sequential_vmap(partial(_blocks_backward, rows))
    dx_PD, dexperts = loop(x_PD, experts, blocks, dy[1], dexperts)
    return dx_ECD, dx_PD, dexperts, None


multiply.defvjp(_multiply_forward, _multiply_backward)


def capacity_dispatch(x_RD: Array, routing: Routing, experts: Experts, capacity: int) -> tuple[Array, Array]:
    """`capacity` rows for each expert; what exceeds them contributes nothing, and the other weights of its row stay as they are."""
    E, D = experts.count, x_RD.shape[1]
    slots = _batched_slots(sort_choices(routing.experts_RK, E), capacity)
    y_ECD = experts.everywhere(spread(x_RD, slots).reshape(E, capacity, D))
    dropped = jnp.mean((~slots.kept_P).astype(jnp.float32))
    return combine(y_ECD.reshape(-1, D), slots, routing.weights_RK), dropped


def dropless_dispatch(x_RD: Array, routing: Routing, experts: Experts, capacity: int, native: bool | None = None) -> tuple[Array, Array]:
    """Every choice: `capacity` rows of each expert in one product, the rest in blocks. `native` forces or forbids `ragged_dot`."""
    if native is None:
        native = has_grouped_product(jax.default_backend()) and experts.unquantised and parts("expert") == 1
    if native:
        return _ragged(x_RD, routing, experts), jnp.zeros((), jnp.float32)
    if capacity >= x_RD.shape[0]:  # an expert is chosen at most once a row: nothing can exceed
        return capacity_dispatch(x_RD, routing, experts, capacity)[0], jnp.zeros((), jnp.float32)
    E, D = experts.count, x_RD.shape[1]
    order = sort_choices(routing.experts_RK, E)
    slots = _with_sorted_slots(_batched_slots(order, capacity), order)
    x_ECD, x_PD = jnp.split(spread(x_RD, slots), [E * capacity])
    rows = block_rows(capacity)
    x_PD = jnp.pad(x_PD, ((0, rows), (0, 0)))  # the last block may reach beyond the rows
    x_ECD, blocks = x_ECD.reshape(E, capacity, D), _blocks(order, capacity, rows, x_PD.shape[0])
    y_ECD, y_PD = multiply(rows, x_ECD, rows_of_all(x_PD), experts, blocks)
    y_SD = jnp.concatenate([y_ECD.reshape(-1, D), _returned(y_PD, order)[:-rows]])
    return combine(y_SD, slots, routing.weights_RK), jnp.zeros((), jnp.float32)


def has_grouped_product(platform: str) -> bool:
    """Whether `jax.lax.ragged_dot` does only the chosen experts' work on `platform`, so that dropless may use it.

    On a TPU it does. XLA's GPU backend multiplies all experts, unless JAX's own kernel is switched on (jax 0.10 has that option).
    """
    if platform == "gpu":
        return bool(getattr(jax.config, "jax_ragged_dot_use_gpu_pallas_triton_lowering", False))
    return platform == "tpu"


def _ragged(x_RD: Array, routing: Routing, experts: Experts) -> Array:
    E, D, C, F = experts.up_EDCF.shape
    order = sort_choices(routing.experts_RK, E)
    slots = Slots(order.pair_P, jnp.ones_like(order.pair_P, bool), order.place_P, jnp.ones_like(order.pair_P, bool))
    up, down = (w.astype(x_RD.dtype) for w in (experts.up_EDCF.reshape(E, D, C * F), experts.down_EFD))
    hidden_PCF = ragged_product(spread(x_RD, slots), up, order.counts_E).reshape(-1, C, F)
    hidden_PF = activate(experts.activation, jnp.moveaxis(hidden_PCF, 1, 0))
    return combine(ragged_product(hidden_PF, down, order.counts_E), slots, routing.weights_RK)


def _ragged_dot(x_PD: Array, w_EDF: Array, counts_E: Array) -> Array:
    return lax.ragged_dot(x_PD, w_EDF, counts_E, precision=lax.Precision.HIGHEST)


@jax.custom_vjp
def ragged_product(x_PD: Array, w_EDF: Array, counts_E: Array) -> Array:
    """`jax.lax.ragged_dot` whose gradient works under vmap, where JAX has none: members take turns."""
    return jax.custom_batching.sequential_vmap(_ragged_dot)(x_PD, w_EDF, counts_E)


def _ragged_backward(saved: tuple[Array, Array, Array], dy_PF: Array) -> tuple[Array, Array, None]:
    def pull(x_PD: Array, w_EDF: Array, counts_E: Array, dy_PF: Array) -> tuple[Array, Array]:
        return jax.vjp(lambda x, w: _ragged_dot(x, w, counts_E), x_PD, w_EDF)[1](dy_PF)

    return *jax.custom_batching.sequential_vmap(pull)(*saved, dy_PF), None


ragged_product.defvjp(lambda *operands: (ragged_product(*operands), operands), _ragged_backward)


DISPATCHES: dict[str, Dispatch] = {"dense": dense_dispatch, "capacity": capacity_dispatch, "dropless": dropless_dispatch}
