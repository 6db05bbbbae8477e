"""`isoloss runs`: what a store holds, whether it is sound, and how runs leave it and come in."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling import output
from scaling.output import Json, Where

if TYPE_CHECKING:
    import pandas as pd

    from scaling.store import Store
    from scaling.store.exchange import Merged

Many = list[str] | None
Paths = list[Path] | None
ROWS = 100  # of a table on the screen, where --limit does not say otherwise
SHOWN = ["run_id", "arm", "precision", "seed", "params", "tokens", "flops", "loss", "loss_se", "status"]
SORT = "arm,flops,params,seed,run_id"


def runs(
    store: Annotated[Path, typer.Argument(help="A run store.")],
    more: Annotated[Paths, typer.Argument(metavar="[OTHER ...]", help="More stores for --merge.")] = None,
    where: Where = None,
    state: Annotated[Many, typer.Option(help="Only runs that are planned, running, done, diverged or failed. May be repeated.")] = None,
    sort: Annotated[str, typer.Option(help="Columns to sort by, joined by commas; -COLUMN for the largest first.")] = SORT,
    columns: Annotated[str | None, typer.Option(help="The columns to show or write, joined by commas.")] = None,
    limit: Annotated[int | None, typer.Option(min=0, help=f"So many runs at most; a table on the screen shows {ROWS} by default.")] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write the runs to this .csv, .parquet, .json or .jsonl; JSON holds whole records.")
    ] = None,
    curves: Annotated[Path | None, typer.Option(help="Write their learning curves to this .csv, .parquet, .json or .jsonl.")] = None,
    import_: Annotated[Paths, typer.Option("--import", help="First take in the runs of an exported file. May be repeated.")] = None,
    merge: Annotated[Paths, typer.Option(help="First take in the runs of other stores.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Check the file, the ids and the values, in place of the list.")] = False,
    as_json: Json = False,
) -> None:
    """List the runs of a store, check it, export from it, or take other runs in."""
    from scaling.errors import InputError
    from scaling.store import open_existing

    if more and not merge:
        raise InputError(f"runs: {str(more[0])!r} belongs to no option; write --merge before other stores")
    keys, wanted = _known("sort", sort), _known("columns", columns)
    if check and (export or curves):
        raise InputError("--check goes without --export and --curves")
    _refuse(store, state or [], export, curves, wanted)
    came = _taken_in(store, import_ or [], [*(merge or []), *(more or [])])
    with open_existing(store) as opened:
        sound = _check(opened, came, as_json) if check else True
        if not check:
            frame = _chosen(opened, where, state or [], keys, limit)
            if export:
                _export(opened, export, frame, wanted, whole=not (where or state or limit is not None))
            if curves:
                _export_curves(opened, curves, frame)
            if as_json:
                output.emit(came | {"runs": output.plain(frame[wanted or _promised()])})
            elif not (came or export or curves):
                _print(frame, wanted or SHOWN, limit)
    if not sound or any(each["conflicts"] for each in came.values()):
        raise typer.Exit(1)


def _taken_in(store: Path, files: Sequence[Path], others: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Takes the runs of files and of other stores into `store`, and says what became of them."""
    from scaling.store import exchange

    came: dict[str, Merged] = {}
    for path in files:
        came["imported"] = came.get("imported", exchange.Merged()) + exchange.import_runs(path, store)
    if others:
        came["merged"] = sum(exchange.merge(others, store).values(), exchange.Merged())
    for how, found in came.items():
        output.note(f"{how}: {found.added} runs added, {found.updated} brought further, {found.same} there already")
        if found.conflicts:
            named = ", ".join(found.conflicts[:5]) + (", ..." if len(found.conflicts) > 5 else "")
            output.note(
                f"there already with another outcome: {named} ({len(found.conflicts)} in all); the store's own counts, the other is kept beside it:"
                f" isoloss runs {store} --check shows both"
            )
    return {how: dataclasses.asdict(found) for how, found in came.items()}


def _refuse(store: Path, states: Sequence[str], export: Path | None, curves: Path | None, columns: Sequence[str]) -> None:
    """What is wrong with the options is said before anything is done."""
    from scaling.errors import InputError
    from scaling.store import STATES, exchange

    unknown = [state for state in states if state not in STATES]
    if unknown:
        raise InputError(f"--state: {unknown[0]!r} is not one of {', '.join(STATES)}")
    endings = [exchange.checked_target(path, store) for path in (export, curves) if path]
    if export and columns and endings[0] in (".json", ".jsonl"):
        raise InputError("--columns: an export to JSON holds whole records; leave it out, or export to .csv or .parquet")
    if export and curves and export.absolute() == curves.absolute():
        raise InputError(f"--curves: {curves} is the file of --export; name another")


def _known(option: str, text: str | None) -> list[str]:
    """The columns that an option names, as written; InputError for one that there is not."""
    from scaling.errors import InputError
    from scaling.store.rows import COLUMNS

    names = [] if text is None else list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        column = name.removeprefix("-") if option == "sort" else name
        if column not in COLUMNS:
            near = difflib.get_close_matches(column, COLUMNS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"--{option}: no column {column!r}; there are {', '.join(COLUMNS)}{hint}")
    return names


def _chosen(store: Store, where: str | None, states: Sequence[str], sort: Sequence[str], limit: int | None) -> pd.DataFrame:
    """The runs asked for, in their order."""
    from fits.selection import select

    frame = store.frame()
    frame = frame[frame["status"].isin(list(states))] if states else frame
    frame = select(frame, where) if where else frame
    keys = [key.removeprefix("-") for key in sort]
    frame = frame.sort_values(keys, ascending=[not key.startswith("-") for key in sort], kind="stable")
    return frame if limit is None else frame.head(limit)


def _export(store: Store, path: Path, frame: pd.DataFrame, columns: list[str], whole: bool) -> None:
    from scaling.store import exchange

    if path.suffix.lower() in (".json", ".jsonl"):
        exchange.export(store, path, None if whole else list(frame["run_id"]))
    else:
        exchange.write_table(frame[columns] if columns else frame, path)
    output.note(f"wrote {len(frame)} runs to {path}")


def _export_curves(store: Store, path: Path, frame: pd.DataFrame) -> None:
    from scaling.store import exchange

    count = exchange.export_curves(store, path, list(frame["run_id"]))
    output.note(f"wrote {count} learning curves to {path}")


def _promised() -> list[str]:
    from fits.runs import COLUMNS

    return [*COLUMNS, "budget", "holdout", "reason"]


def _print(frame: pd.DataFrame, columns: list[str], limit: int | None) -> None:
    head = frame if limit is not None else frame.head(ROWS)
    states = ", ".join(f"{count} {state}" for state, count in frame["status"].value_counts().items())
    if columns == SHOWN and head["reason"].fillna("").any():
        columns = [*columns, "reason"]
    output.table(output.plain(head[columns]), f"{len(frame)} runs{f': {states}' if states else ''}")
    if len(head) < len(frame):
        output.note(f"the first {len(head)} of {len(frame)} runs; --limit {len(frame)} shows all")


def _check(store: Store, came: dict[str, Any], as_json: bool) -> bool:
    """Checks the store and shows what was found; whether it is sound."""
    from scaling.store import integrity

    found = integrity.check(store)
    if as_json:
        output.emit(came | {"check": dataclasses.asdict(found)})
        return not found.problems
    if found.problems:
        output.table(found.problems, "what is wrong")
    output.say(f"{found.runs} runs: the ids of {found.verified} are the hash of what their records hold")
    for reason, count in found.unverified.items():
        output.say(f"  {count} cannot be recomputed: {reason}")
    output.say(f"problems found: {len(found.problems) or 'none'}")
    return not found.problems
