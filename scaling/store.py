"""The run store: one SQLite file, one row a run, written as the run ends."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from scaling.errors import InputError
from scaling.run import RunRecord

SCHEMA_VERSION = 1
COLUMNS = [
    "run_id",
    "corpus",
    "arm",
    "precision",
    "seed",
    "params",
    "active_params",
    "non_embedding_params",
    "tokens",
    "unique_tokens",
    "flops",
    "loss",
    "loss_se",
    "status",
]
_MORE = ("reason", "width", "layers", "experts", "batch", "steps", "learning_rate", "train_seconds", "tokens_per_second", "device")


class Store:
    """Finished runs by their id. Several processes may write at once (WAL); a finished run is never overwritten."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._connect() as connection:
                connection.execute("PRAGMA journal_mode=WAL")
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                if version > SCHEMA_VERSION:
                    raise InputError(f"{path}: written by a newer isoloss (schema {version}, this one reads {SCHEMA_VERSION}); upgrade it")
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS runs (run_id TEXT PRIMARY KEY, status TEXT NOT NULL, ended REAL NOT NULL, record TEXT NOT NULL)"
                )
                connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        except sqlite3.DatabaseError as error:
            raise InputError(f"{path}: not a run store: {error}") from error

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
