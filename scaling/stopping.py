"""Being told to stop: the first SIGTERM or Ctrl-C lets the runs under way leave their checkpoints, a second Ctrl-C ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Generator
from types import FrameType


class Stopped(Exception):
    """A sweep was told to stop, by `signal`, and left its state; the same call carries on."""

    def __init__(self, message: str, number: int = signal.SIGTERM):
        super().__init__(message)
        self.signal = int(number)


class Signals(threading.Event):
    """Set by the first signal; `number` is which."""

    number = signal.SIGTERM


@contextlib.contextmanager
def signals() -> Generator[Signals]:
    """SIGTERM and SIGINT set the event that is given, as long as this lasts. In another thread than the main one: nothing."""
    told = Signals()

    def heard(number: int, frame: FrameType | None) -> None:
        if told.is_set():
            raise KeyboardInterrupt
        told.number = signal.Signals(number)
        told.set()
        # Not print: the signal may have come in the midst of one.
        os.write(2, f"isoloss: {told.number.name}: stopping, the runs under way leave checkpoints\n".encode())

    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    before = {number: signal.signal(number, heard) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
