"""Runs leave a store and come into one: exports, imports, and the merging of stores.

Runs are the same where their ids are. What is more ended wins: a finished run over a failed, planned or running one, a failed one over a
planned one. Where both are finished and say different things (another status or loss, which rounding on another machine suffices for),
the store's own stays in the runs table, the other is kept in the table `conflicts`, and the caller is told of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling import output
from scaling.errors import InputError
from scaling.store import rows
from scaling.store.rows import FAILED, FINISHED, PLANNED, RUNNING
from scaling.store.store import Ids, Store, open_existing

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "isoloss-runs"
ENDINGS = (".csv", ".parquet", ".json", ".jsonl")
CONFLICTS = "SELECT run_id, runs.loss, conflicts.loss, source FROM conflicts LEFT JOIN runs USING (run_id) ORDER BY run_id, source"


@dataclasses.dataclass
class Merged:
    """What became of the runs that came in. `updated`: there before, but not as far. `conflicts`: their ids."""

    added: int = 0
    updated: int = 0
    same: int = 0
    conflicts: list[str] = dataclasses.field(default_factory=list)

    def __add__(self, other: Merged) -> Merged:
        return Merged(self.added + other.added, self.updated + other.updated, self.same + other.same, [*self.conflicts, *other.conflicts])


def export(store: Store, path: Path, ids: Ids = None) -> None:
    """Writes runs of the store to `path`, whole or not at all; `ids` chooses them and, in a table, their order.

    JSON (one object) and JSONL (one run a line) hold all that the store knows; CSV and Parquet hold the runs table.
    """
    ending = checked_target(path, store.path)
    if ending in (".csv", ".parquet"):
        frame = store.frame(ids)
        if ids is not None:
            frame = frame.set_index("run_id", drop=False).loc[list(ids)].reset_index(drop=True)
        return write_table(frame, path)

    with _part_of(path) as part, part.open("w", encoding="utf-8") as file:
        if ending == ".jsonl":
            file.writelines(_json(entry) + "\n" for entry in store.entries(ids))
        else:
            file.write(f'{{"format": "{FORMAT}", "runs": [')
            file.writelines((",\n" if number else "\n") + _json(entry) for number, entry in enumerate(store.entries(ids)))
            file.write("\n]}\n")


def export_curves(store: Store, path: Path, ids: Ids = None) -> int:
    """Writes the learning curves, one row a part of a run: run_id, part (from 1), parts, train_loss (nats per token); how many curves."""
    import pandas as pd

    checked_target(path, store.path)
    curves = store.curves(ids)
    columns = ["run_id", "part", "parts", "train_loss"]
    table = [(run, part, len(curve), loss) for run, curve in curves.items() for part, loss in enumerate(curve, start=1)]
    write_table(pd.DataFrame(table, columns=columns), path)
    return len(curves)


def checked_target(path: Path, store: Path) -> str:
    """The ending of a file to be written; InputError for an unknown one, a folder and the store itself."""
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise InputError(f"{path}: the ending says what is written; give one of {', '.join(ENDINGS)}")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file")
    if path.exists() and store.exists() and path.samefile(store):
        raise InputError(f"{path}: is the store itself; name another file")
    return ending


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """A table as CSV, Parquet, JSON or JSONL by the ending of `path`, whole or not at all."""
    ending = path.suffix.lower()
    with _part_of(path) as part:
        if ending == ".parquet":
            frame.convert_dtypes().to_parquet(part, index=False)
        elif ending == ".csv":
            frame.to_csv(part, index=False)
        else:
            lines = [_json(row) for row in output.plain(frame)]
            part.write_text("".join(line + "\n" for line in lines) if ending == ".jsonl" else "[" + ",\n".join(lines) + "]\n")


@contextlib.contextmanager
def _part_of(path: Path) -> Generator[Path]:
    """A file beside `path` that takes its place once it is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _json(entry: Mapping[str, Any]) -> str:
    return json.dumps(output.strict(entry), allow_nan=False)


def read_entries(path: Path) -> Iterator[dict[str, Any]]:
    """The runs of an exported file one by one, checked; InputError names file, row and column.

    Of a table of other origin the columns that the runs table has are taken, and `run_id` and `status` must be among them.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise InputError(f"{path}: cannot import {path.suffix!r} files; give a {', '.join(ENDINGS)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    for where, entry in {".json": _of_object, ".jsonl": _of_lines}.get(ending, _of_table)(path):
        yield checked(entry, f"{path}: {where}")


def _of_object(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    runs = found.get("runs") if isinstance(found, dict) else found
    if not isinstance(runs, list):
        raise InputError(f'{path}: not an export of runs; it is {{"runs": [...]}}')
    return ((f"run {number}", entry) for number, entry in enumerate(runs, start=1))


def _of_lines(path: Path) -> Iterator[tuple[str, Any]]:
    number = offset = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"line {number}", json.loads(line.decode("utf-8"))
                offset += len(line)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: line {number}: not UTF-8 text (byte offset {offset + error.start})") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: line {number}: cannot be read as JSON: {error}") from error


def _of_table(path: Path) -> Iterator[tuple[str, Any]]:
    from fits.tables import read_table

    texts = [name for name, kind in rows.COLUMN_TYPES.items() if kind.startswith("TEXT")]
    frame = read_table(path, text=texts)
    missing = [name for name in ("run_id", "status") if name not in frame]
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r}; there are {', '.join(map(str, frame.columns))}")
    frame = frame[[name for name in (*rows.COLUMNS, "ended") if name in frame]]
    plain = frame.astype(object).where(frame.notna(), None)
    names = list(frame.columns)
    for row, *values in plain.itertuples(name=None):
        yield f"row {row}", {name: _plain(name, value) for name, value in zip(names, values, strict=True) if value is not None}


def _plain(name: str, value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    whole = isinstance(value, float) and value.is_integer() and rows.COLUMN_TYPES.get(name) == "INTEGER"
    return int(value) if whole else value  # a column with gaps is read as floats


def checked(entry: Any, where: str) -> dict[str, Any]:
    """An entry that the store can hold; InputError says `where` and what is wrong."""
    if not isinstance(entry, dict):
        raise InputError(f"{where}: not an object with the columns of a run")
    try:
        rows.checked_id(entry.get("run_id"))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    state = entry.get("status")
    if state not in rows.STATES:
        raise InputError(f"{where}, column 'status': {str(state)[:60]!r} is not one of {', '.join(rows.STATES)}")
    wrong = next((problem for problem in rows.problems(entry)), None)
    if wrong:
        raise InputError(f"{where}, {wrong}")
    return entry


def import_runs(path: Path, target: Path) -> Merged:
    """Takes the runs of an exported file into the store at `target`, which is made if it is not there; all of them or, if one is wrong, none."""
    with _made_or_kept(target) as store:
        return _absorb_all(store, read_entries(path), str(path))


def merge(others: Iterable[Path], target: Path) -> dict[Path, Merged]:
    """Takes the runs of other stores into the store at `target`, which is made if it is not there."""
    stores = [open_existing(path) for path in others]
    for other in stores:
        if target.exists() and other.path.samefile(target):
            raise InputError(f"{other.path}: is the store itself; name another to merge into it")
    found = {}
    with _made_or_kept(target) as store:
        for other in stores:
            entries = (checked(entry, f"{other.path}: run {entry['run_id']}") for entry in other.entries())
            found[other.path] = _absorb_all(store, entries, str(other.path))
            with other.database.reading() as theirs, store.database.writing() as mine:
                kept = theirs.execute("SELECT run_id, source, loss, record FROM conflicts").fetchall()
                mine.executemany("INSERT OR IGNORE INTO conflicts VALUES (?, ?, ?, ?)", kept)
            other.close()
    return found


@contextlib.contextmanager
def _made_or_kept(target: Path) -> Generator[Store]:
    """The store at `target`; one that was made for what then could not be read does not stay."""
    made = not target.exists()
    try:
        with Store(target) as store:
            yield store
    except BaseException:
        if made and target.exists():
            target.unlink()
        raise


def conflicts(store: Store) -> list[dict[str, Any]]:
    """Finished runs that came in under an id whose run in the store ended otherwise: run_id, both losses, where it came from, its record."""
    with store.database.reading() as connection:
        return [
            {"run_id": run, "loss": loss, "other_loss": other, "source": source, "record": rows.parsed(record, dict)}
            for run, loss, other, source, record in connection.execute(CONFLICTS.replace(" FROM", ", conflicts.record FROM", 1))
        ]


def _absorb_all(store: Store, entries: Iterable[dict[str, Any]], source: str) -> Merged:
    merged = Merged()
    with store.database.writing() as connection:
        for entry in entries:
            _absorb(connection, dict(entry), source, merged)
    return merged


def _absorb(connection: sqlite3.Connection, entry: dict[str, Any], source: str, merged: Merged) -> None:
    ended = entry.pop("ended", None)
    if entry["status"] == RUNNING:  # there, not here
        entry["status"] = PLANNED
    query = "SELECT status, loss, record FROM runs LEFT JOIN records USING (run_id) WHERE run_id = ?"
    found = connection.execute(query, (entry["run_id"],)).fetchone()
    if found is None:
        rows.put(connection, entry, ended)
        merged.added += 1
        return
    state, loss, record = found
    if state in FINISHED and entry["status"] in FINISHED:
        if (state, loss) == (entry["status"], entry.get("loss")):
            merged.same += 1
        else:
            text = json.dumps(entry, sort_keys=True)
            connection.execute("INSERT OR IGNORE INTO conflicts VALUES (?, ?, ?, ?)", (entry["run_id"], source, entry.get("loss"), text))
            merged.conflicts.append(entry["run_id"])
    elif state not in FINISHED and (entry["status"] in FINISHED or (entry["status"] == FAILED and state == PLANNED)):
        known = rows.parsed(record, dict) if record else {}
        rows.put(connection, {"config": known["config"]} | entry if "config" in known else entry, ended)
        merged.updated += 1
    else:
        merged.same += 1
