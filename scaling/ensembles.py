"""Many runs of one shape by one compiled program: learning rates, decays and seeds, side by side where that is faster.

`jax.vmap` of the same training steps as alone over states, hyper-parameters and the order of the data; the training stream is shared.
Each member sees the text that it would see alone. Its products are the same too, but batched ones may sum in another order: losses
agree with those of lone runs to rounding. A member that diverges is frozen and touches no other.

Where there are several devices each takes an equal share of the members.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from models.accounting import count_params
from models.fields import is_whole
from models.memory import Memory, available_memory, check_memory
from models.sharding import ONE_DEVICE, data_mesh
from scaling import checkpoints, step
from scaling.devices import threads
from scaling.errors import InputError
from scaling.run import RunConfig, RunRecord, run_id
from scaling.training import Job, Progress, Run, hyper, predicted_memory, prepare, routers_from, summed, train, training_data

# What members may differ in. All else decides what is compiled, or how many steps and tokens there are.
OWN = (
    "seed",
    "arm",
    "learning_rate",
    "warmup",
    "decay",
    "weight_decay",
    "balance_loss",
    "z_loss",
    "bias_rate",
    "distill_weight",
    "temperature",
)
# A step's micro-batches and the number of steps are the same for all, so that loops stay loops.
AXES = step.Hyper._make(None if name in ("steps", "micro_batches") else 0 for name in step.Hyper._fields)

# Parameters up to which members on one CPU device are trained side by side: measured (`benchmarks/ensembles.py`, 8 members, two threads) at
# 1.44, 1.16 and 0.89 times the speed of one by one for 15, 43 and 134 thousand (widths 16, 32 and 64); in between it is 1 near here.
LARGEST_BESIDE = 80_000


def train_many(configs: Sequence[RunConfig], *, devices: int | None = None, progress: Progress | None = None) -> list[RunRecord]:
    """Records of `configs`, in their order; they may differ in the fields OWN.

    Models of more than LARGEST_BESIDE parameters on one CPU device are trained in turn, and their records are those of lone runs. Others
    are trained side by side, shared out over as many of the `devices` (default: all that JAX has) as divide them: a record's `run_id` is
    then not that of the lone run (`member_id`), whose losses it shares to rounding only, and its `versions` say how many `members` there
    were. Seconds are a member's equal share of what all took, and rates what all reached together. A diverged member's record says where.
    InputError, before anything starts, for shapes that differ (naming the field) or for the same run named twice.
    """
    _check_alike(configs)
    if len(configs) <= 1:
        return [train(own, devices=devices, progress=progress) for own in configs]
    if not faster_beside(configs[0], shared_over(len(configs), devices)):
        return _in_turn(configs, devices, progress)
    jobs, shared = member_jobs(configs, devices)
    started = time.perf_counter()
    ensemble = Ensemble(jobs, shared)
    compile_seconds = time.perf_counter() - started
    ensemble.advance(configs[0].steps, progress)
    records = [run.record(compile_seconds=compile_seconds / len(jobs)) for run in ensemble.runs()]
    labels: dict[str, Any] = {"devices": shared} | ({"layout": f"members {shared}"} if shared > 1 else {})
    return [dataclasses.replace(own, versions=own.versions | {"members": str(len(jobs))}, **labels) for own in records]


def faster_beside(config: RunConfig, devices: int) -> bool:
    """Whether runs like `config` are trained faster side by side than in turn, as far as was measured: on one CPU device."""
    return devices > 1 or jax.devices()[0].platform != "cpu" or count_params(config.model).total <= LARGEST_BESIDE


def _in_turn(configs: Sequence[RunConfig], devices: int | None, progress: Progress | None) -> list[RunRecord]:
    """The runs alone, as `train` makes them, by one compiled program. `progress` counts the steps of all."""
    records: list[RunRecord] = []
    compiled = None
    for place, own in enumerate(configs):
        job = prepare(own, devices)
        started = time.perf_counter()
        state = step.initialise(job.static, jnp.int32(own.seed))
        if compiled is None:
            compiled = step.train_steps.lower(job.static, state, job.data, job.hyper, jnp.int32(1)).compile()
        run, compile_seconds = Run(job, compiled, state), time.perf_counter() - started
        before, total = place * own.steps, len(configs) * own.steps
        run.advance(own.steps, progress=None if progress is None else lambda done, _, b=before, t=total: progress(b + done, t))
        records.append(run.record(compile_seconds=compile_seconds))
    return records


def member_id(alone: str, members: int, devices: int = 1) -> str:
    """The identity of a run trained beside others: 16 hex digits from that of the run alone, on one device, and from how many there were.

    Which others they were does not matter: a member's arithmetic depends on their number at most.
    """
    return hashlib.sha256(f"{alone} one of {members} on {devices}".encode()).hexdigest()[:16]


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def train_members(
    static: step.Static, devices: int, states: step.TrainState, data: step.Data, hypers: step.Hyper, count: Array
) -> tuple[step.TrainState, step.Metrics]:
    """`step.train_steps` of M members: states, hypers (but AXES), `data.order` and metrics have a leading M axis, cut over `devices`."""
    stream, others = data.stream, (data.teacher, data.dead)

    def member(state: step.TrainState, order: Array, hyper: step.Hyper, stream: Array, others: Any, count: Array):
        return step.train_steps(static, state, step.Data(stream, order, *others), hyper, count)

    work = jax.vmap(member, in_axes=(0, 0, AXES, None, None, None))
    if devices > 1:
        own, same = PartitionSpec("data"), PartitionSpec()
        split = step.Hyper._make(own if axis == 0 else same for axis in AXES)
        work = jax.shard_map(work, mesh=data_mesh(devices), in_specs=(own, own, split, same, same, same), out_specs=own, check_vma=False)
    return work(states, data.order, hypers, stream, others, count)


class Ensemble:
    """Runs under way side by side."""

    def __init__(self, jobs: Sequence[Job], devices: int = 1):
        self.jobs = jobs
        static, data = jobs[0].static, jobs[0].data
        seeds = sorted({job.config.seed for job in jobs})
        stream, orders = training_data(jobs[0].config, jobs[0].corpus, seeds)
        if not jobs[0].corpus.resident:  # else the first job's stream is that of all
            data = data._replace(stream=jnp.asarray(stream))
        self._data = data._replace(order=_spread(np.stack([orders[seeds.index(job.config.seed)] for job in jobs]), devices))
        self._hypers = _stacked([job.hyper for job in jobs], devices)
        starts = [jax.device_get(step.initialise(static, jnp.int32(job.config.seed))) for job in jobs]
        self.states = jax.tree.map(lambda *parts: _spread(np.stack(parts), devices), *starts)
        lowered = train_members.lower(static, devices, self.states, self._data, self._hypers, jnp.int32(1))
        self._compiled = lowered.compile()
        self.losses: list[np.ndarray] = []  # of each call: loss and gradient norm, (members, steps, 2)
        self.routers: list[step.Metrics] = []  # one, the members' sums over the steps from `routers_from` on; none before
        self.seconds, self.done = 0.0, 0

    def advance(self, stop: int, progress: Progress | None = None) -> None:
        """Trains all members up to step `stop`, or until none is left that has not diverged."""
        started = time.perf_counter()
        while self.done < stop:
            count = min(step.STEPS_PER_CALL, stop - self.done)
            self.states, metrics = self._compiled(self.states, self._data, self._hypers, jnp.int32(count))
            self._remember(metrics, count)
            if (np.asarray(self.states.diverged_at) >= 0).all():
                break
            if progress:
                progress(self.done, self.jobs[0].config.steps)
        self.seconds += time.perf_counter() - started

    def _remember(self, metrics: step.Metrics, count: int) -> None:
        config = self.jobs[0].config
        late = max(0, routers_from(config) - self.done)
        self.losses.append(np.stack([metrics.loss, metrics.gradient_norm], axis=-1)[:, :count])
        if config.model.is_moe and late < count:
            self.routers = summed(self.routers, jax.tree.map(lambda rows: np.asarray(rows).swapaxes(0, 1)[late:count], metrics))
        self.done += count

    def runs(self) -> list[Run]:
        """The members as runs by themselves."""
        losses, states = np.concatenate(self.losses, axis=1), jax.device_get(self.states)
        return [self._run(place, losses[place], *_member(place, (states, self.routers))) for place in range(len(self.jobs))]

    def _run(self, place: int, losses: np.ndarray, state: step.TrainState, routers: list[step.Metrics]) -> Run:
        diverged_at = int(state.diverged_at)
        history = losses if diverged_at < 0 else losses[: diverged_at + 1]
        past = checkpoints.Past(history.tolist(), seconds=self.seconds / len(self.jobs), timed_steps=len(history))
        run = Run(self.jobs[place], self._compiled, jax.tree.map(jnp.asarray, state), past)
        run.routers = routers
        return run


def _member(place: int, arrays: Any) -> Any:
    return jax.tree.map(lambda x: x[place], arrays)


def _check_alike(configs: Sequence[RunConfig]) -> None:
    seen: dict[RunConfig, int] = {}
    for place, own in enumerate(configs):
        _check_field("", place, own, configs[0])
        same = seen.setdefault(dataclasses.replace(own, arm=""), place)
        if same != place:
            raise InputError(f"train_many: members {same} and {place} are the same run; give each a seed of its own, or leave one out")


def _check_field(prefix: str, place: int, own: Any, first: Any) -> None:
    for field in dataclasses.fields(own):
        mine, wanted = getattr(own, field.name), getattr(first, field.name)
        if mine == wanted or (not prefix and field.name in OWN):
            continue
        if field.name == "model":
            _check_field("model.", place, mine, wanted)
        name = prefix + field.name
        raise InputError(
            f"train_many: {name} = {mine!r} of member {place} differs from {wanted!r} of member 0; members may differ in {', '.join(OWN)}"
        )


def member_jobs(configs: Sequence[RunConfig], devices: int | None) -> tuple[list[Job], int]:
    """A job for each member, and on how many devices they are trained (`shared_over`)."""
    first, members, shared = configs[0], len(configs), shared_over(len(configs), devices)
    job = prepare(first, devices=1)
    memory = _memory(job, members, shared)
    check_memory(memory, available_memory())
    teacher = job.teacher.record["run_id"] if job.teacher else None

    def beside(own: RunConfig) -> Job:
        alone = run_id(own, job.corpus.id, threads(), teacher_id=teacher)
        return dataclasses.replace(job, config=own, hyper=hyper(own), id=member_id(alone, members, shared), memory=memory)

    return [beside(own) for own in configs], shared


def shared_over(members: int, devices: int | None) -> int:
    """On how many devices members lie: the most, up to `devices`, that divide them evenly."""
    there = jax.device_count()
    if devices is not None and not (is_whole(devices) and 1 <= devices <= there):
        raise InputError(f"devices = {devices}: JAX has {there}")
    return max(part for part in range(1, (devices or there) + 1) if members % part == 0)


def _memory(job: Job, members: int, devices: int) -> Memory:
    """Of all members, on the host, whose memory its devices share; of a device's own on an accelerator."""
    host = jax.devices()[0].platform == "cpu"
    here = members if host else members // devices
    memory = predicted_memory(job.config, job.corpus, ONE_DEVICE, job.teacher.model if job.teacher else None, here)
    corpora = (devices if host else 1) * (1 if job.corpus.resident else members) * memory.parts["corpus"]
    return Memory(memory.parts | {"corpus": corpora, "order of the data": here * job.data.order.nbytes})


def _stacked(hypers: Sequence[step.Hyper], devices: int) -> step.Hyper:
    """One for all members, those in AXES with a leading M axis."""
    columns = zip(AXES, zip(*hypers, strict=True), strict=True)
    return step.Hyper._make(_spread(np.stack(parts), devices) if axis == 0 else parts[0] for axis, parts in columns)


def _spread(x: np.ndarray, devices: int) -> Array:
    """An array of members, cut over devices."""
    return jnp.asarray(x) if devices == 1 else jax.device_put(x, NamedSharding(data_mesh(devices), PartitionSpec("data")))
