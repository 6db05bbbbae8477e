"""The run store: one SQLite file, one row a run, written as the run ends."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from fits.runs import COLUMNS
from scaling.errors import InputError
from scaling.run import RunRecord

SCHEMA_VERSION = 1
APPLICATION_ID = 0x150105  # in the file's header, so that no other database is taken for a store
RETRIES = 100
_MORE = (
    "reason",
    "width",
    "layers",
    "experts",
    "batch",
    "steps",
    "learning_rate",
    "train_seconds",
    "tokens_per_second",
    "device",
    "budget",
    "holdout",
)


class Store:
    """Finished runs by their id. Several processes may write at once (WAL); a finished run is never overwritten."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            for attempt in range(RETRIES):
                try:
                    return self._prepare()
                except sqlite3.OperationalError as error:  # several processes make the same store at once
                    if "locked" not in str(error) or attempt == RETRIES - 1:
                        raise
                    time.sleep(0.05)
        except sqlite3.OperationalError as error:
            raise InputError(f"{path}: cannot be opened as a run store: {error}") from error
        except sqlite3.DatabaseError as error:
            raise InputError(f"{path}: not a run store: {error}") from error

    def _prepare(self) -> None:
        """Makes the table in a new file; refuses a database of another kind or a newer version untouched."""
        with self._connect() as connection:
            application, version, tables = (
                connection.execute(query).fetchone()[0]
                for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
            )
            if application == APPLICATION_ID and version == SCHEMA_VERSION:
                return
            if application == APPLICATION_ID and version > SCHEMA_VERSION:
                raise InputError(f"{self.path}: written by a newer isoloss (schema {version}, this one reads {SCHEMA_VERSION}); upgrade it")
            if tables:
                raise InputError(f"{self.path}: a database, but not a run store of isoloss")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS runs (run_id TEXT PRIMARY KEY, status TEXT NOT NULL, ended REAL NOT NULL, record TEXT NOT NULL)"
            )
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    @contextmanager
    def _connect(self) -> Generator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path, timeout=60)
        try:
            with connection:  # one transaction
                yield connection
        finally:
            connection.close()

    def save(self, record: RunRecord) -> None:
        """Writes a finished run. A run that failed before may be replaced; one that is done stays as it is."""
        with self._connect() as connection:
            connection.execute(
                "INSERT INTO runs VALUES (?, ?, ?, ?) ON CONFLICT (run_id) DO UPDATE"
                " SET status = excluded.status, ended = excluded.ended, record = excluded.record WHERE runs.status = 'failed'",
                (record.run_id, record.status, time.time(), json.dumps(record.as_dict())),
            )

    def fail(self, run_id: str, reason: str) -> None:
        """Notes that a run could not be made, and why. It counts as not yet made."""
        row = {"run_id": run_id, "status": "failed", "reason": reason}
        with self._connect() as connection:
            connection.execute("INSERT OR IGNORE INTO runs VALUES (?, ?, ?, ?)", (run_id, "failed", time.time(), json.dumps(row)))

    def finished(self) -> set[str]:
        """Ids of the runs that need not be made again: done and diverged ones."""
        with self._connect() as connection:
            return {row[0] for row in connection.execute("SELECT run_id FROM runs WHERE status != 'failed'")}

    def records(self) -> list[dict]:
        """Every row as the dict of its record, oldest first."""
        with self._connect() as connection:
            return [json.loads(row[0]) for row in connection.execute("SELECT record FROM runs ORDER BY ended, run_id")]

    def frame(self) -> pd.DataFrame:
        """The runs table: the package's columns and a few more, one row a run."""
        return pd.DataFrame(self.records(), columns=[*COLUMNS, *_MORE])


def open_existing(path: str | Path) -> Store:
    """The store at `path`; InputError where there is none (reading must not create one)."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such store")
    return Store(path)
