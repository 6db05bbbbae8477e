"""A sweep's worker: `python -m scaling.worker` reads tasks (`scaling.engines.tasks.Task`) as JSON lines and answers with records.

Answers, one JSON object a line: {"progress": [done, steps]}, {"note": text}, and one of {"record": ...}, {"failed": reason} and
{"stopped": why} to end with. {"measure": configuration, "seconds": of steps} is answered with {"timing": ...}. The line {"stop": true} and SIGTERM ask the worker to leave a checkpoint, say {"stopped": ...} and end. When its
input ends it leaves at once, in mid-run too: a killed sweep leaves no process behind.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

PROGRESS_SECONDS = 0.2


def main() -> None:
    # What libraries print must not be taken for answers: they get stderr in place of stdout.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    stop = threading.Event()
    asked: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def leave(*_: object) -> None:
        stop.set()
        asked.put(None)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the sweep too, which then says what to do
    threading.Thread(target=_read, args=(asked, leave), daemon=True).start()

    from scaling.engines.tasks import Task, measure, perform
    from scaling.paths import use_compilation_cache

    use_compilation_cache()

    def say(**answer: object) -> None:
        answers.write(json.dumps(answer) + "\n")

    last = 0.0

    def progress(done: int, steps: int) -> None:
        nonlocal last
        if time.monotonic() - last > PROGRESS_SECONDS:
            last = time.monotonic()
            say(progress=[done, steps])

    while not stop.is_set() and (question := asked.get()) is not None:
        if "measure" in question:
            say(**measure(question["measure"], question["seconds"]))
        else:
            say(**perform(Task(**question), progress, stop.is_set, lambda text: say(note=text)))
    os._exit(0)


def _read(asked: queue.SimpleQueue[dict[str, Any] | None], leave: Callable[[], None]) -> None:
    for line in sys.stdin:
        question = json.loads(line)
        if "stop" in question:
            leave()
        else:
            asked.put(question)
    os._exit(0)


if __name__ == "__main__":
    main()
