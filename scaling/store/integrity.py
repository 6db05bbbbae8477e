"""Whether a store holds what it says: SQLite's own check, ids that are the hash of their configuration, orphans, impossible values."""

from __future__ import annotations

import collections
import dataclasses
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

from scaling.errors import InputError
from scaling.store import exchange, rows
from scaling.store.rows import DIVERGED, DONE, FINISHED, RUNNING
from scaling.store.store import Store

DAY = 86_400.0
ORPHANS = {
    "a record without a run": "SELECT run_id FROM records WHERE run_id NOT IN (SELECT run_id FROM runs)",
    "a learning curve without a run": "SELECT run_id FROM curves WHERE run_id NOT IN (SELECT run_id FROM runs)",
    "a finished run without a record": f"SELECT run_id FROM runs WHERE status IN {FINISHED} AND run_id NOT IN (SELECT run_id FROM records)",
}
_EVERYTHING = (
    f"SELECT {', '.join(rows.COLUMNS)}, owner, ended, record, train_loss"
    " FROM runs LEFT JOIN records USING (run_id) LEFT JOIN curves USING (run_id) ORDER BY runs.rowid"
)


@dataclasses.dataclass
class Check:
    """What a check found. `verified` ids are the hash of what their record holds; of the others `unverified` says why they cannot be known to be."""

    runs: int = 0
    verified: int = 0
    unverified: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    problems: list[dict[str, str]] = dataclasses.field(default_factory=list)

    def note(self, run_id: str, problem: str) -> None:
        self.problems.append({"run_id": run_id, "problem": problem})


def check(store: Store) -> Check:
    """Reads the whole store and says what is wrong with it; writes nothing."""
    found = Check()
    with store.database.reading() as connection:
        for (line,) in _readable(connection, "PRAGMA integrity_check", "the file's own check", found):
            if line != "ok":
                found.note("", f"damaged file: {line}")
        for what, query in ORPHANS.items():
            for (run_id,) in _readable(connection, query, "the list of ids", found):
                found.note(run_id, what)
        for *values, owner, ended, record, curve in _readable(connection, _EVERYTHING, "the list of runs", found):
            found.runs += 1
            _check_run(found, dict(zip(rows.COLUMNS, values, strict=True)), owner, ended, record, curve)
        for run_id, loss, other, source in _readable(connection, exchange.CONFLICTS, "the list of conflicts", found):
            found.note(run_id, f"loss {loss!r} here, {other!r} in {source} (kept in the table conflicts)")
    return found


def _readable(connection: sqlite3.Connection, query: str, what: str, found: Check) -> Iterator[Any]:
    """What the query gives, as far as the file can be read."""
    try:
        yield from connection.execute(query)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        found.note("", f"damaged file: {what} ends too early ({error})")


def _check_run(found: Check, row: dict[str, Any], owner: str | None, ended: float | None, text: str | None, curve: str | None) -> None:
    run_id, state = row["run_id"], row["status"]
    try:
        record = rows.parsed(text, dict) if text else {}
        loss = rows.parsed(curve, list) if curve else None
    except rows.Damaged as error:
        return found.note(run_id, str(error))
    try:
        rows.checked_id(run_id)
    except InputError as error:
        found.note(run_id, str(error))
    for problem in _unlikely(row, owner, ended, loss):
        found.note(run_id, problem)
    if state in FINISHED and record:
        for name, kept in zip(rows.COLUMNS, rows.flat(record), strict=True):
            if row[name] != kept and not (name in rows.LABELS and kept is None):
                found.note(run_id, f"column {name!r}: the table has {row[name]!r}, the record {kept!r}")
    if state in FINISHED:
        _check_id(found, run_id, record)
    else:
        found.unverified["not finished, and so without a record"] += 1


def _unlikely(row: dict[str, Any], owner: str | None, ended: Any, curve: list[float] | None) -> list[str]:
    said = list(rows.problems(row | {"train_loss": curve, "ended": ended}))
    if row["status"] == DIVERGED and not row["reason"]:
        said.append("column 'reason': a diverged run has one")
    if (row["status"] == RUNNING) != (owner is not None):
        said.append("a running run has an owner, and no other has")
    if isinstance(ended, int | float) and ended > time.time() + DAY:
        said.append(f"ended in the future ({time.strftime('%Y-%m-%d', time.gmtime(min(ended, 2**40)))})")
    for larger, smaller in (("params", "active_params"), ("params", "non_embedding_params"), ("tokens", "unique_tokens")):
        counts = [row[name] for name in (larger, smaller) if isinstance(row[name], int | float)]  # a damaged file holds anything
        if row["status"] == DONE and len(counts) == 2 and counts[1] > counts[0]:
            said.append(f"column {smaller!r}: {row[smaller]} is more than {larger} = {row[larger]}")
    return said


def _check_id(found: Check, run_id: str, record: dict[str, Any]) -> None:
    own, reason = recomputed_id(record)
    if own is None:
        found.unverified[reason] += 1
    elif own == run_id:
        found.verified += 1
    else:
        found.note(run_id, f"the configuration in its record has the id {own}")


def recomputed_id(record: dict[str, Any]) -> tuple[str | None, str]:
    """The id of the run that this record describes; None and why where it does not say enough."""
    from scaling.run import NUMERICS_VERSION, identify

    config, versions = record.get("config"), record.get("versions")
    if not isinstance(config, dict) or "arm" not in config:
        return None, "no configuration"
    if not isinstance(versions, dict) or record.get("corpus") is None or record.get("threads") is None:
        return None, "no corpus, threads or versions"
    try:
        numerics, members = int(versions.get("numerics", 1)), int(versions.get("members", 1))
    except (TypeError, ValueError):
        return None, "versions that are no numbers"
    if numerics > NUMERICS_VERSION:
        return None, "made by a newer isoloss"
    circumstances: dict[str, Any] = {"corpus": record["corpus"], "threads": record["threads"], "numerics": numerics}
    if numerics > 1:  # before, neither could be chosen
        layout = "one device" if members > 1 else record.get("layout", "one device")
        circumstances |= {"layout": layout, "teacher": record.get("teacher")}
    alone = identify(config, **circumstances)
    if members == 1:
        return alone, ""
    from scaling.ensembles import member_id

    return member_id(alone, members, record.get("devices", 1)), ""
