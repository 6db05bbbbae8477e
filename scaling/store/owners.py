"""Who makes a run: a text that names the host, the process and when it began."""

from __future__ import annotations

import contextlib
import os
import platform
import time


def this_process() -> str:
    """An owner that no other process is."""
    return f"{_host()}:{os.getpid()}:{time.time_ns()}"


def is_gone(owner: str | None) -> bool:
    """Whether the owner is a process of this host that has ended: its runs need not wait for its heartbeat to grow stale.

    Of a process of another host, and of another container with processes of its own, nothing is known.
    """
    host, _, rest = (owner or "").partition(":")
    process = rest.partition(":")[0]
    if host != _host() or not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's
        return False
    return False


def _host() -> str:
    space = ""
    with contextlib.suppress(OSError):  # Linux: the numbers of processes mean something within one namespace
        space = "/" + "".join(c for c in os.readlink("/proc/self/ns/pid") if c.isdigit())
    return platform.node().replace(":", "-") + space
