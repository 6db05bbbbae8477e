"""`isoloss diffuse`: who reaches which capability, when, under a scenario; scenarios side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling import output
from scaling.output import Json

if TYPE_CHECKING:
    from scaling.diffusion.simulation import Outcome


def diffuse(
    scenario: Annotated[
        str | None,
        typer.Argument(metavar="[NAME|FILE]", help="A built-in scenario or a TOML file; the built-in ones are listed without it."),
    ] = None,
    compare: Annotated[list[str] | None, typer.Option(metavar="NAME|FILE", help="Another scenario beside it. May be repeated.")] = None,
    draws: Annotated[int | None, typer.Option(help="Worlds drawn, in place of the scenario's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the draws, in place of the scenario's.")] = None,
    sensitivities: Annotated[bool, typer.Option("--sensitivities", help="Gradients and Sobol indices as well.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write the figure to this PNG.")] = None,
    as_json: Json = False,
) -> None:
    """Who reaches which capability when: dates, windows, lags, numbers with access, what gaps are made of."""
    from scaling.diffusion.scenario import built_in
    from scaling.errors import InputError
    from scaling.paths import use_compilation_cache

    if scenario is None:
        if compare or plot or sensitivities:
            raise InputError("diffuse: --compare, --plot and --sensitivities need a scenario before them")
        return _list(built_in(), as_json)
    use_compilation_cache()
    from scaling.diffusion.simulation import simulate

    found = [simulate(each, draws=draws, seed=seed) for each in (scenario, *(compare or []))]
    answers = [each.as_dict() for each in found]
    if as_json:
        return output.emit(answers[0] if len(answers) == 1 else {"scenarios": answers})
    _show(found[0])


def _list(known: dict[str, str], as_json: bool) -> None:
    rows = [{"scenario": name, "about": about} for name, about in known.items()]
    if as_json:
        return output.emit({"scenarios": rows})
    output.table(rows, f"{len(rows)} built-in scenarios; isoloss diffuse NAME runs one, or a TOML file of one's own")


def _show(found: Outcome) -> None:
    from scaling.diffusion.reading import date_words

    answer = found.as_dict()
    output.say(f"{answer['scenario']}: {answer['about']}" if answer["about"] else answer["scenario"])
    rows: list[dict[str, Any]] = []
    for each in answer["capabilities"]:
        first = each["first_access"]
        rows.append({"capability": each["name"], "first": first["actor"] or "", "date": date_words(first["date"])})
    output.table(rows, "first access")
    output.say(answer["reading"])
