"""The runs table: its columns and units, reading a foreign one, and the checks that every table passes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from fits.errors import InputError
from fits.selection import select

COLUMNS = [
    "run_id",
    "corpus",
    "arm",
    "precision",
    "seed",
    "params",
    "active_params",
    "non_embedding_params",
    "tokens",
    "unique_tokens",
    "flops",
    "loss",
    "loss_se",
    "status",
]
MEASURED = ("params", "tokens", "flops", "loss")


def read_runs(path: str | os.PathLike[str], columns: Mapping[str, str] | None = None, where: str | None = None) -> pd.DataFrame:
    """The runs of a CSV or JSONL file, checked and completed (see `complete`).

    `columns` maps the package's names to the file's, {"params": "Model Size"}; `where` selects rows (`fits.selection`) by
    either name. Raises InputError with file, row and column.
    """
    frame = _read(Path(path))
    original = frame.copy(deep=False)
    for name, foreign in (columns or {}).items():
        if foreign not in original:
            raise InputError(f"{path}: no column {foreign!r} (for {name}); there are {', '.join(map(str, frame.columns))}")
        frame[name] = original[foreign]
    # Errors speak of the line in the file; a CSV's heading is line 1.
    first = 1 if Path(path).suffix == ".jsonl" else 2
    frame.index = pd.RangeIndex(first, len(frame) + first)
    if where:
        frame = select(frame, where)
        if frame.empty:
            raise InputError(f"{path}: no row is left by where = {where!r}")
    return complete(frame, str(path))


def complete(frame: pd.DataFrame, where: str = "runs") -> pd.DataFrame:
    """`frame` with params, tokens, flops and loss as positive finite floats; one of the first three may follow by C = 6 N D.

    What was derived is said in `attrs["derived"]`. Rows whose status is not `done` are left out (`attrs["left_out"]`).
    """
    frame = frame.copy()
    if "status" in frame:
        done = frame["status"].isna() | (frame["status"] == "done")
        frame.attrs["left_out"] = int((~done).sum())
        frame = frame[done]
    if frame.empty:
        raise InputError(f"{where}: no finished runs")
    if "loss" not in frame:
        raise InputError(f"{where}: no column 'loss'; there are {', '.join(map(str, frame.columns))}; name yours with columns")
    present = [name for name in ("params", "tokens", "flops") if name in frame]
    if len(present) < 2:
        raise InputError(
            f"{where}: two of the columns params, tokens, flops are needed, found {', '.join(present) or 'none'}"
            f" among {', '.join(map(str, frame.columns))}; name yours with columns"
        )
    for name in [*present, "loss"]:
        frame[name] = _positive(frame[name], name, where)
    if len(present) == 2:
        missing = ({"params", "tokens", "flops"} - set(present)).pop()
        if missing == "flops":
            frame["flops"] = 6 * frame["params"] * frame["tokens"]
        else:
            other = "params" if missing == "tokens" else "tokens"
            frame[missing] = frame["flops"] / (6 * frame[other])
        frame.attrs["derived"] = f"{missing} by C = 6 N D"
    return frame


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        if path.suffix == ".jsonl":
            return pd.read_json(path, lines=True)
        if path.suffix not in (".csv", ".txt", ""):
            raise InputError(f"{path}: cannot read {path.suffix!r} files; give a .csv or .jsonl")
        frame = pd.read_csv(path)
        if not isinstance(frame.index, pd.RangeIndex):  # pandas takes surplus leading fields for row names
            raise InputError(f"{path}: the rows have more fields than the heading")
        return frame
    except pd.errors.EmptyDataError:
        raise InputError(f"{path}: the file is empty") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte offset {error.start})") from error
    except ValueError as error:  # pandas' parser errors are ValueErrors
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as a table: {str(error).strip().splitlines()[0]}") from error


def _positive(values: pd.Series, name: str, where: str) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce").astype(float)
    wrong = ~(np.isfinite(numbers) & (numbers > 0))
    if wrong.any():
        position = int(np.argmax(wrong))
        raise InputError(
            f"{where}: row {values.index[position]}, column {name!r}: {values.iloc[position]!r} is not a positive finite number ({int(wrong.sum())} such rows)"
        )
    return numbers
