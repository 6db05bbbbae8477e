"""Files inside .zip and .tar archives, read as they stream by; nothing is ever unpacked to disk.

A member or a link that points outside the archive's own folder is refused by its name all the same: such an archive is not what it
seems.
"""

from __future__ import annotations

import dataclasses
import io
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from scaling.data.reading import COMPRESSED, PIECE_BYTES, pieces_of, readable, stream
from scaling.errors import InputError

_BROKEN = (tarfile.TarError, zipfile.BadZipFile, RuntimeError)  # the last: encrypted, or packed in a way that is not known


@dataclasses.dataclass(frozen=True)
class Member:
    """A file in an archive. It must be read before the next one is asked for."""

    archive: Path
    name: str
    open: Callable[[], IO[bytes]]

    def pieces(self) -> Iterator[bytes]:
        where, suffix = f"{self.archive}: {self.name}", PurePosixPath(self.name.lower()).suffix
        if suffix == ".zst":
            raise InputError(f"{where}: .zst inside an archive is not read; unpack it first")
        with readable(where, *_BROKEN), self.open() as packed:
            if suffix not in COMPRESSED:
                yield from pieces_of(packed)
            else:
                with COMPRESSED[suffix](packed) as file:
                    yield from pieces_of(file)

    def whole(self) -> io.BytesIO:
        return io.BytesIO(b"".join(self.pieces()))


def zip_members(path: Path) -> Iterator[Member]:
    """The files of a .zip, hidden ones left out."""
    with readable(str(path), *_BROKEN), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            refuse_outside(path, info.filename)
        for info in archive.infolist():
            if not info.is_dir() and not _hidden(info.filename):
                yield Member(path, info.filename, partial(archive.open, info))


def tar_members(path: Path) -> Iterator[Member]:
    """The files of a .tar, packed or not; hidden ones and links left out."""
    with readable(str(path), *_BROKEN), _packed(path) as file, tarfile.open(fileobj=file, mode="r|", bufsize=PIECE_BYTES) as archive:
        for member in archive:
            refuse_outside(path, member.name)
            if member.issym() or member.islnk():
                folder = PurePosixPath(member.name).parent if member.issym() else PurePosixPath()
                refuse_outside(path, member.name, str(folder / member.linkname))
            elif member.isfile() and not _hidden(member.name):
                yield Member(path, member.name, partial(_extract, archive, member))


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(member)
    assert file is not None  # it is a file
    return file


def refuse_outside(archive: Path, name: str, target: str | None = None) -> None:
    """InputError where `name`, or what it links to, lies outside the folder that the archive is."""
    depth, place = 0, PurePosixPath((target or name).replace("\\", "/"))
    for part in place.parts:
        depth += -1 if part == ".." else 0 if part == "." else 1
        if depth < 0:
            break
    if depth < 0 or place.is_absolute() or re.match(r"[A-Za-z]:", str(place)):
        link = f" (a link to {target!r})" if target else ""
        raise InputError(f"{archive}: member {name!r}{link} points outside the archive's folder; remove it from the archive")


def _packed(path: Path) -> IO[bytes]:
    if path.suffix.lower() in (".tgz", ".txz", ".tbz2"):
        return COMPRESSED["." + {"tgz": "gz", "txz": "xz", "tbz2": "bz2"}[path.suffix.lower()[1:]]](path)
    return stream(path)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
