"""The connection to a store file: transactions, how safe they are, and SQLite's errors in one line.

Write-ahead log: readers and one writer at a time do not wait for each other, and writers queue for up to BUSY_SECONDS. A run's end is
synced to the disk before it counts as stored (synchronous = FULL): training it took seconds to days, the sync takes milliseconds, and a
power cut then takes nothing that a sweep has reported. Heartbeats and claims are worth nothing after a power cut and are not synced
(NORMAL: the file stays sound, the last of them may be lost).

The log needs memory that the processes share, so that all of them must run on one host: SQLite's own documentation rules out a write-ahead
log on a network file system. A sweep over several hosts has one process that stores what the others train.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Generator
from pathlib import Path

from scaling.errors import InputError
from scaling.store import rows, schema
from scaling.store.owners import is_gone

BUSY_SECONDS = 60
MAGIC = b"SQLite format 3\0"  # how such a file starts
_inherited: list[sqlite3.Connection] = []  # of a parent process: neither used nor closed here, as SQLite demands


class Database:
    """One connection a process, opened on first use and shared by its threads."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._process = os.getpid()
        self._file: tuple[int, int] | None = None
        with self.reading():
            pass

    @contextlib.contextmanager
    def reading(self) -> Generator[sqlite3.Connection]:
        """All that is read inside is of one moment."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self, durable: bool = True) -> Generator[sqlite3.Connection]:
        """All that is written inside is there together or not at all, and, if `durable`, on the disk once this returns."""
        with self._transaction("BEGIN IMMEDIATE", "FULL" if durable else "NORMAL") as connection:
            yield connection

    @contextlib.contextmanager
    def _transaction(self, begin: str, synchronous: str | None = None) -> Generator[sqlite3.Connection]:
        with self._lock:
            try:
                connection = self._opened()
                if synchronous:
                    self._refuse_replaced()
                    connection.execute(f"PRAGMA synchronous={synchronous}")
                connection.execute(begin)
                try:
                    yield connection
                    if synchronous:
                        connection.execute("COMMIT")
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
            except (sqlite3.Error, UnicodeDecodeError) as error:
                raise InputError(f"{self.path}: {_said(error, self.path)}") from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is not None and self._process != os.getpid():
            _inherited.append(self._connection)
            self._connection = None
        if self._connection is None:
            self._process = os.getpid()
            connection = _connect(self.path)
            try:
                _patiently(connection, self.path)
                self._file = _identity(self.path)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            weakref.finalize(self, _close, connection, self._process)
        return self._connection

    def _refuse_replaced(self) -> None:
        """An open file that was removed or renamed takes writes that nobody would see again."""
        if _identity(self.path) != self._file:
            raise InputError(f"{self.path}: the store was moved, removed or replaced while it was in use; put it back, or start again")

    def close(self) -> None:
        """Closes the file; the next use opens it again."""
        with self._lock:
            if self._connection is not None:
                _close(self._connection, self._process)
            self._connection = None


def _close(connection: sqlite3.Connection, process: int) -> None:
    if process == os.getpid():
        connection.close()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _connect(path: Path) -> sqlite3.Connection:
    """A connection without implicit transactions. A file that cannot be written, an archive's perhaps, is opened for reading."""
    options = ""
    if path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:  # SQLite itself would take a short file for an empty one, and write over it
                raise InputError(f"{path}: not a run store: the file is no database")
    if path.exists() and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        log = path.with_name(path.name + "-wal")
        options = "?mode=ro" if log.exists() else "?mode=ro&immutable=1"
    connection = sqlite3.connect(
        path.absolute().as_uri() + options, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    connection.create_function("is_gone", 1, is_gone)
    return connection


def _patiently(connection: sqlite3.Connection, path: Path) -> None:
    """`schema.prepare`, tried for a while: several processes may make the same store at once, and the switch to a log does not queue."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return schema.prepare(connection, path)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _said(error: sqlite3.Error | UnicodeDecodeError, path: Path) -> str:
    """What went wrong, and how to mend it. Of a damaged file SQLite's own message may be no text."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    kept = "what was stored before is kept"
    if code == sqlite3.SQLITE_FULL:
        return f"the disk is full; {kept}: make room and start again, finished runs are not made again"
    if code == sqlite3.SQLITE_IOERR:
        return f"reading or writing failed ({error}): a full disk, a quota or a failing disk; {kept}"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"another process has been writing to the store for {BUSY_SECONDS} s; try again when it is done"
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return "cannot be written; copy it to a place where you may write"
    if code == sqlite3.SQLITE_CANTOPEN:
        return f"cannot be opened as a run store: {error}"
    if code == sqlite3.SQLITE_NOTADB:
        return "not a run store: the file is no database"
    if code == sqlite3.SQLITE_CORRUPT or isinstance(error, rows.Damaged | UnicodeDecodeError):
        return f"the store is damaged or cut short ({error}); go back to a copy, or see what is left with: sqlite3 {path} .recover"
    return f"cannot be used as a run store: {error}"
