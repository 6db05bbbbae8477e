"""Curves by name or file: those of the literature, and forms refitted to public tables, ship with the package."""

from __future__ import annotations

import difflib
import os
from functools import cache
from importlib import resources
from pathlib import Path

from fits import curve_file
from fits.curve import Curve, from_fields
from fits.errors import InputError
from fits.laws.base import Law


def published() -> list[str]:
    """Names of the curves from the literature that ship with the package."""
    return _names("published")


def refitted() -> list[str]:
    """Names of the curves that ship with the package and were fitted by it to public tables (`benchmarks/refitted_forms.py`)."""
    return _names("refitted")


def _names(folder: str) -> list[str]:
    entries = resources.files("fits").joinpath(folder).iterdir()
    return sorted(entry.name.removesuffix(".json") for entry in entries if entry.name.endswith(".json"))


def load(name: str | os.PathLike[str], law: Law | None = None) -> Curve:
    """A published or refitted curve by its name, or a saved one by its path; `law` is given for a curve whose law is one's own."""
    for folder in ("published", "refitted"):
        if str(name) in _names(folder):
            return _shipped(folder, str(name))
    path = Path(name)
    if path.suffix == ".json" or path.exists():
        return from_fields(curve_file.read(path), law)
    near = [repr(each) for each in difflib.get_close_matches(str(name), published() + refitted(), 3, 0.5)]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise InputError(
        f"curve {str(name)!r} is not known; {hint}`isoloss curves` lists the {len(published())} there are, and files end in .json"
    )


@cache
def _shipped(folder: str, name: str) -> Curve:
    with resources.as_file(resources.files("fits").joinpath(folder, f"{name}.json")) as path:
        return from_fields(curve_file.read(path))
