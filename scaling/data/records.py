"""Documents in tables: one of the fields of JSON lines, one of the columns of a Parquet file, read in batches."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from scaling.data.reading import Text, closing, readable
from scaling.errors import InputError

FIELD = "text"
BATCH_ROWS = 1024


def jsonl(label: str, pieces: Iterable[bytes], where: str, field: str) -> Iterator[Text]:
    """(label, text) of the field of every line; blank lines are left out. A line must fit in memory."""
    offset = 0
    with closing(pieces):
        for number, line in enumerate(_lines(pieces), 1):
            if line.strip():
                try:
                    record = json.loads(line.decode("utf-8"))
                except UnicodeDecodeError as error:
                    byte, at = line[error.start], offset + error.start
                    raise InputError(f"{where}: line {number}: not UTF-8 text: byte {byte:#04x} at offset {at}") from error
                except (ValueError, RecursionError) as error:
                    raise InputError(f"{where}: line {number}: not JSON: {error}") from error
                yield label, _text(record, field, f"{where}: line {number}")
            offset += len(line)


def parquet(label: str, file: Path | io.BytesIO, where: str, field: str) -> Iterator[Text]:
    """(label, text) of the column's cells, empty ones left out."""
    import pyarrow
    import pyarrow.parquet

    with readable(where):  # pyarrow's own errors are ValueErrors and OSErrors
        table = pyarrow.parquet.ParquetFile(file)
        if field not in table.schema_arrow.names:
            names = ", ".join(table.schema_arrow.names)
            raise InputError(f"{where}: no column {field!r} to take text from; it has {names}: name one (isoloss data build --field NAME)")
        kind = table.schema_arrow.field(field).type
        if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
            raise InputError(f"{where}: column {field!r} holds {kind}, not text; name another (isoloss data build --field NAME)")
        for batch in table.iter_batches(BATCH_ROWS, columns=[field]):
            yield from ((label, encoded(cell)) for cell in batch.column(0).to_pylist() if cell is not None)


def encoded(text: str) -> bytes:
    """UTF-8 with plain line ends; half of a surrogate pair, which JSON can hold and UTF-8 cannot, becomes a question mark."""
    return text.encode("utf-8", "replace").replace(b"\r\n", b"\n")


def _text(record: Any, field: str, where: str) -> bytes:
    if not isinstance(record, dict):
        raise InputError(f"{where}: a JSON {type(record).__name__}, not an object")
    if field not in record:
        raise InputError(f"{where}: no field {field!r}; it has {', '.join(record)}: name one (isoloss data build --field NAME)")
    if not isinstance(record[field], str):
        raise InputError(f"{where}: field {field!r} holds a JSON {type(record[field]).__name__}, not text")
    return encoded(record[field])


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """With their line ends."""
    held: list[bytes] = []
    for piece in pieces:
        for line in piece.replace(b"\r", b" ").splitlines(keepends=True):
            held.append(line)
            if line.endswith(b"\n"):
                yield b"".join(held)
                held = []
    if held:
        yield b"".join(held)
