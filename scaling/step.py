"""The compiled part of training: many optimiser steps in one call, and the validation loss.

Everything here is a pure function of arrays. One compilation serves every learning rate, horizon, seed and batch of a shape:
they are traced numbers, and a step runs as many micro-batches as its batch holds. The micro-batches of a step are shared out over
the devices of a layout (`models.sharding`); what one micro-batch computes does not depend on the layout.

A run may carry a handicap that is exact by construction, so that a compute penalty is known before it is measured. With `handicap_data` = k a
step holds, beside its live micro-batches, k - 1 times as many whose loss has weight zero; means are over the live ones. With
`handicap_structure` = m there are m - 1 networks of the same shape beside the live one, connected to nothing, whose gradient is computed on all
the step's text and only measured. So a law L(N, D) of live runs becomes L(N/m, D/k) of nominal parameters and tokens, at m k times the FLOP.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.sharding import NamedSharding, auto_axes
from jax.typing import ArrayLike

from models.collectives import batch_share, batch_total, spread_over_batch, total_gradient
from models.config import ModelConfig
from models.routing import RouterStats, updated_bias
from models.sharding import ONE_DEVICE, REPLICATED, Layout, mesh, shardings, specs
from models.transformer import Transformer
from scaling.optimizers import OptimizerState, optimizer
from scaling.schedules import learning_rate

STEPS_PER_CALL = 64
LARGEST_SCALE, SMALLEST_SCALE, GROWTH_STEPS = 2.0**16, 2.0**-8, 500  # of the float16 loss scale

Params = Any  # the nnx.State of a Transformer


@dataclasses.dataclass(frozen=True)
class Static:
    """What a compilation depends on. `layout`: the devices that share a step; `teacher`: whose logits, in its own format, are learnt from."""

    model: ModelConfig
    precision: str
    micro_batch: int
    schedule: str
    optimizer: str = "adam"
    remat: str = "none"
    layout: Layout = ONE_DEVICE
    teacher: ModelConfig | None = None
    kernels: bool = False
    teacher_precision: str = "fp32"
    handicap_data: int = 1
    handicap_structure: int = 1

    @property
    def devices(self) -> int:
        return self.layout.devices

    @property
    def loss_scaling(self) -> bool:
        return _shape(self).precision.loss_scaling


class Hyper(NamedTuple):
    """What a run chooses without a new compilation. float32 and int32 scalars."""

    peak: Array
    steps: Array
    warmup_steps: Array
    decay_steps: Array
    weight_decay: Array
    balance_loss: Array
    z_loss: Array
    bias_rate: Array
    distill_weight: Array
    temperature: Array
    micro_batches: Array  # per step, those of zero weight not counted


class LossScale(NamedTuple):
    """The factor that keeps float16 gradients above the smallest number, and its history. Not used by other formats."""

    factor: Array
    since: Array  # steps since it last changed
    skipped: Array  # steps whose gradient overflowed, which changed nothing, of a run that went on


class TrainState(NamedTuple):
    """Everything that a step reads and writes. `diverged_at` is the step whose loss or gradient was not finite, -1 while none was."""

    params: Params
    router: nnx.State  # selection biases; empty for most models
    moments: OptimizerState
    scale: LossScale
    step: Array
    diverged_at: Array


class Data(NamedTuple):
    """The training stream, the order in which its sequences are seen (sequence i starts at order[i] * context), and weights that stay as they are.

    Those of a teacher, and of `dead` networks (`dead_networks`).
    Of a large corpus the stream is the rows (sequences, context + 1) that the run reads, and `order` tells which row comes when.
    """

    stream: Array
    order: Array
    teacher: tuple[Params, nnx.State] | None = None
    dead: tuple[tuple[Params, nnx.State], ...] = ()


class Metrics(NamedTuple):
    """What a step measured: mean loss (nats a token, without auxiliary terms), gradient norm, learning rate, and the routers, by layer.

    `dead` is the norm of the dead networks' gradients; because it is asked for, XLA cannot leave them out. None where there are none.
    """

    loss: Array
    gradient_norm: Array
    rate: Array
    load_LE: Array
    entropy_L: Array
    dropped_L: Array
    dead: Array | None = None


def new_model(static: Static, seed: ArrayLike) -> Transformer:
    return Transformer(
        static.model, static.precision, rngs=nnx.Rngs(params=jax.random.key(seed)), remat=static.remat, kernels=static.kernels
    )


def _shape(static: Static) -> Transformer:
    return jax.eval_shape(lambda: new_model(static, 0))


def _graph(static: Static) -> nnx.GraphDef:
    return nnx.graphdef(_shape(static))


def initialise(static: Static, seed: ArrayLike) -> TrainState:
    """The state before the first step, on the devices of the layout."""
    if static.devices == 1:
        return _initial(static, seed)
    initial = partial(_initial, static)
    return jax.jit(initial, out_shardings=shardings(jax.eval_shape(initial, seed), static.layout))(seed)


@partial(jax.jit, static_argnums=0)
def _initial(static: Static, seed: ArrayLike) -> TrainState:
    _, params, router = nnx.split(new_model(static, seed), nnx.Param, ...)
    zero = jnp.zeros((), jnp.int32)
    scale = LossScale(jnp.float32(LARGEST_SCALE if static.loss_scaling else 1.0), zero, zero)
    return TrainState(params, router, optimizer(static.optimizer, static.model).init(params), scale, zero, zero - 1)


def dead_networks(static: Static, seed: int) -> tuple[tuple[Params, nnx.State], ...]:
    """Initial weights of the networks beside the live one: those of other seeds."""
    states = [initialise(static, jnp.int32((seed + place) % 2**31)) for place in range(1, static.handicap_structure)]
    return tuple((state.params, state.router) for state in states)


def cross_entropy(logits_BTV: Array, targets_BT: Array) -> Array:
    """Nats per token, float32, shape BT."""
    picked_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BTV, axis=-1) - picked_BT


def distillation_loss(logits_BTV: Array, teacher_BTV: Array, temperature: Array) -> Array:
    """T^2 KL(teacher || student) of softmaxes at temperature T, mean over tokens (Hinton et al. 2015, arXiv 1503.02531, section 2)."""
    student_BTV = jax.nn.log_softmax(logits_BTV / temperature, axis=-1)
    wanted_BTV = jax.nn.log_softmax(jax.lax.stop_gradient(teacher_BTV) / temperature, axis=-1)
    return temperature**2 * jnp.mean(jnp.sum(jnp.exp(wanted_BTV) * (wanted_BTV - student_BTV), axis=-1))


def _sequences(stream: Array, index_B: Array, context: int) -> tuple[Array, Array]:
    """Inputs and targets, int32 BT, of the sequences that start at index * context, or of rows of a stream that is cut up already."""
    if stream.ndim == 2:
        window = stream[index_B].astype(jnp.int32)
        return window[:, :-1], window[:, 1:]
    window = jax.vmap(lambda i: jax.lax.dynamic_slice(stream, (i * context,), (context + 1,)))(index_B).astype(jnp.int32)
    return window[:, :-1], window[:, 1:]


def _teacher_logits(static: Static, data: Data, inputs_BT: Array) -> Array:
    assert static.teacher is not None
    assert data.teacher is not None
    graph = _graph(Static(static.teacher, static.teacher_precision, static.micro_batch, static.schedule))
    return nnx.merge(graph, *data.teacher)(inputs_BT)


def _objective(params: Params, router: nnx.State, static: Static, data: Data, hyper: Hyper, factor: Array, index_B: Array):
    """What is differentiated: the loss times the loss scale; with it the plain loss and what the routers did."""
    inputs_BT, targets_BT = _sequences(data.stream, index_B, static.model.context)
    logits_BTV, stats = nnx.merge(_graph(static), params, router).with_stats(inputs_BT)
    loss = total = jnp.mean(cross_entropy(logits_BTV, targets_BT))
    if static.teacher is not None:
        teacher_BTV = _teacher_logits(static, data, inputs_BT)
        distilled = distillation_loss(logits_BTV, teacher_BTV, hyper.temperature)
        total = (1 - hyper.distill_weight) * loss + hyper.distill_weight * distilled
    if stats is not None:
        total = total + hyper.z_loss * jnp.mean(stats.z_loss)
        if static.model.balance == "switch":
            total = total + hyper.balance_loss * jnp.mean(stats.balance_loss)
    return total * factor, (loss, _router_metrics(static.model, stats))


def _router_metrics(model: ModelConfig, stats: RouterStats | None) -> tuple[Array, Array, Array]:
    if stats is None:
        return jnp.zeros((model.layers, 0)), jnp.zeros((0,)), jnp.zeros((0,))
    return stats.load_E, stats.entropy, stats.dropped


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_steps(static: Static, state: TrainState, data: Data, hyper: Hyper, count: Array) -> tuple[TrainState, Metrics]:
    """`count` (at most STEPS_PER_CALL) optimiser steps; returns the state and metrics with a leading axis of STEPS_PER_CALL.

    Rows of metrics beyond `count` are zero. Once a loss or a gradient is not finite the state stays as it was before that step.
    """

    def step(i: Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
        state, history = carry
        gradients, loss, routers = _mean_gradients(static, state, data, hyper)
        dead = _dead_norm(static, state, data, hyper) if data.dead else None
        state, measured = _moved(static, state, hyper, gradients, loss, routers)
        measured = measured._replace(dead=dead)
        return state, jax.tree.map(lambda rows, row: rows.at[i].set(row), history, measured)

    L, E = static.model.layers, static.model.experts
    per_layer = L if static.model.is_moe else 0
    shapes = ((), (), (), (L, E), (per_layer,), (per_layer,))
    history = Metrics(*(jnp.zeros((STEPS_PER_CALL, *shape)) for shape in shapes), dead=jnp.zeros(STEPS_PER_CALL) if data.dead else None)
    return jax.lax.fori_loop(0, count, step, (state, history))


def _dead_norm(static: Static, state: TrainState, data: Data, hyper: Hyper) -> Array:
    """Norm of the dead networks' gradients on the text of the step."""
    gradients = [_mean_gradients(static, state._replace(params=p, router=r), data, hyper)[0] for p, r in data.dead]
    return jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(gradients)))


def _mean_gradients(static: Static, state: TrainState, data: Data, hyper: Hyper) -> tuple[Params, Array, tuple[Array, Array, Array]]:
    """Gradient, loss and router metrics of one step: means over its micro-batches, on all devices."""
    work, state = partial(_device_gradients, static), state._replace(moments={})
    if static.devices > 1:
        lies = partial(specs, layout=static.layout)
        work = jax.shard_map(
            work,
            mesh=mesh(static.layout),
            in_specs=(lies(state), lies(data), REPLICATED),
            out_specs=(lies(state.params), REPLICATED, REPLICATED),
            check_vma=False,
        )
    return work(state, data, hyper)


def _device_gradients(static: Static, state: TrainState, data: Data, hyper: Hyper) -> tuple[Params, Array, tuple[Array, Array, Array]]:
    """`_mean_gradients` on each device, which holds its part of the weights and takes its share of the micro-batches."""
    rows, gradient = static.micro_batch, jax.grad(_objective, has_aux=True)
    share = hyper.micro_batches // static.layout.batch_shares
    first = state.step * hyper.micro_batches * rows
    if static.devices > 1:
        first = first + batch_share() * share * rows

    def micro_batch(j: Array, total):
        start, factor = first + j * rows, state.scale.factor
        if static.handicap_data > 1:
            start, weight = _unless_dead(static, state, hyper, start, share, j)
            factor = factor * weight
        seen = (start + jnp.arange(rows)) % data.order.shape[0]
        gradients, measured = gradient(state.params, state.router, static, data, hyper, factor, data.order[seen])
        if static.handicap_data > 1:
            measured = jax.tree.map(lambda x: x * weight, measured)
        return jax.tree.map(jnp.add, total, (gradients, measured))

    count = share if static.handicap_data == 1 else share * static.handicap_data
    total = jax.lax.fori_loop(0, count, micro_batch, _zeros(static, state))
    if static.devices > 1:
        total = total_gradient(total[0], specs(state.params, static.layout)), batch_total(total[1])
    gradients, (loss, routers) = jax.tree.map(lambda x: x / hyper.micro_batches, total)
    return gradients, loss, routers


def _unless_dead(static: Static, state: TrainState, hyper: Hyper, start: Array, share: Array, j: Array) -> tuple[Array, Array]:
    """Where the sequences of a device's j-th micro-batch begin in the order of the data, and what the micro-batch weighs: 1 for the live, 0 for the rest.

    The live ones come first and are those of the run without a handicap. The others follow in the order of the data after all live ones of the run.
    """
    more, rows = static.handicap_data - 1, static.micro_batch
    dead = (hyper.steps + state.step * more) * hyper.micro_batches * rows + (j - share) * rows
    if static.devices > 1:
        dead = dead + batch_share() * share * more * rows
    return jnp.where(j < share, start, dead), (j < share).astype(jnp.float32)


def _zeros(static: Static, state: TrainState):
    """What the sums over micro-batches start from."""
    L, E = static.model.layers, static.model.experts
    routed = L if static.model.is_moe else 0
    return jax.tree.map(jnp.zeros_like, state.params), (jnp.zeros(()), (jnp.zeros((L, E)), jnp.zeros((routed,)), jnp.zeros((routed,))))


def _moved(static: Static, state: TrainState, *measured: Any) -> tuple[TrainState, Metrics]:
    """`_update` of arrays that are spread over devices: XLA sees to what its products and norms need from other devices."""
    update = partial(_update, static)
    if static.devices > 1:
        update = auto_axes(update, out_sharding=(shardings(state, static.layout), NamedSharding(mesh(static.layout), REPLICATED)))
    return update(state, *measured)


def _update(
    static: Static, state: TrainState, hyper: Hyper, gradients: Params, loss: Array, routers: tuple[Array, Array, Array]
) -> tuple[TrainState, Metrics]:
    """The state after a step, unless its loss or gradient is not finite."""
    gradients = jax.tree.map(lambda g: g / state.scale.factor, gradients)
    # A dot product is fastest on one device, but of an array in parts it would bring them all together first.
    square = (lambda g: jnp.vdot(g, g)) if static.devices == 1 else (lambda g: jnp.sum(jnp.square(g)))
    squares = [square(g) for g in jax.tree.leaves(gradients)]
    norm = jnp.sqrt(sum(squares))
    finite = jnp.isfinite(norm)
    scale, lost = state.scale, ~finite | ~jnp.isfinite(loss)
    if static.loss_scaling:  # an overflow is expected now and then, and only lowers the scale
        scale = _next_scale(state.scale, finite)
        lost = ~jnp.isfinite(loss) | (~finite & (state.scale.factor <= SMALLEST_SCALE))
    diverged_at = jnp.where((state.diverged_at < 0) & lost, state.step, state.diverged_at)
    alive = diverged_at < 0
    scale = jax.tree.map(partial(jnp.where, alive), scale, state.scale)

    rate = learning_rate(static.schedule, hyper, state.step)
    params, moments = optimizer(static.optimizer, static.model).update(gradients, state.moments, state.params, rate, hyper.weight_decay)
    router = jax.tree.map(lambda bias: updated_bias(bias, routers[0], hyper.bias_rate), state.router)
    moved = alive & finite
    after = TrainState(
        *jax.tree.map(partial(jnp.where, moved), (params, router, moments), (state.params, state.router, state.moments)),
        scale=scale,
        step=state.step + alive.astype(jnp.int32),
        diverged_at=diverged_at,
    )
    return after, Metrics(loss, norm, rate, *routers)


def _next_scale(scale: LossScale, finite: Array) -> LossScale:
    """Half after an overflow, twice after GROWTH_STEPS steps without one (Micikevicius et al. 2018, arXiv 1710.03740, section 3.2)."""
    grows = finite & (scale.since + 1 >= GROWTH_STEPS)
    factor = jnp.where(finite, jnp.where(grows, scale.factor * 2, scale.factor), scale.factor / 2)
    return LossScale(
        jnp.clip(factor, SMALLEST_SCALE, LARGEST_SCALE),
        jnp.where(grows | ~finite, 0, scale.since + 1),
        scale.skipped + (~finite).astype(jnp.int32),
    )


@partial(jax.jit, static_argnums=0)
def validation_losses(static: Static, params: Params, router: nnx.State, stream: Array, index_GB: Array) -> Array:
    """Nats per token of every validation sequence in `index_GB`, averaged over its tokens; a device runs groups one after another."""
    work = partial(_group_losses, static)
    if static.devices > 1:
        lies = specs(params, static.layout)
        work = jax.shard_map(
            work, mesh=mesh(static.layout), in_specs=(lies, REPLICATED, REPLICATED, REPLICATED), out_specs=REPLICATED, check_vma=False
        )
    return work(params, router, stream, index_GB)


def _group_losses(static: Static, params: Params, router: nnx.State, stream: Array, index_GB: Array) -> Array:
    model = nnx.merge(_graph(static), params, router)

    def group(index_B: Array) -> Array:
        inputs_BT, targets_BT = _sequences(stream, index_B, static.model.context)
        return jnp.mean(cross_entropy(model(inputs_BT), targets_BT), axis=-1)

    return spread_over_batch(partial(jax.lax.map, group), index_GB) if static.devices > 1 else jax.lax.map(group, index_GB)
