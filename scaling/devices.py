"""The machine that this process computes on: cores, threads, virtual CPU devices, names."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from pathlib import Path

import jax

ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_device_per_core(count: int | None = None) -> int:
    """Makes JAX see `count` (default: all) cores of the CPU as devices of one thread each; returns how many devices there are.

    A training step shared out over single-threaded devices is about twice as fast as one step on two threads: the products of
    small models are too short to be worth splitting. Without effect on accelerators, and once JAX has been used.
    """
    wanted = count or cores()
    if wanted > 1 and "jax" in sys.modules and not _backend_started():
        flags = os.environ.get("XLA_FLAGS", "")
        if ONE_THREAD not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} {ONE_THREAD}".strip()
        jax.config.update("jax_num_cpu_devices", wanted)
    return jax.device_count()


def _tell_xla_of_one_thread() -> None:
    """Where there is one thread XLA is told so, as the sweep's workers are: without a word it keeps a pool of one, whose sums differ in the last bits."""
    flags = os.environ.get("XLA_FLAGS", "")
    if ONE_THREAD not in flags and (os.environ.get("NPROC") or str(cores())) == "1" and not _backend_started():
        os.environ["XLA_FLAGS"] = f"{flags} {ONE_THREAD}".strip()


def _backend_started() -> bool:
    from jax._src import xla_bridge  # the only place that tells without starting it

    return xla_bridge.backends_are_initialized()


def threads() -> int:
    """CPU threads of one device: 1 where XLA was told so, NPROC where it is set (as for the sweep's workers), else all cores."""
    if ONE_THREAD in os.environ.get("XLA_FLAGS", ""):
        return 1
    return int(os.environ.get("NPROC") or cores())


def processor() -> str:
    """The CPU's name where the system tells it (Linux), else its architecture."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"cpu: {line.partition(':')[2].strip()}"
    return f"cpu: {platform.processor() or platform.machine()}"


def device_name() -> str:
    """The name of the device that runs train on."""
    device = jax.devices()[0]
    return processor() if device.platform == "cpu" else device.device_kind


_tell_xla_of_one_thread()  # as this is imported, for it must come before JAX is first used
