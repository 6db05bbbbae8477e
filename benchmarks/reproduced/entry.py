"""What a figure is called, what it needs, and whether that is here."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

import fits

Drawn = tuple[Figure, pd.DataFrame]
ROOT = Path(__file__).parents[2]
OWN = Path(fits.__file__).parent / "own"
MAKERS = {
    "runs.csv": "python benchmarks/own.py sweep, then export",
    "predictions.csv": "python benchmarks/own.py register",
    "own-dense-prose.json": "python benchmarks/own.py fit",
    "own-dense-grm.json": "python benchmarks/own.py fit",
    "planted.csv": "python benchmarks/planted.py --store planted.sqlite --out benchmarks/results/planted.csv",
    "runs.sqlite": "isoloss demo, or leave out --quick",
}


class Absent(Exception):
    """The files are here, but not the rows that a figure needs; the message says which."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A figure with its table. `draw` takes the number of bootstrap draws.

    tables: public tables (`fits.dataset`); curves: those that `fits.load` knows; files: what else is read, own runs among them; slow: left out by --quick.
    """

    name: str
    about: str
    draw: Callable[[int], Drawn]
    tables: tuple[str, ...] = ()
    curves: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    slow: bool = False

    def lacks(self) -> str | None:
        """The reason why it cannot be drawn here, None if it can."""
        for path in self.files:
            if not path.exists():
                return f"{_short(path)} is not there" + (f": {MAKERS[path.name]}" if path.name in MAKERS else "")
        for name in self.tables:
            try:
                fits.dataset(name, raw=True)
            except fits.InputError as error:
                return str(error)
        return None

    def used(self) -> list[dict[str, Any]]:
        """What was read, each with its source and, of files, the sha256."""
        rows = []
        for name in self.tables:
            facts = fits.dataset(name, raw=True).attrs
            about = facts["dataset"]
            rows.append(
                {
                    "table": name,
                    "source": " ".join(filter(None, (about["title"], f"arXiv {about['arxiv']}" if about["arxiv"] else ""))),
                    "sha256": sha256(Path(about["path"])),
                    "doubts": [doubt.replace(about["path"], about["file"]) for doubt in facts["source_warnings"]],
                }
            )
        rows += [{"curve": name, "source": fits.load(name).about.get("source", "")} for name in self.curves]
        rows += [{"file": _short(path), "sha256": sha256(path)} for path in self.files]
        return rows

    def words(self) -> str:
        """What it needs, in short."""
        return ", ".join([*self.tables, *self.curves, *(_short(path) for path in self.files)]) or "the demo's runs"


def sha256(path: Path) -> str:
    """Of the file's bytes, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
