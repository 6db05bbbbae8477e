"""Where text comes from: the source files of this Python and its scientific packages, or a user's own files."""

from __future__ import annotations

import gzip
import importlib.metadata
import importlib.util
import lzma
import platform
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from scaling.errors import InputError

PYTHON_SOURCE = "python-source"
PACKAGES = ("numpy", "scipy", "jax", "pandas", "matplotlib", "flax", "optax", "orbax", "pydantic", "rich", "typer", "etils", "chex")
_SKIPPED_FOLDERS = {"tests", "test", "testing", "__pycache__", "site-packages", "idlelib", "lib2to3"}
_OPENERS = {".xz": lzma.open, ".gz": gzip.open}


def python_source() -> Iterator[tuple[str, bytes]]:
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
            if _utf8_error(text) is None:
                yield f"{label}/{'/'.join(parts)}", text


def text_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """(label, text) of a UTF-8 file (.xz and .gz are unpacked), or of every file under a folder in the order of their names."""
    if path.is_file():
        yield path.name, _read(path)
        return
    files = sorted(p for p in path.rglob("*") if p.is_file() and not any(part.startswith(".") for part in p.relative_to(path).parts))
    if not files:
        raise InputError(f"{path}: the folder holds no files")
    for file in files:
        yield str(file.relative_to(path)), _read(file)


def versions(origins: Iterable[str]) -> dict[str, str]:
    """The installed version of every origin that is a package, and of Python."""
    found = {"python": platform.python_version()}
    for name in origins:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _read(path: Path) -> bytes:
    try:
        with _OPENERS.get(path.suffix, open)(path, "rb") as file:
            text = file.read()
    except (OSError, lzma.LZMAError, EOFError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    offset = _utf8_error(text)
    if offset is not None:
        raise InputError(f"{path}: not UTF-8 text: byte {text[offset]:#04x} at offset {offset}")
    return text.replace(b"\r\n", b"\n")


def _utf8_error(text: bytes) -> int | None:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return None
