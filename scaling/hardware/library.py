"""Chips by name: those that ship with the package, and the user's own."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from functools import cache, lru_cache, partial
from importlib import resources
from pathlib import Path

from scaling.errors import InputError
from scaling.hardware.chip_file import read_chips
from scaling.hardware.chips import Chip
from scaling.paths import cache_folder

# Words that names of devices carry and names of chips may leave out.
NOISE = {"nvidia", "geforce", "tesla", "amd", "instinct", "intel", "habana", "google", "cloud", "huawei", "amazon", "aws"}


def chips(path: str | Path | None = None) -> list[Chip]:
    """All chips: the table of the package, the user's (the file that ISOLOSS_CHIPS names, the measured machine), and those of `path`.

    Raises InputError for a file with unknown keys or a name that is taken.
    """
    return list(_known(_own_files(path)))


def chip(name: str | Chip, extra: str | Path | None = None) -> Chip:
    """The chip of that name or alias; case, punctuation and the vendor's name do not matter. `extra` is a file of more chips.

    A `Chip` is returned as it is. Raises InputError with the nearest names.
    """
    return name if isinstance(name, Chip) else _find(name, _names(_own_files(extra)))


def simple(name: str) -> str:
    """What names are compared by: lower case, letters and digits, without vendors' names."""
    words = re.findall(r"[a-z0-9]+", name.casefold())
    return "".join(word for word in words if word not in NOISE)


def measured_file() -> Path:
    """Where `isoloss chips --measure` keeps this machine."""
    return cache_folder() / "this-machine.toml"


@cache
def _table() -> tuple[Chip, ...]:
    with resources.as_file(resources.files("scaling.hardware").joinpath("chips.toml")) as path:
        return tuple(read_chips(path, origin="table"))


def _own_files(path: str | Path | None) -> tuple[tuple[str, str, int], ...]:
    """The files of the user's chips: path, origin, and the time of the last change, by which what was read is kept."""
    own: list[tuple[str | Path, str]] = []
    if measured_file().is_file():
        own.append((measured_file(), "measured"))
    if named := os.environ.get("ISOLOSS_CHIPS"):
        own.append((named, "given"))
    if path is not None:
        own.append((path, "given"))
    return tuple((str(file), origin, Path(file).stat().st_mtime_ns if Path(file).is_file() else 0) for file, origin in own)


@lru_cache(maxsize=16)
def _known(files: tuple[tuple[str, str, int], ...]) -> tuple[Chip, ...]:
    found = _table()
    for file, origin, _ in files:
        taken = _index(found)
        new = read_chips(file, origin=origin, base=partial(_find, index=taken))
        for each in new:
            for name in (each.name, *each.aliases):
                if (other := taken.get(simple(name))) is not None:
                    raise InputError(f"{file}: the name {name!r} is taken by {other.name}; choose another")
            taken |= dict.fromkeys(map(simple, (each.name, *each.aliases)), each)
        found = (*found, *new)
    return found


@lru_cache(maxsize=16)
def _names(files: tuple[tuple[str, str, int], ...]) -> Mapping[str, Chip]:
    return _index(_known(files))


def _index(known: tuple[Chip, ...]) -> dict[str, Chip]:
    return {simple(name): each for each in known for name in (each.name, *each.aliases)}


def _find(name: str, index: Mapping[str, Chip]) -> Chip:
    if (found := index.get(simple(name))) is not None:
        return found
    near = dict.fromkeys(index[key].name for key in difflib.get_close_matches(simple(name), index, 5, 0.5))
    hint = f"did you mean {' or '.join(list(near)[:3])}? " if near else ""
    raise InputError(f"chip {name!r} is not known; {hint}`isoloss chips` lists the {len(set(index.values()))} there are")
