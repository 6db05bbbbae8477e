"""What the command prints: strict JSON, tables and listings on stdout, messages on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pandas as pd

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]
Where = Annotated[str | None, typer.Option(help='Rows to keep: COLUMN OP NUMBER|"text", joined by and.')]


def emit(answer: Any) -> None:
    """One strict JSON object on stdout; what is infinite or undefined is null."""
    print(json.dumps(strict(answer), indent=1, allow_nan=False))


def note(text: str) -> None:
    """A message on stderr."""
    print(text, file=sys.stderr)


def say(text: str) -> None:
    """A line on stdout."""
    print(text)


def table(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Rows as a table, columns by the first row's keys. Files and pipes, which have no width, get 200 columns."""
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False) if sys.stdout.isatty() else Console(markup=False, highlight=False, width=200)
    shown = Table(title=title, title_justify="left")
    for name in rows[0] if rows else ():
        shown.add_column(name, justify="right" if isinstance(rows[0][name], int | float) else "left")
    for row in rows:
        shown.add_row(*(_text(value) for value in row.values()))
    console.print(shown)


def listing(values: Mapping[str, Any], indent: str = "") -> None:
    """Keys and values line by line, nested ones indented; empty ones are left out."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            print(f"{indent}{key}:")
            listing(value, indent + "  ")
        elif isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
            print(f"{indent}{key}:", *(f"{indent}  - {item}" for item in value), sep="\n")
        elif value not in (None, "", [], ()):
            print(f"{indent}{key}: {_text(value)}")


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    if isinstance(value, float):
        return "infinite" if math.isinf(value) else "" if math.isnan(value) else f"{value:.6g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_text(item) for item in value) + "]"
    return str(value)


def interval(level: float, bounds: Mapping[str, Any]) -> dict[str, Any]:
    """The interval object of the JSON answers."""
    return {"level": level} | {name: list(pair) for name, pair in bounds.items() if isinstance(pair, list | tuple)}


def plain(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, None where nothing stands."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def strict(value: Any) -> Any:
    """`value` as strict JSON knows it: plain numbers, null for what is infinite or undefined."""
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if hasattr(value, "item"):  # a numpy scalar
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
