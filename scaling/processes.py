"""Several processes that train as one: each runs the same program, and their devices form one mesh, process by process.

Every process calls `join` before it uses JAX, then the same functions with the same arguments: all of them must reach every step,
evaluation and checkpoint. Each gets the same record. What is not JAX's (tables, reports, messages) is for the first process to write.
"""

from __future__ import annotations

import jax

from scaling.errors import InputError


def join(coordinator: str, count: int, index: int) -> None:
    """Joins process `index` of `count` to the others through `coordinator`, host:port of the first one; returns when all are there.

    The devices of a process are those it would have alone (`scaling.devices.one_device_per_core` first, where wanted). On CPUs the processes
    talk through gloo. InputError for an address or index that cannot be, or once JAX has been used.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"processes: coordinator = {coordinator!r} is not HOST:PORT")
    if count < 1 or not 0 <= index < count:
        raise InputError(f"processes: index = {index} does not lie in 0..{count - 1}")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(coordinator, num_processes=count, process_id=index)
    except RuntimeError as error:
        raise InputError(f"processes: process {index} of {count} cannot join {coordinator}: {error}") from error


def is_first() -> bool:
    """Whether this is the process that writes what all of them know; a process alone is."""
    return jax.process_index() == 0
