"""A table file becomes a frame: CSV (plain, .gz, .xz), Parquet or JSON lines, chosen by the ending and checked against the content."""

from __future__ import annotations

import gzip
import json
import lzma
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from fits.errors import InputError

CHUNK = 100_000  # lines of JSON that become a frame at a time, so that not all rows are held as dictionaries
HEAD = 4096  # bytes looked at to tell what a file holds
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}

# What a first look can find: how such a file starts, its name in a message, and what the user should do.
CONTENTS: list[tuple[re.Pattern[bytes], str, str]] = [
    (re.compile(rb"PAR1"), "Parquet", "name it .parquet"),
    (re.compile(rb"\x1f\x8b"), "gzip data", "name it .csv.gz if a CSV is inside"),
    (re.compile(rb"\xfd7zXZ\x00"), "xz data", "name it .csv.xz if a CSV is inside"),
    (re.compile(rb"PK\x03\x04"), "a zip archive or a spreadsheet", "save the table as .csv"),
    (re.compile(rb"\xff\xfe|\xfe\xff"), "UTF-16 text", "save it as UTF-8"),
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer, not the data", "download the file itself"),
    (re.compile(rb"\s*<(!doctype|html|\?xml)", re.IGNORECASE), "a web page", "download the raw file"),
    (re.compile(rb'\s*\{\s*["}]'), "JSON", "name it .jsonl if it has one object a line"),
    (re.compile(rb'\s*\[\s*[\[{"\d-]'), "a JSON array", "write one object a line and name it .jsonl"),
    (re.compile(rb"[^\x00]*\x00"), "binary data", "give a .csv, .jsonl or .parquet"),
]
PLAIN = ("text", "name it .csv if it is a CSV")
ENDINGS = {
    ".csv.gz": "gzip data",
    ".csv.xz": "xz data",
    ".csv": "text",
    ".txt": "text",
    ".jsonl": "JSON",
    ".parquet": "Parquet",
    "": "text",
}


def read_table(path: Path, text: Sequence[str] = ()) -> pd.DataFrame:
    """All rows and columns of the table in `path`, as they are. The index is the row's line in the file (Parquet: its number from 1).

    The columns named in `text` are text in a CSV too where they look like numbers.

    Raises InputError in one line where the file is missing, empty, damaged, not what its ending says, or has two columns of one name.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    ending = _ending(path)
    _check_content(path, ending)
    try:
        if ending == ".parquet":
            return _parquet(path)
        return _jsonl(path) if ending == ".jsonl" else _csv(path, ending, text)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte offset {error.start})") from error
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise InputError(f"{path}: the compressed data are damaged or cut short ({error})") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {str(error).strip().splitlines()[0]}") from error
    except ValueError as error:  # pandas' and pyarrow's parser errors are ValueErrors
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as a table: {str(error).strip().splitlines()[0]}") from error


def _ending(path: Path) -> str:
    name = path.name.lower()
    found = next((ending for ending in ENDINGS if ending and name.endswith(ending)), path.suffix)
    if found not in ENDINGS:
        raise InputError(f"{path}: cannot read {path.suffix!r} files; give a .csv, .csv.gz, .csv.xz, .jsonl or .parquet")
    return found


def _check_content(path: Path, ending: str) -> None:
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head.strip():
        raise InputError(f"{path}: the file is empty")
    content, advice = next(((name, advice) for start, name, advice in CONTENTS if start.match(head)), PLAIN)
    if content != ENDINGS[ending]:
        named = f"named {ending}" if ending else "without an ending"
        raise InputError(f"{path}: {named}, but holds {content}; {advice}")


def _csv(path: Path, ending: str, text: Sequence[str]) -> pd.DataFrame:
    compression: Literal["gzip", "xz"] | None = "gzip" if ending == ".csv.gz" else "xz" if ending == ".csv.xz" else None
    try:
        heading = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, skip_blank_lines=False, compression=compression)
    except pd.errors.EmptyDataError:
        raise InputError(f"{path}: line 1 is blank; the heading with the columns' names stands there") from None
    names = [str(name).strip() for name in heading.iloc[0]]
    _refuse_twins([name for name in names if name], path)
    if len(names) == 1:
        for mark, word in SEPARATORS.items():
            if mark in names[0]:
                raise InputError(f"{path}: the fields are separated by {word}; separate them by commas")
    kinds = dict.fromkeys(text, "str")
    frame = pd.read_csv(path, low_memory=False, skip_blank_lines=False, compression=compression, dtype=kinds)
    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes surplus leading fields for row names
        raise InputError(f"{path}: the rows have more fields than the heading")
    frame.columns = [str(name).strip() for name in frame.columns]  # a blank after a comma is no part of a name
    frame.index = pd.RangeIndex(2, len(frame) + 2)
    # Blank lines are read as empty rows first, so that the index stays the line of the file.
    return frame.dropna(how="all") if len(frame) and frame.isna().all(axis=1).any() else frame


def _jsonl(path: Path) -> pd.DataFrame:
    chunks, rows, lines = [], [], []
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                rows.append(_json_object(_text(line, offset, path), number, path))
                lines.append(number)
            offset += len(line)
            if len(rows) == CHUNK:
                chunks.append(pd.DataFrame(rows, index=lines))
                rows, lines = [], []
    return pd.concat([*chunks, pd.DataFrame(rows, index=lines)] if rows else chunks)


def _text(line: bytes, offset: int, path: Path) -> str:
    """A line that begins at byte `offset` of the file, as text."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte offset {offset + error.start})") from error


def _json_object(line: str, number: int, path: Path) -> dict[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise InputError(f"{path}: line {number} is not a JSON object; write one {{column: value, ...}} a line")
    return row


def _parquet(path: Path) -> pd.DataFrame:
    import pyarrow.parquet

    # The file's own metadata may name columns as the index; a table's columns are all of them.
    table = pyarrow.parquet.ParquetFile(path).read()
    _refuse_twins(table.column_names, path)
    frame = table.to_pandas(ignore_metadata=True)
    frame.index = pd.RangeIndex(1, len(frame) + 1)
    return frame


def _refuse_twins(names: list[str], path: Path) -> None:
    for name in names:
        if names.count(name) > 1:
            places = ", ".join(str(place + 1) for place, other in enumerate(names) if other == name)
            raise InputError(f"{path}: {names.count(name)} columns are named {name!r} (columns {places}); rename or remove all but one")
