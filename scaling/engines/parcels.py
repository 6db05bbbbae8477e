"""A corpus as bytes, for workers on machines whose shelf does not have it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from scaling.data.corpora import load_corpus
from scaling.errors import InputError

LARGEST = 2_000_000_000  # bytes; what is larger belongs on a disk that the machines share (ISOLOSS_CACHE)

Parcel = dict[str, bytes]


def pack(corpus: str) -> Parcel | None:
    """The files of a built corpus, or None where they are too large."""
    folder = load_corpus(corpus).folder
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    if sum(file.stat().st_size for file in files) > LARGEST:
        return None
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def unpack(corpus: str, parcel: Callable[[], Parcel | None]) -> None:
    """Puts the corpus NAME@HASH on this machine's shelf unless it is there; `parcel` is asked for only then."""
    from scaling.paths import cache_folder

    folder = cache_folder() / "corpora" / corpus
    if folder.is_dir() or (files := parcel()) is None:
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".building-"))
    for name, content in files.items():
        target = temporary / name
        if not target.resolve().is_relative_to(temporary.resolve()):
            raise InputError(f"corpus {corpus}: file {name!r} lies outside of its folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    try:
        os.rename(temporary, folder)
    except OSError:  # another worker of this machine was quicker
        shutil.rmtree(temporary)
        if not folder.is_dir():
            raise
