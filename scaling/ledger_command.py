"""`isoloss ledger`: from an H100 baseline to another chip, step by step, in time and dollars to equal loss, with the evidence of every step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling import output
from scaling.output import Json

if TYPE_CHECKING:
    from scaling.ledger import Ledger
    from scaling.ledger.needed import Band


def ledger(
    scenario: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE]", help="A built-in scenario or a TOML file; the scenarios are listed without it.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the waterfall into this PNG file.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the table into this CSV file.")] = None,
    draws: Annotated[int, typer.Option(help="Monte Carlo draws behind the bands.")] = 4000,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    as_json: Json = False,
) -> None:
    """What chip, experts, format, memory and network do to the time and dollars of equal loss."""
    from scaling.errors import InputError
    from scaling.ledger import ledger as answer

    if scenario is None:
        if plot or csv:
            raise InputError("ledger: --plot and --csv need a scenario")
        return _list(as_json)
    found = answer(scenario, draws=draws, seed=seed)
    if plot is not None:
        from scaling.ledger.figure import waterfall
        from scaling.plots import save

        save(waterfall(found)[0], plot)
        output.note(f"wrote {plot}")
    if csv is not None:
        from scaling.ledger.figure import table

        table(found).to_csv(csv, index=False)
        output.note(f"wrote {csv}")
    output.emit(found.as_dict()) if as_json else _show(found)


def _list(as_json: bool) -> None:
    from scaling.ledger import read_scenario, scenarios

    rows: list[dict[str, Any]] = []
    for name in scenarios():
        each = read_scenario(name)
        rows.append({"name": name, "question": each.question, "steps": ", ".join(step.change for step in each.steps)})
    output.emit({"scenarios": rows}) if as_json else output.table(rows, "scenarios")


def _show(found: Ledger) -> None:
    rows = []
    for line in found.lines:
        before, after = line.before, line.after
        rows.append(
            {
                "step": line.name,
                "time": _band(line.time),
                "dollars": _band(line.usd),
                "evidence": _evidence(line.parts_time),
                "in sequence": _factor(line.sequence_time) + " / " + _factor(line.sequence_usd) if after else "cannot be run",
                "hours": f"{before.hours:,.0f} to {after.hours:,.0f}" if before and after else "",
                "chips": f"{after.chips:,} {after.chip}" if after else "",
                "M USD": f"{before.usd / 1e6:.3g} to {after.usd / 1e6:.3g}" if before and after else "",
            }
        )
    if found.baseline and found.end:
        first, last = found.baseline, found.end
        rows.append(
            {
                "step": "all steps",
                "time": _band(found.time),
                "dollars": _band(found.usd),
                "evidence": "",
                "in sequence": f"{_factor(found.time.value if found.time else None)} / {_factor(found.usd.value if found.usd else None)}",
                "hours": f"{first.hours:,.0f} to {last.hours:,.0f}",
                "chips": f"{last.chips:,} {last.chip}",
                "M USD": f"{first.usd / 1e6:.3g} to {last.usd / 1e6:.3g}",
            }
        )
    output.table(
        rows, f"{found.scenario}: factors in time and dollars to equal loss, free of order (80% bands), and in sequence (time / dollars)"
    )
    output.say(found.reading)
    for text in found.impossible[1:]:
        output.note(f"cannot be run: {text}")
    for text in found.notes:
        output.note(f"note: {text}")


def _band(band: Band | None) -> str:
    return f"{band.value:.2f} ({band.low:.2f}-{band.high:.2f})" if band else ""


def _factor(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _evidence(parts: Any) -> str:
    """Evidence of the parts with their factors, the larger first; what changes nothing is left out."""
    import math

    shown = sorted((part for part in parts if abs(part.log) > 5e-4), key=lambda part: -abs(part.log))
    return ", ".join(f"{part.of} {math.exp(part.log):.2f} {part.evidence}" for part in shown)
