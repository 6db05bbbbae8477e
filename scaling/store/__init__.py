"""The run store: one SQLite file, one row a run, from its plan to its record.

`schema` says what the file holds and brings older ones up to date, `database` opens it and turns SQLite's errors into one line, `rows`
makes a row of a record, and `store` is what a sweep works with.
"""

from __future__ import annotations

from scaling.store.rows import DIVERGED, DONE, ENDED, FAILED, FINISHED, PLANNED, RUNNING, STATES
from scaling.store.schema import SCHEMA_VERSION
from scaling.store.store import STALE_SECONDS, Store, open_existing

__all__ = [
    "DIVERGED",
    "DONE",
    "ENDED",
    "FAILED",
    "FINISHED",
    "PLANNED",
    "RUNNING",
    "SCHEMA_VERSION",
    "STALE_SECONDS",
    "STATES",
    "Store",
    "open_existing",
]
