"""Estimates for a table of runs: `id, tok_per_s_per_chip, low, high, mfu_pct, peak_mem_gb, note`, one row per input row."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling.errors import InputError
from scaling.hardware import memory
from scaling.hardware.constants import Constants, load, speed
from scaling.hardware.library import chip as find_chip
from scaling.hardware.rows import describe
from scaling.hardware.search import FULLEST

COLUMNS = ("id", "tok_per_s_per_chip", "low", "high", "mfu_pct", "peak_mem_gb", "note")


@dataclasses.dataclass(frozen=True)
class RowEstimate:
    """One line of the answer; the figures are None where there is no estimate, and the note says why."""

    id: str
    tok_per_s_per_chip: float | None = None
    low: float | None = None
    high: float | None = None
    mfu_pct: float | None = None
    peak_mem_gb: float | None = None
    note: str = ""


def estimate_rows(rows: Sequence[Mapping[str, Any]], constants: Constants | None = None) -> list[RowEstimate]:
    """An estimate of every row (the columns of training-runs.csv; any may be missing or empty)."""
    fitted = constants or load()
    return [_estimate(str(row.get("id") or place + 1), row, fitted) for place, row in enumerate(rows)]


def _estimate(name: str, row: Mapping[str, Any], constants: Constants) -> RowEstimate:
    try:
        found = describe(row, find_chip)
        work = found.workload
        value, _ = speed(constants, work, found.inferred)
        low, high = constants.band.around(value, work, found.inferred)
        flops = work.architecture.flops_per_token(work.sequence)
        mfu = 100 * value * flops / work.device.peak(work.bits)
        need, room = memory.memory(work).total, FULLEST * work.device.memory
        # The run of a row did fit: what the model sees beyond the chip's memory was saved by means that the row does not name.
        return RowEstimate(name, value, low, high, mfu, min(need, room) / 1e9, found.note)
    except InputError as error:
        return RowEstimate(name, note=f"no estimate: {error}")
    except (ArithmeticError, ValueError) as error:  # a figure so odd that no formula takes it
        return RowEstimate(name, note=f"no estimate: a figure of the row is out of all range ({error})")


def estimate_file(source: Path, target: Path, constants: Constants | None = None) -> list[RowEstimate]:
    """Reads a table, writes the estimates and returns them. Raises InputError for a file that is no table."""
    if not source.is_file():
        raise InputError(f"{source}: no such file")
    try:
        with source.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{source}: not a CSV file ({error})") from None
    if not rows:
        raise InputError(f"{source}: no rows; a header with the columns of a table of runs is needed, chip and the model's shape at least")
    found = estimate_rows(rows, constants)
    with target.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for each in found:
            writer.writerow([_shown(value) for value in dataclasses.astuple(each)])
    return found


def _shown(value: Any) -> Any:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
