"""What a store file holds, by version, and how an older one becomes a current one."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from scaling.errors import InputError
from scaling.store import rows

SCHEMA_VERSION = 2
APPLICATION_ID = 0x150105  # in the file's header, so that no other database is taken for a store

# `runs` is the table that other programs read: flat, every state, one row a run. What is long lies in tables of its own.
TABLES = f"""
CREATE TABLE runs (
    {", ".join(f"{name} {kind}" for name, kind in rows.COLUMN_TYPES.items())},
    owner TEXT,  -- of a running one: who trains it
    beat REAL,   -- and when that owner last said so, Unix seconds
    ended REAL   -- when the run ended, Unix seconds
);
CREATE TABLE records (run_id TEXT PRIMARY KEY NOT NULL, record TEXT NOT NULL);
CREATE TABLE curves (run_id TEXT PRIMARY KEY NOT NULL, train_loss TEXT NOT NULL);
CREATE TABLE conflicts (
    run_id TEXT NOT NULL,
    source TEXT NOT NULL,
    loss REAL,
    record TEXT NOT NULL,
    UNIQUE (run_id, record)
);
CREATE VIEW learning_curves AS
    SELECT run_id, key + 1 AS part, json_array_length(train_loss) AS parts, value AS train_loss FROM curves, json_each(train_loss);
"""


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Makes the tables in a new file and brings an old store up to date; refuses anything else, untouched.

    Either happens in one transaction: a process that is killed in the middle leaves the file as it was.
    """
    if _version(connection, path) == SCHEMA_VERSION:
        return
    if _version(connection, path) == 0:
        connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection, path)  # another process may have been faster
        if version == 0:
            _statements(connection, TABLES)
        if version == 1:
            _from_version_1(connection)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """The schema's version, 0 for an empty file; InputError for a newer one and for a database of another kind."""
    # One statement, and so of one moment: another process may be making the tables.
    application, version, tables = connection.execute(
        "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_application_id, pragma_user_version"
    ).fetchone()
    if application == APPLICATION_ID and version > SCHEMA_VERSION:
        raise InputError(f"{path}: written by a newer isoloss (schema {version}, this one reads {SCHEMA_VERSION}); upgrade it")
    if application == APPLICATION_ID and version >= 1:
        return version
    if tables:
        raise InputError(f"{path}: a database, but not a run store of isoloss")
    return 0


def _statements(connection: sqlite3.Connection, text: str) -> None:
    # Not executescript, which would commit first.
    for statement in text.split(";"):
        if statement.strip():
            connection.execute(statement)


def _from_version_1(connection: sqlite3.Connection) -> None:
    """Version 1 had one table of run_id, status, ended and the whole record as JSON."""
    connection.execute("ALTER TABLE runs RENAME TO runs_1")
    _statements(connection, TABLES)
    for run_id, status, ended, text in connection.execute("SELECT run_id, status, ended, record FROM runs_1 ORDER BY rowid"):
        rows.put(connection, rows.parsed(text, dict) | {"run_id": run_id, "status": status}, ended)
    connection.execute("DROP TABLE runs_1")
