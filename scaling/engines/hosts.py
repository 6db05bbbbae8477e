"""One large run over several hosts: processes that Ray places, one a host, join through `jax.distributed` and train as one."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any

from models.config import ConfigError
from models.sharding import Layout
from scaling.data.corpora import load_corpus
from scaling.engines import parcels
from scaling.engines.on_ray import PASSED_ON, cluster
from scaling.errors import InputError
from scaling.run import RunConfig, RunRecord


def train_on_hosts(
    config: RunConfig,
    hosts: int,
    *,
    address: str | None = None,
    cpus: int = 1,
    gpus: int = 0,
    layout: dict[str, int] | None = None,
    checkpoint: str | None = None,
    checkpoint_every: int = 2000,
    save: str | None = None,
    retries: int = 1,
    apart: bool = True,
) -> RunRecord:
    """The record of `config`, trained by `hosts` processes of `cpus` CPUs and `gpus` GPUs each on a Ray cluster.

    Without GPUs every CPU of a process is a device. The devices of all form one `layout` (fields of `models.sharding.Layout`; by default they share out the
    micro-batches of a step). `apart`: no two processes on one machine. `checkpoint` and `save` are folders that all hosts see; where a
    process is lost the others cannot go on, and the run is begun again from its last checkpoint up to `retries` times. InputError where Ray
    is not installed, or no nodes are free for it.
    """
    if hosts < 1:
        raise InputError(f"hosts = {hosts}: give 1 or more")
    arguments = {"layout": layout, "checkpoint": checkpoint, "checkpoint_every": checkpoint_every, "save": save}
    with cluster(address):
        for attempt in range(retries + 1):
            try:
                return RunRecord(**_together(config, hosts, cpus, gpus, apart, arguments))
            except Exception as error:  # one process was lost, and the others with it, each with an error of its own
                if attempt == retries or isinstance(error, InputError | ConfigError):
                    raise
    raise AssertionError("unreachable")


def _together(config: RunConfig, hosts: int, cpus: int, gpus: int, apart: bool, arguments: dict[str, Any]) -> dict[str, Any]:
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    need: dict[str, float] = {"CPU": max(cpus, 1)} | ({"GPU": gpus} if gpus else {})
    group = placement_group([need] * hosts, strategy="STRICT_SPREAD" if apart else "SPREAD")
    members: list[Any] = []
    try:
        if not group.wait(timeout_seconds=60):
            raise InputError(f"hosts = {hosts}: the cluster has not so many nodes with {cpus} CPUs and {gpus} GPUs free")
        member: Any = ray.remote(
            num_cpus=need["CPU"],
            num_gpus=gpus,
            max_restarts=0,
            runtime_env={"env_vars": {k: os.environ[k] for k in PASSED_ON if k in os.environ}},
        )(Member)
        members = [member.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, place)).remote() for place in range(hosts)]
        coordinator = ray.get(members[0].free_address.remote())
        packed = parcels.pack(config.corpus)
        parcel = [ray.put(packed)] if packed is not None else []
        fields = config.as_dict() | {"corpus": load_corpus(config.corpus).id}
        devices = 0 if gpus else cpus
        answers = [each.train.remote(coordinator, hosts, place, fields, devices, parcel, arguments) for place, each in enumerate(members)]
        ready, _ = ray.wait(answers, num_returns=1)
        ray.get(ready)  # the first that fails tells, while the others wait for it
        return ray.get(answers)[0]
    finally:
        for each in members:
            with contextlib.suppress(Exception):
                ray.kill(each)
        remove_placement_group(group)


class Member:
    """One of the processes."""

    def free_address(self) -> str:
        """HOST:PORT of this process's machine where nobody listens."""
        import ray

        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"

    def train(
        self, coordinator: str, count: int, index: int, fields: dict[str, Any], devices: int, parcel: list[Any], arguments: dict[str, Any]
    ) -> dict[str, Any]:
        import jax
        import ray

        from scaling.paths import use_compilation_cache
        from scaling.processes import join
        from scaling.training import train

        use_compilation_cache()
        if devices:
            jax.config.update("jax_num_cpu_devices", devices)
        join(coordinator, count, index)
        parcels.unpack(fields["corpus"], lambda: ray.get(parcel[0]) if parcel else None)
        layout = arguments.pop("layout")
        record = train(RunConfig.from_dict(fields), layout=Layout(**layout) if layout else None, **arguments)
        return record.as_dict()
