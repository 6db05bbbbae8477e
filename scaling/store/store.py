"""What a sweep works with: runs by their id, planned, claimed, running, ended, and read again."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Generator, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from scaling.errors import InputError
from scaling.store import rows
from scaling.store.database import Database
from scaling.store.owners import is_gone
from scaling.store.rows import ENDED, FAILED, FINISHED, PLANNED, RUNNING

if TYPE_CHECKING:
    import pandas as pd

    from scaling.run import RunRecord

STALE_SECONDS = 60  # a running run whose owner has said nothing for so long is taken for abandoned
# The columns of the runs table, with a state that takes this into account.
_STATUS = "CASE WHEN status = ? AND (beat IS NULL OR abs(? - beat) >= ? OR is_gone(owner)) THEN ? ELSE status END"
_NOW = ", ".join(_STATUS if name == "status" else name for name in rows.COLUMNS)

Ids = Collection[str] | None
# What `rows.unpacked` makes a record of.
_KNOWN = (
    "status, run_id, reason, arm, budget, holdout, record, train_loss"
    " FROM runs LEFT JOIN records USING (run_id) LEFT JOIN curves USING (run_id)"
)


class Store:
    """Runs by their id, each in one of the states planned, running, done, diverged and failed.

    Several processes of one host may use one store at the same time. A finished run (done or diverged) is never overwritten. Methods that
    read take `ids`, the runs asked for, and then read no others. Every method raises InputError where the file cannot be used.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path}: cannot be made: {error}") from error
        if self.path.is_dir():
            raise InputError(f"{path}: is a folder; name a file")
        self.database = Database(self.path)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file. The store can be used on and opens it again."""
        self.database.close()

    def plan(self, runs: Iterable[Mapping[str, Any]]) -> None:
        """Notes runs that are to be made: mappings with `run_id`, `config` (a dict), `arm`, `budget` and `holdout`, and more columns if known.

        Runs that are there already, in any state, stay as they are.
        """
        with self.database.writing() as connection:
            for run in runs:
                if not connection.execute("SELECT 1 FROM runs WHERE run_id = ?", (rows.checked_id(run["run_id"]),)).fetchone():
                    rows.put(connection, {**run, "status": PLANNED}, None)

    def claim(self, run_id: str, owner: str) -> bool:
        """Takes a run for `owner`, a text that no other process has (host, process id, start time); whether it is the owner's now.

        It is not where the run is finished, or another owner's heartbeat is younger than STALE_SECONDS and that owner may be there still.
        """
        now = time.time()
        with self.database.writing(durable=False) as connection:
            found = connection.execute("SELECT status, owner, beat FROM runs WHERE run_id = ?", (rows.checked_id(run_id),)).fetchone()
            if found is None:
                rows.put(connection, {"run_id": run_id, "status": PLANNED}, None)
            elif found[0] in FINISHED or (found[0] == RUNNING and found[1] != owner and not _abandoned(found[1], found[2], now)):
                return False
            connection.execute(
                "UPDATE runs SET status = ?, owner = ?, beat = ?, reason = NULL, ended = NULL WHERE run_id = ?",
                (RUNNING, owner, now, run_id),
            )
        return True

    def beat(self, run_ids: Iterable[str], owner: str) -> set[str]:
        """Renews the heartbeat of the owner's runs. Returns those of `run_ids` that are the owner's still."""
        ids = list(run_ids)
        with self.database.writing(durable=False) as connection:
            where, values = _among(ids)
            held = connection.execute(
                f"UPDATE runs SET beat = ? WHERE owner = ? AND status = ? AND {where} RETURNING run_id",
                (time.time(), owner, RUNNING, *values),
            )
            return {row[0] for row in held.fetchall()}

    def release(self, run_id: str, owner: str) -> None:
        """Gives a running run back, to be made by whoever claims it next; nothing happens unless `owner` holds it."""
        with self.database.writing(durable=False) as connection:
            connection.execute(
                "UPDATE runs SET status = ?, owner = NULL, beat = NULL WHERE run_id = ? AND owner = ? AND status = ?",
                (PLANNED, run_id, owner, RUNNING),
            )

    def save(self, record: RunRecord) -> None:
        """Writes a finished run, on the disk before this returns. A run that is done or diverged stays as it is."""
        with self.database.writing() as connection:
            rows.put(connection, record.as_dict(), time.time())

    def fail(self, run_id: str, reason: str) -> None:
        """Notes that a run could not be made, and why. It counts as not yet made."""
        with self.database.writing() as connection:
            found = connection.execute("SELECT status FROM runs WHERE run_id = ?", (rows.checked_id(run_id),)).fetchone()
            if found is None:
                rows.put(connection, {"run_id": run_id, "status": FAILED, "reason": reason}, time.time())
            elif found[0] not in FINISHED:
                connection.execute(
                    "UPDATE runs SET status = ?, reason = ?, ended = ?, owner = NULL, beat = NULL WHERE run_id = ?",
                    (FAILED, rows.bound(reason), time.time(), run_id),
                )

    def corpora(self) -> set[str]:
        """The ids of the corpora that runs of the store were made on."""
        with self.database.reading() as connection:
            return {row[0] for row in connection.execute("SELECT DISTINCT corpus FROM runs WHERE status IN ('done', 'diverged')") if row[0]}

    def finished(self, ids: Ids = None) -> set[str]:
        """Ids of the runs that need not be made again: done and diverged ones."""
        return {run for run, state in self.states(ids).items() if state in FINISHED}

    def states(self, ids: Ids = None) -> dict[str, str]:
        """The state of each run by its id. A running one that was abandoned reads as planned."""
        now = time.time()
        where, values = _among(ids)
        with self.database.reading() as connection:
            found = connection.execute(f"SELECT run_id, status, owner, beat FROM runs WHERE {where}", values)
            return {run: PLANNED if state == RUNNING and _abandoned(owner, beat, now) else state for run, state, owner, beat in found}

    def entries(self, ids: Ids = None) -> Generator[dict[str, Any]]:
        """Record by record, in the order in which they were planned or stored, all that the store knows of each run, with `ended` if it has."""
        where, values = _among(ids)
        query = f"SELECT ended, {_KNOWN} WHERE {where} ORDER BY runs.rowid"
        with self.database.reading() as connection:
            for ended, *known, record, curve in connection.execute(query, values):
                yield rows.unpacked(record, curve, _state(*known)) | ({} if ended is None else {"ended": ended})

    def records(self, ids: Ids = None, states: Collection[str] = ENDED) -> list[dict[str, Any]]:
        """The records of the runs in these states, oldest first. One that has not finished is what is known of it, with its state."""
        where, values = _among(ids)
        query = f"SELECT {_KNOWN} WHERE {where} AND status IN (SELECT value FROM json_each(?)) ORDER BY ended, run_id"
        with self.database.reading() as connection:
            found = connection.execute(query, (*values, json.dumps(list(states))))
            return [rows.unpacked(record, curve, _state(*known)) for *known, record, curve in found]

    def frame(self, ids: Ids = None) -> pd.DataFrame:
        """The runs table: the package's columns and a few more, one row a run, whatever its state, oldest first."""
        import pandas as pd

        where, values = _among(ids)
        with self.database.reading() as connection:
            found = connection.execute(
                f"SELECT {_NOW} FROM runs WHERE {where} ORDER BY ended IS NULL, ended, run_id",
                (RUNNING, time.time(), STALE_SECONDS, PLANNED, *values),
            )
            frame = pd.DataFrame(found.fetchall(), columns=rows.COLUMNS)
        return frame.assign(holdout=frame["holdout"].map(lambda flag: None if pd.isna(flag) else bool(flag)).astype(object))

    def curve(self, run_id: str) -> list[float]:
        """The learning curve of a run, nats per token, means over equal parts of the run; empty where there is none."""
        return self.curves([run_id]).get(run_id, [])

    def curves(self, ids: Ids = None) -> dict[str, list[float]]:
        """The learning curves by run id."""
        where, values = _among(ids)
        with self.database.reading() as connection:
            found = connection.execute(f"SELECT run_id, train_loss FROM curves WHERE {where}", values)
            return {run: rows.parsed(curve, list) for run, curve in found}


def _among(ids: Ids) -> tuple[str, tuple[str, ...]]:
    """The condition that a run is one of `ids`, for any number of them, and its parameter."""
    return ("1", ()) if ids is None else ("run_id IN (SELECT value FROM json_each(?))", (json.dumps(list(ids)),))


def _abandoned(owner: str | None, beat: float | None, now: float) -> bool:
    """A heartbeat from the future, of a clock that was wrong, counts for no longer than any other."""
    return beat is None or abs(now - beat) >= STALE_SECONDS or is_gone(owner)


def _state(status: str, run_id: str, reason: str | None, arm: str | None, budget: float | None, holdout: int | None) -> dict[str, Any]:
    """What the runs table knows of a run that has no record yet."""
    return {
        "run_id": run_id,
        "status": status,
        "reason": reason if status == FAILED else None,
        "arm": arm,
        "budget": budget,
        "holdout": None if holdout is None else bool(holdout),
    }


def open_existing(path: str | Path) -> Store:
    """The store at `path`; InputError where there is none (reading must not create one)."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such store")
    if not Path(path).stat().st_size:
        raise InputError(f"{path}: the file is empty, not a run store")
    return Store(path)
