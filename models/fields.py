"""Fields of a frozen configuration against their annotations: a value of another kind is refused before anything is computed from it."""

from __future__ import annotations

import functools
import math
import numbers
import reprlib
import typing
from types import NoneType
from typing import Any

_WANTED = {int: "a whole number", float: "a finite number", str: "text", bool: "True or False"}


def is_whole(value: object) -> bool:
    """Whether `value` is a whole number, of Python or NumPy; True and False are not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_fields(config: Any, error: type[Exception], where: str = "") -> None:
    """Refuses, by `error`, the first field that is not what its annotation says; numbers become plain ones of Python.

    A float may be given as a whole number and must be finite. `where` begins the message. Annotations are of one class, or None.
    """
    for name, (kind, optional) in _annotations(type(config)).items():
        value = getattr(config, name)
        if value is None and optional:
            continue
        if (kind is int and is_whole(value)) or (kind is float and _is_finite(value)):
            object.__setattr__(config, name, kind(value))
        elif kind in (int, float) or not isinstance(value, kind):
            wanted = _WANTED.get(kind, f"a {kind.__name__}")
            raise error(f"{where}{name} must be {wanted}, got {reprlib.repr(value)}")


def _is_finite(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


@functools.cache
def _annotations(kind: type) -> dict[str, tuple[type, bool]]:
    """Of each field its class, and whether it may be None."""
    found = {}
    for name, hint in typing.get_type_hints(kind).items():
        classes = typing.get_args(hint) or (hint,)
        found[name] = (next(each for each in classes if each is not NoneType), NoneType in classes)
    return found
