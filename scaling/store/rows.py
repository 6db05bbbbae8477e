"""A run's record becomes rows of the store's tables, and comes back from them as it was."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from scaling.errors import InputError

T = TypeVar("T")
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
_AT_LEAST_ONE = ("params", "active_params", "tokens", "unique_tokens", "width", "layers", "batch", "steps")
# Of the labels that a plan gives, a record of another plan's sweep takes none away.
LABELS = ("budget", "holdout")
_PUT = (
    f"INSERT INTO runs ({', '.join(COLUMNS)}, ended) VALUES ({', '.join('?' * (len(COLUMNS) + 1))}) ON CONFLICT (run_id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in COLUMNS[1:] if name not in LABELS)
    + "".join(f", {name} = coalesce(excluded.{name}, {name})" for name in LABELS)
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
    return [bound(known.get(name)) for name in COLUMNS]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def bound(value: Any) -> Any:
    """A value as SQLite can hold it: its whole numbers end at 64 bits, its text is Unicode (a library's message may hold other bytes)."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    return float(value) if isinstance(value, int) and abs(value) >= 2**63 else value


class Damaged(sqlite3.DatabaseError):
    """What stands in a table is not what was written there."""


def parsed(text: Any, kind: type[T]) -> T:
    """What a record or a learning curve was before it became text."""
    try:
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise Damaged(f"a record that is no JSON: {error}") from error
    if not isinstance(found, kind):
        raise Damaged(f"a record that is no {kind.__name__}")
    return found


def unpacked(record: str | None, curve: str | None, state: Mapping[str, Any]) -> dict[str, Any]:
    """The record again. What has not finished has none, but what was known of it, its state and, of a failed one, the reason."""
    found = parsed(record, dict) if record else {}
    if curve is not None:
        found["train_loss"] = parsed(curve, list)
    if state["status"] not in FINISHED:
        found |= {key: value for key, value in state.items() if value is not None}
    return found


def problems(record: Mapping[str, Any]) -> Iterator[str]:
    """What cannot be so in a record of any state, as `column 'loss': ...`."""
    for name, kind in COLUMN_TYPES.items():
        value = record.get(name)
        if value is not None and (said := _wrong(name, kind.split()[0], value)):
            yield f"column {name!r}: {str(value)[:60]!r} is not {said}"
    if record.get("status") == DONE and record.get("loss") is None:
        yield "column 'loss': a done run has one"
    if record.get("status") == DIVERGED and record.get("loss") is not None:
        yield "column 'loss': a diverged run has none"
    if not isinstance(record.get("config", {}), Mapping):
        yield "key 'config': not an object"
    curve = record.get("train_loss")
    if curve is not None and not (isinstance(curve, list) and all(_is_number(loss) for loss in curve)):
        yield "key 'train_loss': not a list of finite numbers"
    if record.get("ended") is not None and not _is_number(record["ended"]):
        yield "key 'ended': not a time in Unix seconds"


def _wrong(name: str, kind: str, value: Any) -> str | None:
    """What `value` should be and is not."""
    if kind == "TEXT":
        return None if isinstance(value, str) else "text"
    if kind == "BOOLEAN":
        return None if isinstance(value, bool) or value in (0, 1) else "true or false"
    least = 1 if name in _AT_LEAST_ONE else 0
    good = _is_number(value) and value >= least
    if kind == "INTEGER":
        return None if good and value == int(value) else f"a whole number of {least} or more"
    if name in ("loss", "flops", "learning_rate"):
        return None if good and value > 0 else "a positive finite number"
    return None if good else "a finite number of zero or more"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300  # larger whole numbers are no floats
