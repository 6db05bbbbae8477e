"""A sweep's worker: `python -m scaling.worker` reads run configurations as JSON lines and answers with records.

Answers, one JSON object a line: {"progress": [done, steps]}, {"record": ...} or {"failed": reason}. When its input ends
the worker leaves at once, in mid-run too: a killed sweep leaves no process behind.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback


def main() -> None:
    # What libraries print must not be taken for answers: they get stderr in place of stdout.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    jobs: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(jobs,), daemon=True).start()

    from scaling.paths import use_compilation_cache
    from scaling.run import RunConfig
    from scaling.training import train

    use_compilation_cache()

    def say(**answer: object) -> None:
        answers.write(json.dumps(answer) + "\n")

    while True:
        config = RunConfig.from_dict(json.loads(jobs.get()))
        try:
            say(record=train(config, progress=lambda done, steps: say(progress=[done, steps])).as_dict())
        except Exception as error:  # one run that cannot be made must not end the sweep
            traceback.print_exc()
            say(failed=f"{type(error).__name__}: {error}")


def _read(jobs: queue.Queue[str]) -> None:
    for line in sys.stdin:
        jobs.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
