"""Public tables of training runs: each with its source, licence and sha256, read from a folder, a cache, or fetched once.

A table is looked for in the folder that ISOLOSS_DATA names, then in the cache (ISOLOSS_CACHE), and then at its public address, where it
has one: some tables were extracted from notebooks and logs, and are no public file. Nothing is shipped with the package.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pandas as pd

from fits import preparation, runs
from fits.errors import InputError
from fits.registry import TABLES, Table
from fits.selection import select
from fits.tables import read_table


def dataset(name: str, *, raw: bool = False, recipe: bool = False) -> pd.DataFrame:
    """A public table ready for fitting: the package's column names and units, checked by `fits.complete`; other columns stay as they are.

    `raw=True` gives the file as it is. `recipe=True` also applies the authors' choice of rows where it is documented. The index is the line
    in the file. `attrs["dataset"]` holds title, arXiv id, licence, address and notes; `attrs["prepared"]` what was done to the rows.
    Raises InputError for an unknown name, a table that cannot be had here, or a file that is not the published one.
    """
    table = _table(name)
    path, doubts = _find(table)
    frame = read_table(path)
    if not raw:
        frame = _ready(table, frame, recipe)
    elif recipe:
        raise InputError(f"dataset {name!r}: raw gives the file as it is; leave out recipe")
    facts = ("name", "file", "title", "arxiv", "licence", "source", "url", "sha256", "note")
    frame.attrs["dataset"] = {fact: getattr(table, fact) for fact in facts} | {"path": str(path)}
    frame.attrs["source_warnings"] = doubts
    frame.attrs["warnings"] = doubts + frame.attrs.get("warnings", [])
    return frame


def dataset_names() -> list[str]:
    """The names that `dataset` knows."""
    return list(TABLES)


def _table(name: str) -> Table:
    if name not in TABLES:
        raise InputError(f"no dataset {name!r}; there are {', '.join(TABLES)}")
    return TABLES[name]


def _ready(table: Table, frame: pd.DataFrame, recipe: bool) -> pd.DataFrame:
    for product, (one, other) in table.products.items():
        frame[product] = frame[one].astype(float) * frame[other]
    frame = runs.named(frame, table.name, table.columns, table.where, table.units)
    if recipe:
        frame = _follow(table, frame)
    if table.output is not None:
        frame = runs.complete(frame, table.name, needs=table.needs, output=table.output)
    return frame.drop(columns=[foreign for foreign in table.columns.values() if foreign not in table.columns])


def _follow(table: Table, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that the authors fitted."""
    if not table.has_recipe:
        raise InputError(f"dataset {table.name!r}: no recipe of its authors can be applied here: {table.remark}")
    rows = len(frame)
    if table.recipe_where:
        kept = select(frame, table.recipe_where).index
        if table.recipe_also:
            kept = kept.union(select(frame, table.recipe_also).index)
        frame = frame.loc[kept]
    if table.recipe_last:
        cell, by = table.recipe_last
        frame = preparation.extreme(frame, [cell], by, greatest=True)
    if table.recipe_best:
        frame, _ = preparation.best(frame, table.recipe_best, table.output or "loss", table.name)
    said = f"recipe of the authors: {_recipe_in_words(table)}: {len(frame)} of {rows} rows"
    frame.attrs["prepared"] = [*frame.attrs["prepared"], said]
    return frame


def _recipe_in_words(table: Table) -> str:
    steps = []
    if table.recipe_where:
        steps.append(f"rows with {table.recipe_where}" + (f", and those with {table.recipe_also}" if table.recipe_also else ""))
    if table.recipe_last:
        steps.append(f"the row of greatest {table.recipe_last[1]} of each {table.recipe_last[0]}")
    if table.recipe_best:
        steps.append(f"the row of least {table.output} of each ({', '.join(table.recipe_best)})")
    return "; ".join(steps)


def _find(table: Table) -> tuple[Path, list[str]]:
    """Where the table lies, fetched if need be, and what is doubtful about the file."""
    folder = os.environ.get("ISOLOSS_DATA")
    if folder and (path := Path(folder).expanduser() / table.file).is_file():
        if (found := _sha256(path)) == table.sha256:
            return path, []
        return path, [
            f"{path} is not the file that was published as {table.name}: its sha256 is {found[:12]}..., not {table.sha256[:12]}..."
        ]
    path = _cache() / table.file
    if path.is_file() and _sha256(path) == table.sha256:
        return path, []
    return _fetch(table, path), []


def _fetch(table: Table, path: Path) -> Path:
    """Download once into the cache; a file with another sha256 is refused."""
    import pooch

    if table.url is None:
        where = f"put {table.file} into a folder and name the folder by ISOLOSS_DATA"
        raise InputError(f"dataset {table.name!r} was extracted from {table.source} and is no public file: {where}")
    packed = table.packed_sha256 is not None
    try:
        pooch.retrieve(
            table.url,
            known_hash=f"sha256:{table.packed_sha256 or table.sha256}",
            fname=path.name + (".gz" if packed else ""),
            path=path.parent,
            processor=pooch.Decompress(method="gzip", name=path.name) if packed else None,
        )
    except ValueError as error:  # pooch's word for another sha256
        raise InputError(
            f"dataset {table.name!r}: what {table.url} gives is not the published file (another sha256); nothing was kept"
        ) from error
    except OSError as error:  # no network, no such address, no room
        if (response := getattr(error, "response", None)) is not None:
            response.close()  # the connection of a refused request is left open otherwise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"dataset {table.name!r}: cannot fetch {table.url} ({reason[:120]}); put {table.file} into a folder and name the folder by ISOLOSS_DATA"
        ) from error
    return path


def _cache() -> Path:
    chosen = os.environ.get("ISOLOSS_CACHE")
    if chosen:
        return Path(chosen).expanduser().resolve() / "data"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isoloss" / "data"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
