"""Curves by name or file: those of the literature, forms refitted to public tables, and those of this project's own runs, ship with the package."""

from __future__ import annotations

import difflib
import os
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from fits import curve_file
from fits.curve import Curve, from_fields
from fits.errors import InputError
from fits.laws.base import Law

if TYPE_CHECKING:
    import pandas as pd


SHELVES = ("published", "refitted", "own")


def published() -> list[str]:
    """Names of the curves from the literature that ship with the package."""
    return _shelf("published")


def refitted() -> list[str]:
    """Names of the curves that ship with the package and were fitted by it to public tables (`benchmarks/refitted_forms.py`)."""
    return _shelf("refitted")


def own() -> list[str]:
    """Names of the curves fitted to this project's own runs; the runs lie beside them (`own_runs`)."""
    return _shelf("own")


def shipped() -> list[str]:
    """Names of all curves that ship with the package: published, refitted, own."""
    return [name for shelf in SHELVES for name in _shelf(shelf)]


def own_runs(where: str | None = None) -> pd.DataFrame:
    """The runs behind the curves of `own`, with all that each was made from; `where` selects rows as in `read_runs`."""
    from fits.runs import read_runs

    with resources.as_file(resources.files("fits").joinpath("own", "runs.csv")) as path:
        return read_runs(path, where=where)


def load(name: str | os.PathLike[str], law: Law | None = None) -> Curve:
    """A shipped curve by its name, or a saved one by its path; `law` is given for a curve whose law is one's own."""
    for shelf in SHELVES:
        if str(name) in _shelf(shelf):
            return _shipped(shelf, str(name))
    path = Path(name)
    if path.suffix == ".json" or path.exists():
        return from_fields(curve_file.read(path), law)
    known = shipped()
    near = [repr(each) for each in difflib.get_close_matches(str(name), known, 3, 0.5)]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise InputError(f"curve {str(name)!r} is not known; {hint}`isoloss curves` lists the {len(known)} there are, and files end in .json")


def _shelf(name: str) -> list[str]:
    folder = resources.files("fits").joinpath(name)
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))


@cache
def _shipped(shelf: str, name: str) -> Curve:
    with resources.as_file(resources.files("fits").joinpath(shelf, f"{name}.json")) as path:
        return from_fields(curve_file.read(path))
