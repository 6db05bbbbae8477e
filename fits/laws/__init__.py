"""Families of laws, by name."""

from __future__ import annotations

import difflib

from fits.errors import InputError
from fits.laws.base import Law
from fits.laws.chinchilla import CHINCHILLA

LAWS = {law.name: law for law in (CHINCHILLA,)}


def law(name: str | Law) -> Law:
    """The law called `name`, or the Law itself; InputError offers the nearest names."""
    if isinstance(name, Law):
        return name
    if name not in LAWS:
        near = difflib.get_close_matches(name, LAWS, 1)
        raise InputError(f"law {name!r} is not known; {f'did you mean {near[0]!r}? ' if near else ''}there are: {', '.join(LAWS)}")
    return LAWS[name]
