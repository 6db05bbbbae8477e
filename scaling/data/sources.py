"""Where text comes from: the source files of this Python and its scientific packages, or a user's own files."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from scaling.data import archives, records
from scaling.data.reading import COMPRESSED, Text, not_utf8, opened, utf8_pieces
from scaling.errors import InputError

PYTHON_SOURCE = "python-source"
PACKAGES = ("numpy", "scipy", "jax", "pandas", "matplotlib", "flax", "optax", "orbax", "pydantic", "rich", "typer", "etils", "chex")
_SKIPPED_FOLDERS = {"tests", "test", "testing", "__pycache__", "site-packages", "idlelib", "lib2to3"}


def python_source() -> Iterator[Text]:
    """(label, text) of every .py file of the standard library and the installed PACKAGES, tests left out, in a fixed order."""
    folders = [("python", Path(sysconfig.get_paths()["stdlib"]))]
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            folders.append((package, Path(next(iter(spec.submodule_search_locations)))))
    for label, folder in folders:
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).parts
            if _SKIPPED_FOLDERS.intersection(parts[:-1]):
                continue
            text = path.read_bytes()
            if not_utf8(text) is None:
                yield f"{label}/{'/'.join(parts)}", text


def files_of(path: Path) -> list[Path]:
    """`path` itself, or every file under it in the order of their names, hidden ones left out."""
    if path.is_file():
        return [path]
    files = sorted(p for p in path.rglob("*") if p.is_file() and not any(part.startswith(".") for part in p.relative_to(path).parts))
    if not files:
        raise InputError(f"{path}: the folder holds no files")
    return files


def texts(path: Path, field: str = records.FIELD) -> Iterator[Text]:
    """(label, text) of a file, or of every file under a folder. `field` is the key of JSONL records, the column of Parquet tables.

    Text files are UTF-8 and one document each; records and rows are documents; members of archives (.zip, .tar) are files. Whatever
    is compressed (.gz, .xz, .bz2, .zst) is unpacked. InputError for what cannot be read.
    """
    for file in files_of(path):
        label = file.name if file == path else str(file.relative_to(path))
        kind = kind_of(file.name)
        if kind == ".zip":
            yield from _members(file, archives.zip_members(file), field)
        elif kind == ".tar":
            yield from _members(file, archives.tar_members(file), field)
        elif kind == ".parquet":
            yield from records.parquet(label, file, str(file), field)
        else:
            yield from _document(kind, label, opened(file), str(file), field)


def _members(file: Path, members: Iterable[archives.Member], field: str) -> Iterator[Text]:
    for member in members:
        where, kind = f"{file}: {member.name}", kind_of(member.name)
        if kind == ".parquet":
            yield from records.parquet(member.name, member.whole(), where, field)
        else:
            yield from _document(kind, member.name, member.pieces(), where, field)


def _document(kind: str, label: str, pieces: Iterable[bytes], where: str, field: str) -> Iterator[Text]:
    if kind in (".jsonl", ".ndjson"):
        yield from records.jsonl(label, pieces, where, field)
    else:
        yield label, utf8_pieces(pieces, where)


def kind_of(name: str) -> str:
    """The suffix that says how a file is read, without that of its compression; "" for text."""
    path = PurePosixPath(name.lower())
    if path.suffix in (".tgz", ".txz", ".tbz2"):
        return ".tar"
    if path.suffix in COMPRESSED:
        path = path.with_suffix("")
    return path.suffix if path.suffix in (".zip", ".tar", ".parquet", ".jsonl", ".ndjson") else ""


def versions(origins: Iterable[str]) -> dict[str, str]:
    """The installed version of every origin that is a package, and of Python."""
    found = {"python": platform.python_version()}
    for name in origins:
        try:
            found[name] = importlib.metadata.version(name)
        except (importlib.metadata.PackageNotFoundError, ValueError):
            continue
    return found
