"""Which file is which: stores, curves, scenarios and demo folders become sections; what is none of them is said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.errors import InputError
from scaling.report.page import Section
from scaling.toml_files import read_toml

if TYPE_CHECKING:
    import pandas as pd

TABLES = (".csv", ".gz", ".xz", ".parquet", ".jsonl")


def sections(paths: Sequence[str | Path]) -> list[Section]:
    """The sections of demo folders, stores, curves (.json, or a shipped curve's name) and scenarios (.toml), in that order; a folder stands for what it holds. Raises InputError."""
    import fits

    demos: list[Path] = []
    names: list[Path] = []
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists() and str(path) in fits.shipped():
            names.append(path)
            continue
        if not path.exists():
            raise InputError(f"report: {path}: no such file or folder, and no curve of that name (isoloss curves)")
        if path.suffix in TABLES:
            raise InputError(f"report: {path} is a table of runs; fit it first (isoloss fit {path} --out curve.json) and report the curve")
        if path.is_dir() and (path / "results.json").is_file():
            demos.append(path)
        else:
            files += _within(path) if path.is_dir() else [path]
    found = [section for folder in demos for section in _demo(folder)]
    runs: dict[str, pd.DataFrame] = {}
    for path in (each for each in files if each.suffix not in (".json", ".toml")):
        section, runs[path.name] = _store(path)
        found.append(section)
    found += [_curve(path, runs) for path in [*names, *(path for path in files if path.suffix == ".json")]]
    return found + [_scenario(path) for path in files if path.suffix == ".toml"]


def _within(folder: Path) -> list[Path]:
    """The stores, curves and scenarios directly in a folder."""
    found = [path for path in sorted(folder.iterdir()) if path.suffix == ".sqlite" or _is_curve(path) or _is_scenario(path)]
    if not found:
        raise InputError(
            f"report: {folder}: holds no run store (.sqlite), no curve (.json), no scenario (.toml) and no demo (results.json)"
        )
    return found


def _is_scenario(path: Path) -> bool:
    return path.suffix == ".toml" and "capabilities" in read_toml(path)


def _is_curve(path: Path) -> bool:
    if path.suffix != ".json":
        return False
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        return False
    return isinstance(found, dict) and {"law", "constants"} <= found.keys()


def _store(path: Path) -> tuple[Section, pd.DataFrame]:
    from scaling.report.stores import finished, store_section

    return store_section(path), finished(path)


def _curve(path: Path, runs: dict[str, pd.DataFrame]) -> Section:
    from scaling.report.curves import curve_section

    return curve_section(path, runs)


def _scenario(path: Path) -> Section:
    from scaling.report.scenarios import scenario_section

    return scenario_section(path)


def _demo(folder: Path) -> list[Section]:
    from scaling.report.demo import demo_section, read_demo
    from scaling.report.stores import store_section

    demo, baseline, curves = read_demo(folder)
    return [demo_section(demo, baseline, curves, str(folder)), store_section(folder / "runs.sqlite")]
