"""`isoloss frontier`: when a penalty is structure x data and when not, up to 1e29 FLOP, with what each band is made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling import output
from scaling.output import Json

if TYPE_CHECKING:
    import pandas as pd

    from scaling.outlook.frontiers import Frontier

EVERY = 4  # of the scales is printed; the CSV holds all
FIGURES = (".png", ".pdf", ".svg")


def frontier(
    structure: Annotated[float, typer.Option(help="The follower's structure gap: its parameters count 1/structure.")] = 2.0,
    data: Annotated[float, typer.Option(help="The follower's data gap: its effective tokens count 1/data.")] = 2.0,
    stock: Annotated[float, typer.Option(help="Unique tokens there are.")] = 300e12,
    stock_range: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOW HIGH", help="... within which with 90%; a factor 3.2 to either side by default."),
    ] = None,
    curve: Annotated[
        list[str] | None, typer.Option(metavar="NAME|FILE", help="A law of the ensemble; may be repeated. Six by default.")
    ] = None,
    flops: Annotated[tuple[float, float], typer.Option(metavar="FROM TO", help="The leader's training compute.")] = (1e21, 1e29),
    plot: Annotated[Path | None, typer.Option(help="Draw the page to this .png, .pdf or .svg file.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write all penalties to this file.")] = None,
    as_json: Json = False,
) -> None:
    """When is a penalty structure x data, and when not: every departure over scales, under several forms of law."""
    from scaling.errors import InputError
    from scaling.outlook.frontiers import frontier as ask
    from scaling.paths import use_compilation_cache

    for name, path in (("--plot", plot), ("--csv", csv)):
        if path is not None and path.is_dir():
            raise InputError(f"{name}: {path} is a folder; name a file")
    if plot is not None and plot.suffix.lower() not in FIGURES:
        raise InputError(f"--plot: {plot} must end in {', '.join(FIGURES)}")
    use_compilation_cache()
    found = ask(curve, structure=structure, data=data, stock=stock, stock_range=stock_range, flops=flops)
    if plot is not None:
        from scaling import plots
        from scaling.outlook.figure import PRINT_DPI

        output.note(f"wrote {plots.save(found.figure()[0], plot, PRINT_DPI)}")
    if csv is not None:
        csv.parent.mkdir(parents=True, exist_ok=True)
        wide(found.penalties).to_csv(csv, index=False)
        output.note(f"wrote {len(found.penalties)} rows to {csv}")
    output.emit(answer(found)) if as_json else _print(found)


def answer(found: Frontier) -> dict[str, Any]:
    """The JSON answer: tables at every fourth scale."""
    tables = {name: output.plain(_thinned(getattr(found, name), found)) for name in ("penalties", "optima", "losses", "walls", "months")}
    asked = {"structure": found.structure, "data": found.data, "stock": found.stock, "stock_range": list(found.stock_range)}
    flops = [float(found.flops[0]), float(found.flops[-1])]
    return asked | {"flops": flops, "level": 0.9, "curves": output.plain(found.curves)} | tables | {"reading": found.reading}


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a column for each curve."""
    import pandas as pd

    own = pd.DataFrame(list(table["curves"]), index=table.index)
    return pd.concat([table.drop(columns="curves"), own], axis=1)


def _thinned(table: pd.DataFrame, found: Frontier) -> pd.DataFrame:
    return table[table["flops"].isin(found.flops[::EVERY])] if "flops" in table else table


def _print(found: Frontier) -> None:
    from scaling.outlook.departures import amount
    from scaling.outlook.reading import banded, flop, made_of

    output.say(found.reading)
    shown = found.flops[:: 2 * EVERY]
    rows = []
    for each in found.departures:
        own = found.penalties[(found.penalties["departure"] == each.name) & found.penalties["flops"].isin(shown)]
        last = own.iloc[-1]
        rows.append(
            {"departure": each.label} | {flop(row["flops"]): banded(row) for _, row in own.iterrows()} | {"last band": made_of(last)}
        )
    output.table(rows, "Penalty: median (middle 90% over forms, draws and, where it is uncertain, the stock)")
    walls = [
        {"what": row["what"], "unique tokens": "uncertain" if row["stock"] != row["stock"] else amount(row["stock"])}
        | {
            "leader's FLOP": flop(row["median"]),
            "low": flop(row["low"]),
            "high": flop(row["high"]),
            "band": made_of(row).replace(" is", ""),
        }
        for _, row in found.walls.iterrows()
    ]
    output.table(walls, "Data walls")
    optima = found.optima[(found.optima["supply"] == "uncertain") & found.optima["flops"].isin(shown)]
    rows = [
        {"side": side, "quantity": str(quantity).replace("_", " ")} | {flop(row["flops"]): banded(row) for _, row in own.iterrows()}
        for (side, quantity), own in optima.groupby(["side", "quantity"], sort=False)
    ]
    output.table(rows, "Optima, the stock uncertain")
    rows = [
        {"trend": row["trend"], "kind": row["kind"], "a year": row["growth"], "months": banded(row)}
        for _, row in found.months[found.months["flops"] == found.flops[0]].iterrows()
    ]
    output.table(rows, f"Months of progress that the penalty at {flop(found.flops[0])} equals; kinds are never one another")
