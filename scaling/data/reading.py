"""Bytes from files: opened, unpacked and checked as they stream by, so that no file need fit in memory."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from scaling.errors import InputError

PIECE_BYTES = 2**20
Text = tuple[str, bytes | Iterable[bytes]]  # a document: its label, and its text at once or in pieces


def _zstd(path: Path) -> Any:
    import pyarrow

    return pyarrow.input_stream(str(path), compression="zstd")


COMPRESSED: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open, ".zst": _zstd}


@contextmanager
def readable(where: str, *more: type[Exception]) -> Generator[None]:
    """What reading or unpacking a broken file raises (and `more`) becomes an InputError that names it."""
    try:
        yield
    except InputError:
        raise
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, *more) as error:
        raise InputError(f"{where}: cannot be read: {' '.join(str(error).split())}") from error


@contextmanager
def closing(*iterators: object) -> Generator[None]:
    """Closes what is a generator in the end, so that the file that it reads is not left open by an error further on."""
    try:
        yield
    finally:
        for each in iterators:
            close = getattr(each, "close", None)
            if close is not None:
                close()


def stream(path: Path) -> IO[bytes]:
    """`path`, open for reading and unpacked by its suffix."""
    return COMPRESSED[path.suffix.lower()](path) if path.suffix.lower() in COMPRESSED else open(path, "rb")


def opened(path: Path) -> Iterator[bytes]:
    """The bytes of `path`, unpacked by its suffix, in pieces."""
    with readable(str(path)), stream(path) as file:
        yield from pieces_of(file)


def pieces_of(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece


def utf8_pieces(pieces: Iterable[bytes], where: str) -> Iterator[bytes]:
    """`pieces` with plain line ends; InputError at the first byte that is not UTF-8, with its offset."""
    held, offset = b"", 0  # what the next piece may complete: a symbol, a line end; and where it starts
    with closing(pieces):
        for piece in pieces:
            text = held + piece
            broken = not_utf8(text)
            cut = len(text) if broken is None else broken
            if broken is not None and not _unfinished(text[cut:]):
                raise InputError(f"{where}: not UTF-8 text: byte {text[cut]:#04x} at offset {offset + cut}")
            cut -= text[:cut].endswith(b"\r")
            yield text[:cut].replace(b"\r\n", b"\n")
            held, offset = text[cut:], offset + cut
    broken = not_utf8(held)
    if broken is not None:
        raise InputError(f"{where}: not UTF-8 text: byte {held[broken]:#04x} at offset {offset + broken}")
    yield held


def not_utf8(text: bytes) -> int | None:
    """Where the first byte is that is not UTF-8; None where all are."""
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return None


def _unfinished(text: bytes) -> bool:
    """Whether more bytes may still make UTF-8 of `text`, which starts with a byte that alone is not."""
    try:
        return not codecs.getincrementaldecoder("utf-8")().decode(text)
    except UnicodeDecodeError:
        return False
