"""What the run store costs: `python benchmarks/store.py [RECORDS ...]`, by default at 10, 10,000 and 1,000,000 records (9 GB of disk for a while).

Milliseconds, medians. `open` is a new process' first look: the file is opened and the states of a plan of 100 runs are read. `insert` is
`Store.save` of a record with its learning curve, on the disk when it returns; `unsynced` is the same without the wait for the disk, what
the store itself does. `claim` and `beat` (of 8 runs) are not synced. `states` and `records` read 100 runs by id, `frame` the whole table.
Last, 8 processes write into one store at the same time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
from scaling.run import RunConfig, RunRecord, identify
from scaling.store import Store

PLAN = 100  # runs asked for by their ids
REPEATS = 100
BATCH = 20_000  # records in one transaction while a store is filled
WRITERS, EACH = 8, 500


def record(seed: int) -> RunRecord:
    """A record of the size that a run of the demo leaves: 200 points of a learning curve."""
    config = RunConfig(models.ladder(64, context=64), 10_000_000, "python-source@1a2b3c4d", seed=seed % 2**31)
    fields: dict[str, Any] = {field.name: None for field in dataclasses.fields(RunRecord)} | {
        "run_id": identify(config.as_dict(), seed=seed),
        "corpus": config.corpus,
        "arm": "dense",
        "precision": "fp32",
        "seed": config.seed,
        "params": 250_000,
        "active_params": 250_000,
        "non_embedding_params": 230_000,
        "tokens": config.tokens_trained,
        "unique_tokens": config.tokens_trained,
        "flops": 1.5e13,
        "loss": 1.5 + 1 / (2 + seed),
        "loss_se": 0.004,
        "status": "done",
        "reason": "",
        "config": config.as_dict(),
        "versions": {"isoloss": "0.1.0", "numerics": "2", "python": "3.11.7", "jax": "0.10.2", "jaxlib": "0.10.2", "flax": "0.12.8"},
        "train_loss": [1.5 + 4 / math.sqrt(1 + part) for part in range(200)],
    }
    return RunRecord(**fields)


def fill(path: Path, records: int) -> None:
    """A store of so many records under random ids, copies of one."""
    with Store(path) as store:
        store.save(record(0))
        for first in range(1, records, BATCH):
            with store.database.writing(durable=False) as connection:
                names = ", ".join(row[1] for row in connection.execute("PRAGMA table_info(runs)").fetchall()[1:])
                series = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
                one = "(SELECT * FROM runs WHERE rowid = 1)"
                connection.execute(
                    f"INSERT INTO runs {series} SELECT lower(hex(randomblob(8))), {names} FROM n, {one}", (min(BATCH, records - first),)
                )
                for table, column in (("records", "record"), ("curves", "train_loss")):
                    one = f"(SELECT {column} FROM {table} WHERE rowid = 1)"
                    connection.execute(f"INSERT INTO {table} SELECT run_id, {one} FROM runs WHERE rowid > ?", (first,))


def median(action: Callable[[int], object], repeats: int = REPEATS) -> float:
    """Milliseconds."""
    seconds = []
    for number in range(repeats):
        started = time.perf_counter()
        action(number)
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds)


def unsynced(store: Store, made: RunRecord) -> None:
    """`Store.save` without the wait for the disk."""
    from scaling.store import rows

    with store.database.writing(durable=False) as connection:
        rows.put(connection, made.as_dict(), time.time())


def costs(path: Path) -> dict[str, float]:
    """One row of the table."""
    with Store(path) as store, store.database.reading() as connection:
        ids = [row[0] for row in connection.execute("SELECT run_id FROM runs ORDER BY run_id LIMIT ?", (PLAN,))]

    def opened(number: int) -> None:
        with Store(path) as fresh:
            fresh.states(ids)

    made = [record(seed) for seed in range(1, 2 * REPEATS + 1)]
    with Store(path) as store:
        found = {
            "open": median(opened),
            "insert": median(lambda number: store.save(made[number])),
            "unsynced": median(lambda number: unsynced(store, made[REPEATS + number])),
            "claim": median(lambda number: store.claim(f"benchmark-{number}", "me")),
            "beat": median(lambda number: store.beat([f"benchmark-{other}" for other in range(8)], "me")),
            "states": median(lambda number: store.states(ids)),
            "records": median(lambda number: store.records(ids)),
            "frame": median(lambda number: store.frame(), 3),
        }
    return found | {"MB": path.stat().st_size / 1e6}


WRITER = """
import json, sys
from scaling.store import Store
class Record:
    def __init__(self, **fields): self.as_dict = lambda: fields
path, first, count, record = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.load(sys.stdin)
with Store(path) as store:
    for number in range(first, first + count):
        store.save(Record(**(record | {"run_id": f"{number:016x}"})))
"""


def together(path: Path) -> None:
    """Eight processes, one store."""
    started = time.perf_counter()
    hands = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(hand * EACH), str(EACH)], stdin=subprocess.PIPE, text=True)
        for hand in range(WRITERS)
    ]
    for hand in hands:
        assert hand.stdin is not None
        hand.stdin.write(json.dumps(record(0).as_dict()))
        hand.stdin.close()
    assert [hand.wait() for hand in hands] == [0] * WRITERS
    seconds = time.perf_counter() - started
    with Store(path) as store:
        assert len(store.finished()) == WRITERS * EACH
    print(f"{WRITERS} processes, {EACH} records each: all {WRITERS * EACH} there, {WRITERS * EACH / seconds:.0f} records/s together")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="*", type=int, default=[10, 10_000, 1_000_000])
    parser.add_argument("--folder", help="where the stores are written; a temporary folder by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for place, records in enumerate(arguments.records):
            path = Path(folder) / f"{records}.sqlite"
            fill(path, records)
            row = costs(path)
            if not place:
                print(f"{'records':>9}" + "".join(f"{name:>10}" for name in row))
            print(f"{records:>9}" + "".join(f"{value:>10.3g}" for value in row.values()), flush=True)
            path.unlink()
        together(Path(folder) / "together.sqlite")


if __name__ == "__main__":
    main()
