"""`isoloss diffuse`: who reaches which capability, when, under a scenario; scenarios side by side."""

from __future__ import annotations

import math
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

    found = [simulate(each, draws=draws, seed=seed, sensitivities=sensitivities) for each in (scenario, *(compare or []))]
    if plot is not None:
        _plot(found, plot)
    answers = [each.as_dict() for each in found]
    if as_json:
        return output.emit(answers[0] if len(answers) == 1 else {"scenarios": answers})
    if len(answers) > 1:
        return _compare(answers)
    _show(answers[0])


def _plot(found: list[Outcome], path: Path) -> None:
    """One figure a scenario: the path as given, and with the scenario's name before its ending for each further one."""
    from scaling import plots
    from scaling.diffusion.scenario_figure import scenario_figure

    for place, each in enumerate(found):
        written = plots.save(scenario_figure(each), path if place == 0 else path.with_stem(f"{path.stem}-{each.scenario.name}"))
        output.note(f"figure: {written}")


def _list(known: dict[str, str], as_json: bool) -> None:
    rows = [{"scenario": name, "about": about} for name, about in known.items()]
    if as_json:
        return output.emit({"scenarios": rows})
    output.table(rows, f"{len(rows)} built-in scenarios; isoloss diffuse NAME runs one, or a TOML file of one's own")


def _show(answer: dict[str, Any]) -> None:
    from scaling.diffusion.reading import date_words

    level = f"{100 * answer['level']:.0f}%"
    output.say(f"{answer['scenario']}: {answer['about']}" if answer["about"] else answer["scenario"])
    rows: list[dict[str, Any]] = []
    for each in answer["capabilities"]:
        first, last = each["first_access"], each["with_access"][-1]
        rows.append(
            {
                "capability": each["name"],
                "first": first["actor"] or "",
                "date": date_words(first["date"]),
                level: "" if first["at_start"] else f"{date_words(first['low'])} to {date_words(first['high'])}",
                f"with access in {answer['end']:g}": f"{last['median']:.0f} ({last['low']:.0f} to {last['high']:.0f}) of {answer['parties']}",
            }
        )
    output.table(rows, f"first access; {answer['draws']} draws")
    windows = [
        {"capability": each["name"], "reached by": window["actor"], "years later": _years(window), level: _years(window, "low", "high")}
        for each in answer["capabilities"]
        for window in each["windows"]
    ]
    if windows:
        output.table(windows, "diffusion windows")
    output.table(_end_rows(answer), f"in {answer['end']:g}, medians")
    shares = [
        {"actor": each["actor"], "channel": share["channel"], "decades": share["decades"], "part": _percent(share["part"])}
        for each in answer["channels"]
        for share in each["shares"]
    ]
    if shares:
        output.table(shares, "what the gaps in effective compute are made of (Shapley shares)")
    for name, title in (
        ("gradients", "change of each when a parameter's logarithm grows by one (growth: of its rate)"),
        ("sobol", "Sobol indices: first, total"),
    ):
        if rows := answer.get("sensitivities", {}).get(name, []):
            output.table([_flat(row) for row in rows], title)
    output.say(answer["reading"])


def _end_rows(answer: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for each in answer["actors"]:
        end = {name: value["median"] for name, value in each["path"][-1].items() if name != "date"}
        rows.append(
            {
                "actor": each["name"],
                "run FLOP": end["run_flops"],
                "effective FLOP": end["effective_flops"],
                "months behind": "" if each["leader"] else end["lag_months"],
                "compute ratio": end["compute_ratio"],
                "effective ratio": end["effective_ratio"],
                "loss gap": end["loss_gap"],
                "score gap": end["score_gap"],
                "users, millions": end["users_millions"],
            }
        )
    return rows


def _compare(answers: list[dict[str, Any]]) -> None:
    """A row a question, a column a scenario."""
    from scaling.diffusion.reading import date_words

    columns: dict[str, dict[str, str]] = {}
    for answer in answers:
        column: dict[str, str] = {}
        for each in answer["capabilities"]:
            first = each["first_access"]
            column[f"{each['name']}: first"] = f"{first['actor'] or 'nobody'}, {date_words(first['date'])}"
            column |= {f"{each['name']}: {window['actor']}, years later": _years(window) for window in each["windows"]}
            column[f"{each['name']}: with access at the end"] = f"{each['with_access'][-1]['median']:.0f} of {answer['parties']}"
        for row in _end_rows(answer):
            if row["months behind"] != "":
                column[f"{row['actor']}: months behind at the end"] = f"{row['months behind']:.3g}"
                column[f"{row['actor']}: effective compute, ratio"] = f"{row['effective ratio']:.3g}"
        for each in answer["controls"]:
            column[f"{each['actor']}: run left by controls"] = f"{each['run_left']:.0%}"
            column[f"{each['actor']}: serving left by controls"] = f"{each['serving_left']:.0%}"
        columns[_free(answer["scenario"], columns)] = column
    questions = dict.fromkeys(question for column in columns.values() for question in column)
    output.table(
        [{"": question} | {name: column.get(question, "") for name, column in columns.items()} for question in questions],
        f"{len(answers)} scenarios side by side",
    )


def _free(name: str, taken: dict[str, Any]) -> str:
    while name in taken:
        name += "'"
    return name


def _years(window: dict[str, Any], *ends: str) -> str:
    words = [f"{window[end]:.2f}" if math.isfinite(window[end]) else "later" for end in ends or ("years",)]
    return " to ".join(words)


def _percent(part: float | None) -> str:
    return "" if part is None else f"{100 * part:.1f}%"


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    if "indices" not in row:
        return {key: value if isinstance(value, str) or value is None else f"{value:.4g}" for key, value in row.items()}
    indices = {name: "" if each["first"] is None else f"{each['first']:.2f}, {each['total']:.2f}" for name, each in row["indices"].items()}
    return {"output": row["output"], "sd": row["sd"]} | indices
