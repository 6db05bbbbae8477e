"""A run's record becomes rows of the store's tables, and comes back from them as it was."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping
from typing import Any

from scaling.errors import InputError

PLANNED, RUNNING, DONE, DIVERGED, FAILED = STATES = ("planned", "running", "done", "diverged", "failed")
FINISHED = (DONE, DIVERGED)  # need not be made again, and are never overwritten
ENDED = (*FINISHED, FAILED)

# The columns of the runs table: first the package's own (`fits.runs.COLUMNS`), then more of what a record says.
COLUMN_TYPES = {
    "run_id": "TEXT PRIMARY KEY NOT NULL",
    "corpus": "TEXT",
    "arm": "TEXT",
    "precision": "TEXT",
    "seed": "INTEGER",
    "params": "INTEGER",
    "active_params": "INTEGER",
    "non_embedding_params": "INTEGER",
    "tokens": "INTEGER",
    "unique_tokens": "INTEGER",
    "flops": "REAL",
    "loss": "REAL",
    "loss_se": "REAL",
    "status": f"TEXT NOT NULL CHECK (status IN {STATES})",
    "reason": "TEXT",
    "width": "INTEGER",
    "layers": "INTEGER",
    "experts": "INTEGER",
    "batch": "INTEGER",
    "steps": "INTEGER",
    "learning_rate": "REAL",
    "train_seconds": "REAL",
    "tokens_per_second": "REAL",
    "device": "TEXT",
    "budget": "REAL",
    "holdout": "BOOLEAN",
}
COLUMNS = list(COLUMN_TYPES)
# Of the labels that a plan gives, a record of another plan's sweep takes none away.
_KEPT = ("budget", "holdout")
_PUT = (
    f"INSERT INTO runs ({', '.join(COLUMNS)}, ended) VALUES ({', '.join('?' * (len(COLUMNS) + 1))}) ON CONFLICT (run_id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in COLUMNS[1:] if name not in _KEPT)
    + "".join(f", {name} = coalesce(excluded.{name}, {name})" for name in _KEPT)
    + f", ended = excluded.ended, owner = NULL, beat = NULL WHERE status NOT IN {FINISHED}"
)
# Ids name folders and files too, so that nothing but plain names is let in.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def checked_id(run_id: Any) -> str:
    """`run_id` if it can be one; InputError for what is no plain name."""
    if not isinstance(run_id, str) or not _NAME.fullmatch(run_id):
        raise InputError(
            f"run_id {str(run_id)[:80]!r} is not a plain name of up to 64 letters, digits, - and _ (the hash of a configuration)"
        )
    return run_id


def put(connection: sqlite3.Connection, record: Mapping[str, Any], ended: float | None) -> bool:
    """Writes a record (of a run in any state) unless its run is finished already; whether it did."""
    run_id = checked_id(record["run_id"])
    long = {key: value for key, value in record.items() if key != "train_loss"}
    if not connection.execute(_PUT, (*flat(record), ended)).rowcount:
        return False
    connection.execute("INSERT OR REPLACE INTO records VALUES (?, ?)", (run_id, json.dumps(long)))
    connection.execute("DELETE FROM curves WHERE run_id = ?", (run_id,))
    if record.get("train_loss") is not None:
        connection.execute("INSERT INTO curves VALUES (?, ?)", (run_id, json.dumps(record["train_loss"])))
    return True


def flat(record: Mapping[str, Any]) -> list[Any]:
    """The values of COLUMNS, from the record or, of a run that has not ended, from its configuration."""
    config = _mapping(record.get("config"))
    model = _mapping(config.get("model"))
    shape = {name: model.get(name) for name in ("width", "layers", "experts")}
    known = {name: config.get(name) for name in ("corpus", "arm", "precision", "seed", "batch", "learning_rate")} | shape | dict(record)
    return [_bound(known.get(name)) for name in COLUMNS]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _bound(value: Any) -> Any:
    """A value as SQLite can hold it: its whole numbers end at 64 bits."""
    return float(value) if isinstance(value, int) and abs(value) >= 2**63 else value


def unpacked(record: str | None, curve: str | None, state: Mapping[str, Any]) -> dict[str, Any]:
    """The record again. What has not finished has none, but what was known of it, its state and, of a failed one, the reason."""
    found = json.loads(record) if record else {}
    if curve is not None:
        found["train_loss"] = json.loads(curve)
    if state["status"] not in FINISHED:
        found |= {key: value for key, value in state.items() if value is not None}
    return found
