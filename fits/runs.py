"""The runs table: its columns and units, reading a foreign one, and the checks that every table passes."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fits import preparation
from fits.errors import InputError
from fits.selection import select
from fits.tables import read_table

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
TRIPLE = ("params", "tokens", "flops")  # tied by C = 6 N D
COUNTS = ("params", "active_params", "non_embedding_params")
ZERO_ALLOWED = ("sparsity", "shared_ratio", "year", "exponent_bits", "mantissa_bits")
AT_LEAST_ONE = ("experts",)


def read_runs(
    path: str | os.PathLike[str],
    columns: Mapping[str, str] | None = None,
    where: str | None = None,
    *,
    units: Mapping[str, str | float] | None = None,
    best: str | Sequence[str] | None = None,
    aggregate: str | Sequence[str] | None = None,
    needs: Sequence[str] | None = None,
    output: str = "loss",
) -> pd.DataFrame:
    """The runs of a CSV (also .gz, .xz), Parquet or JSONL file: named, in the package's units, selected, checked and completed.

    In this order: `columns` maps the package's names to the file's, {"params": "Model Size"}; `units` says what a column is counted in,
    {"params": "billions", "loss": "bits"}, or gives a factor (`fits.preparation.UNITS`); `where` selects rows (`fits.selection`) by either
    name, a package name in the package's unit; `complete` checks what a law `needs` and its `output`; `best` keeps the row of least
    output in every cell of these columns, and `aggregate` averages the rows of a cell (adding `loss_se` and `rows_in_cell`).
    The index is the row's line in the file. `attrs["prepared"]` says what was done, `attrs["derived"]` what was computed, and
    `attrs["warnings"]` what looks doubtful. Raises InputError with file, row and column.
    """
    label = str(path)
    frame = _finished(named(read_table(Path(path)), label, columns, where, units), label, needs, output)
    if best is not None:
        frame, said = preparation.best(frame, best, output, label)
        frame.attrs["prepared"] = [*frame.attrs["prepared"], said]
    if aggregate is not None:
        inputs = [*_inputs(needs), *(name for name in TRIPLE if name in frame)]
        frame, said = preparation.average(frame, aggregate, inputs, output, label)
        frame.attrs["prepared"] = [*frame.attrs["prepared"], said]
    return _with_doubts(frame, needs, output)


def named(
    frame: pd.DataFrame,
    label: str,
    columns: Mapping[str, str] | None = None,
    where: str | None = None,
    units: Mapping[str, str | float] | None = None,
) -> pd.DataFrame:
    """`frame` with the package's names beside its own, in the package's units, and the rows that `where` selects; see `read_runs`."""
    original, prepared = frame, []
    frame = frame.copy(deep=False)
    for name, foreign in (columns or {}).items():
        if foreign not in original:
            near = difflib.get_close_matches(foreign, [str(column) for column in original.columns], 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{label}: no column {foreign!r} (for {name}); there are {', '.join(map(str, original.columns))}{hint}")
        frame[name] = original[foreign]
    if units:
        frame, said = preparation.convert(frame, units, label)
        prepared += said
    if where:
        rows = len(frame)
        frame = select(frame, where)
        if frame.empty:
            raise InputError(f"{label}: no row is left by where = {where!r}")
        prepared.append(f"where {where}: {len(frame)} of {rows} rows")
    frame.attrs["prepared"] = prepared
    return frame


def complete(frame: pd.DataFrame, where: str = "runs", *, needs: Sequence[str] | None = None, output: str = "loss") -> pd.DataFrame:
    """`frame` with all that a law reads as finite floats: its inputs (`needs`) and the column it predicts (`output`).

    Without `needs`: params, tokens and flops, of which one may follow from the others by C = 6 N D. With `needs`: exactly these columns;
    of params, tokens and flops a missing one may still follow. Inputs are positive (`experts` at least 1; sparsity, shared_ratio and
    years may be zero), and so is a loss. No count stands in for another: `active_params` is never taken from `params`.
    What was derived is said in `attrs["derived"]`, doubts in `attrs["warnings"]`. Rows whose status is not `done` are left out
    (`attrs["left_out"]`). Raises InputError with `where`, row and column.
    """
    return _with_doubts(_finished(frame, where, needs, output), needs, output)


def _with_doubts(frame: pd.DataFrame, needs: Sequence[str] | None, output: str) -> pd.DataFrame:
    # What is wrong with the file itself (fits.datasets) cannot be seen again in the rows, so it is carried along.
    frame.attrs["warnings"] = frame.attrs.get("source_warnings", []) + preparation.doubts(frame, _inputs(needs), output)
    return frame


def _finished(frame: pd.DataFrame, where: str, needs: Sequence[str] | None, output: str) -> pd.DataFrame:
    """`complete` without a word on what looks doubtful."""
    frame = frame.copy()
    if "status" in frame:
        done = frame["status"].isna() | (frame["status"] == "done")
        frame.attrs["left_out"] = frame.attrs.get("left_out", 0) + int((~done).sum())
        frame = frame[done]
    if frame.empty:
        raise InputError(f"{where}: no finished runs")
    if not frame.columns.is_unique:
        raise InputError(f"{where}: two columns are named {frame.columns[frame.columns.duplicated()][0]!r}; rename or remove one")
    if output not in frame:
        raise InputError(f"{where}: no column {output!r}; there are {', '.join(map(str, frame.columns))}; name yours with columns")
    missing = _third(frame, needs, where)
    for name in dict.fromkeys([*_wanted(frame, needs, missing), output]):
        frame[name] = _checked(frame[name], name, where, output)
    if missing == "flops":
        frame["flops"] = 6 * frame["params"] * frame["tokens"]
    elif missing:
        frame[missing] = frame["flops"] / (6 * frame["params" if missing == "tokens" else "tokens"])
    if missing:
        frame.attrs["derived"] = f"{missing} by C = 6 N D"
    return frame


def _third(frame: pd.DataFrame, needs: Sequence[str] | None, where: str) -> str | None:
    """Which of params, tokens and flops is to follow from the other two, once every other needed column is found."""
    present = [name for name in TRIPLE if name in frame]
    third = ({*TRIPLE} - {*present}).pop() if len(present) == 2 else None
    if needs is None:
        if len(present) < 2:
            raise InputError(
                f"{where}: two of the columns params, tokens, flops are needed, found {', '.join(present) or 'none'}"
                f" among {', '.join(map(str, frame.columns))}; name yours with columns{_other_count('params', frame)}"
            )
        return third
    for name in needs:
        if name not in frame and name != third:
            raise InputError(
                f"{where}: no column {name!r}; there are {', '.join(map(str, frame.columns))}; name yours with columns{_other_count(name, frame)}"
            )
    # A third that nobody asked for still follows where that costs no further demands on the table.
    return third if third in needs or {*present} <= {*needs} else None


def _wanted(frame: pd.DataFrame, needs: Sequence[str] | None, missing: str | None) -> list[str]:
    present = [name for name in TRIPLE if name in frame]
    if needs is None:
        return present
    return [name for name in dict.fromkeys([*needs, *(present if missing else [])]) if name in frame]


def _inputs(needs: Sequence[str] | None) -> list[str]:
    return ["params", "tokens"] if needs is None else list(needs)


def _other_count(name: str, frame: pd.DataFrame) -> str:
    """Another count of parameters that the table has, as a suggestion: nothing is taken for another count unasked."""
    other = next((count for count in COUNTS if count in frame), None)
    if name not in COUNTS or name in frame or other is None:
        return ""
    return f" ({other} is another count: if you mean it, say so with columns = {{{name} = {other!r}}})"


def _checked(values: pd.Series, name: str, where: str, output: str) -> pd.Series:
    numbers = preparation.numbers(values)
    if name in ZERO_ALLOWED or name.endswith("_year"):
        good, right = numbers >= 0, "a finite number of zero or more"
    elif name in AT_LEAST_ONE:
        good, right = numbers >= 1, "a finite number of 1 or more"
    elif name == output and name != "loss":
        good, right = numbers.notna(), "a finite number"
    else:
        good, right = numbers > 0, "a positive finite number"
    wrong = ~(np.isfinite(numbers) & good)
    if wrong.any():
        position = int(np.argmax(wrong))
        value = values.iloc[position]
        shown = repr(value.item() if isinstance(value, np.generic) else value)[:60]
        raise InputError(f"{where}: row {values.index[position]}, column {name!r}: {shown} is not {right} ({int(wrong.sum())} such rows)")
    return numbers
