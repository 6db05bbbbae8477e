"""Chips in TOML: the table that ships with the package, and files of one's own, which have the same keys.

[[chips]]
name = "my card"
like = "RTX 4090"        # optional: figures that are not given are those of this chip
price_usd = 1200
mem_gb = 48
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scaling.errors import InputError
from scaling.hardware.chips import Chip
from scaling.toml_files import read_toml

KEYS = {field.name for field in dataclasses.fields(Chip)} - {"origin"}
LISTS = ("aliases", "memory", "estimated", "sources")


def read_chips(path: str | Path, *, origin: str = "given", base: Callable[[str], Chip] | None = None) -> list[Chip]:
    """The chips of a file. `base` finds the chip that `like` names. Raises InputError with file, chip and key."""
    fields = read_toml(path)
    unknown = set(fields) - {"chips", "sources"}
    if unknown:
        raise InputError(f"{path}: unknown key {min(unknown)!r}; a file of chips has tables [[chips]]")
    rows, sources = fields.get("chips", []), fields.get("sources", {})
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows) or not rows:
        raise InputError(f"{path}: no [[chips]] table")
    return [_chip(row, f"{path}: chip {number}", sources, origin, base) for number, row in enumerate(rows, start=1)]


def _chip(row: dict[str, Any], where: str, sources: dict[str, str], origin: str, base: Callable[[str], Chip] | None) -> Chip:
    row = dict(row)
    name = row.get("name")
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{where}: name must be given as text, got {name!r}")
    where = f"{where} ({name})"
    like = row.pop("like", None)
    unknown = set(row) - KEYS
    if unknown:
        raise InputError(f"{where}: unknown key {min(unknown)!r}; there are {', '.join(sorted(KEYS | {'like'}))}")
    try:
        for key in LISTS:
            row[key] = tuple(value) if isinstance(value := row.get(key, ()), list) else value
        row = _with_sources(row, sources)
        if like is None:
            return Chip(**row, origin=origin)
        if base is None:
            raise InputError(f"like = {like!r} needs the table of chips")
        return _derived(base(like), row, origin)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _with_sources(row: dict[str, Any], sources: dict[str, str]) -> dict[str, Any]:
    """The row with the sources' names in place of their keys."""
    if isinstance(row["sources"], tuple):
        row["sources"] = tuple(sources.get(key, key) for key in row["sources"])
    if isinstance(own := row.get("figure_sources", {}), dict):
        row["figure_sources"] = {field: sources.get(key, key) for field, key in own.items()}
    return row


def _derived(base: Chip, row: dict[str, Any], origin: str) -> Chip:
    """A chip that has the figures of `base` where `row` gives none."""
    kept = {key: tuple(field for field in getattr(base, key) if field not in row) for key in ("memory", "estimated")}
    more = {key: row.pop(key) + value for key, value in kept.items()}
    return dataclasses.replace(base, **row | more, origin=origin)


def write_chips(path: Path, chips: list[Chip]) -> None:
    """Writes a file of chips, whole or not at all. What a chip has by default is left out."""
    blocks = ["[[chips]]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in _given(chip).items()) for chip in chips]
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text("\n".join(blocks), encoding="utf-8")
    fresh.replace(path)


def _given(chip: Chip) -> dict[str, Any]:
    plain = Chip(chip.name)
    fields = {field.name: getattr(chip, field.name) for field in dataclasses.fields(Chip) if field.name != "origin"}
    return {key: value for key, value in fields.items() if key == "name" or value != getattr(plain, key)}


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        return json.dumps(value)  # a JSON string is a TOML string
    return str(value).lower() if isinstance(value, bool) else str(value)
