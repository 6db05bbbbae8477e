"""Curve files: one JSON object with the law, its constants, draws and provenance, and a checksum over all of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fits.errors import InputError

if TYPE_CHECKING:
    from fits.curve import Curve

FORMAT = 1
_REQUIRED = {"format", "law", "constants"}


def write(path: Path, curve: Curve) -> None:
    """Writes `curve` to `path`, whole or not at all."""
    fields: dict[str, Any] = {"format": FORMAT}
    for field in dataclasses.fields(curve):
        if field.name == "sample":
            continue
        value: Any = getattr(curve, field.name)
        if field.name == "about":
            value = {key: each for key, each in value.items() if key != "seconds"}  # the same fit is the same file
        elif field.name == "law":
            value = curve.law.name
        elif isinstance(value, np.ndarray):
            value = value.tolist()
        if value is not None:
            fields[field.name] = value
    write_fields(path, fields)


def write_fields(path: Path, fields: dict[str, Any]) -> None:
    """Writes the fields of a curve file with their checksum, whole or not at all."""
    fields = {key: value for key, value in fields.items() if key != "checksum"}
    fields["checksum"] = checksum(fields)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(fields, indent=1, allow_nan=False) + "\n")
    temporary.replace(path)


def read(path: Path) -> dict[str, Any]:
    """The fields of a curve file, checked; InputError says what is wrong with it."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError, OverflowError) as error:
        raise InputError(f"{path}: not a curve file: {error}") from error
    if not isinstance(fields, dict) or not set(fields) >= _REQUIRED:
        raise InputError(f"{path}: not a curve file: the keys {', '.join(sorted(_REQUIRED))} are needed")
    if fields["format"] != FORMAT:
        raise InputError(f"{path}: format {fields['format']!r} is not known, this isoloss reads {FORMAT}")
    claimed = fields.pop("checksum", None)
    if claimed is not None and claimed != checksum(fields):
        raise InputError(
            f"{path}: the checksum does not match: the file was edited or cut; fit it again, or remove the checksum to vouch for it"
        )
    del fields["format"]
    known = {"law", "constants", "name", "draws", "residual_sd", "flops_per_param_token", "range", "certificate", "about"}
    unknown = set(fields) - known
    if unknown:
        raise InputError(f"{path}: unknown key {min(unknown)!r}")
    constants = fields["constants"]
    if not isinstance(constants, dict) or not all(map(_is_number, constants.values())):
        raise InputError(f"{path}: constants must be an object of numbers")
    wrong = [key for key, right in _RIGHT.items() if key in fields and not right(fields[key], len(constants))]
    if wrong:
        raise InputError(f"{path}: {wrong[0]} = {str(fields[wrong[0]])[:60]!r} is not what a curve file holds there")
    return fields


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is not a number that a curve file may hold")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _is_row(value: Any, length: int | None = None) -> bool:
    return isinstance(value, list) and all(map(_is_number, value)) and (length is None or len(value) == length)


def _is_range(value: Any) -> bool:
    """[low, high], either of which may be null where it is not known."""
    if not (isinstance(value, list) and len(value) == 2 and all(end is None or _is_number(end) for end in value)):
        return False
    return None in value or 0 <= value[0] <= value[1]


_RIGHT: dict[str, Callable[[Any, int], bool]] = {
    "law": lambda value, _: isinstance(value, str),
    "name": lambda value, _: isinstance(value, str),
    "draws": lambda value, count: (
        isinstance(value, list) and bool(value) and all(map(_is_row, value)) and len({len(row) for row in value}) == 1
    ),
    "residual_sd": lambda value, _: _is_number(value) and value >= 0,
    "flops_per_param_token": lambda value, _: _is_number(value) and 0 < value < float("inf"),
    "range": lambda value, _: isinstance(value, dict) and all(map(_is_range, value.values())),
    "certificate": lambda value, _: isinstance(value, dict),
    "about": lambda value, _: isinstance(value, dict),
}


def checksum(fields: dict[str, Any]) -> str:
    """sha256 over the fields in a canonical form."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
