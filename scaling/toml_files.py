"""TOML files with strict keys: read, checked, and refused in one line that names file and key."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic

from scaling.errors import InputError

PositiveFloat = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
PositiveInt = Annotated[int, pydantic.Field(ge=1)]
M = TypeVar("M", bound=pydantic.BaseModel)


class Strict(pydantic.BaseModel):
    """A table of a file: unknown keys are refused, nothing changes after reading."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


def read_toml(path: str | Path) -> dict[str, Any]:
    """A TOML file as a dict; InputError where it is missing or malformed."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte offset {error.start})") from error
    except RecursionError:
        raise InputError(f"{path}: cannot be read as TOML: lists or tables within one another too often") from None
    except (OSError, ValueError) as error:  # a number of thousands of digits is a ValueError
        raise InputError(f"{path}: cannot be read as TOML: {error}") from error


def validated(model: type[M], fields: dict[str, Any], where: str) -> M:
    """`model` from `fields`; the first of pydantic's complaints becomes one line that names the key."""
    try:
        return model.model_validate(fields)
    except pydantic.ValidationError as error:
        # A misspelt key is two errors, unknown and missing: the unknown one names what is to be mended.
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise InputError(f"{where}: unknown key {key!r}") from error
        got = "" if first["type"] in ("missing", "value_error") else f", got {_shown(first['input'])}"
        raise InputError(f"{where}: {key + ': ' if key else ''}{first['msg'].removeprefix('Value error, ')}{got}") from error


def _shown(value: Any) -> str:
    """A value in a message: short, and not at all where Python itself cannot write it."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits, or lists within lists
        return f"a {type(value).__name__} beyond all bounds"
    return text if len(text) <= 80 else text[:77] + "..."
