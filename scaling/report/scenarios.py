"""What a scenario says: the paragraph, the figure, dates of access, windows, and what each gap is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from scaling.report.page import Section, rows


def scenario_section(path: Path) -> Section:
    """The section of a scenario file, which is run for it. Raises InputError."""
    from scaling.diffusion import simulate
    from scaling.diffusion.reading import date_words
    from scaling.diffusion.scenario_figure import scenario_figure

    found = simulate(path)
    answer = found.as_dict()
    level = f"{answer['level']:.0%}"
    first = [
        {
            "capability": each["name"],
            "first": each["first_access"]["actor"] or "nobody",
            "date": date_words(each["first_access"]["date"]),
            level: f"{date_words(each['first_access']['low'])} to {date_words(each['first_access']['high'])}",
            f"with access in {answer['end']:g}": f"{each['with_access'][-1]['median']:.0f} of {answer['parties']}",
        }
        for each in answer["capabilities"]
    ]
    windows = [
        {
            "capability": each["name"],
            "reached by": window["actor"],
            "years later": window["years"],
            "low": window["low"],
            "high": window["high"],
        }
        for each in answer["capabilities"]
        for window in each["windows"]
    ]
    shares = [{"actor": each["actor"], **share} for each in answer["channels"] for share in each["shares"]]
    tables = {"First access": first, f"Windows, years after the first, {level}": windows, "What the gaps are made of": shares}
    return Section(
        kind="scenario",
        source=str(path),
        title=f"Scenario {answer['scenario']}",
        about=answer["reading"],
        facts=rows({"about": answer["about"], "curve": answer["curve"], "from": f"{answer['start']:g} to {answer['end']:g}"}),
        warnings=tuple(_warnings(answer)),
        figures=(("scenario", scenario_figure(found), f"Effective compute and numbers with access; bands hold {level} of the draws."),),
        tables=tuple((title, pd.DataFrame(table)) for title, table in tables.items() if table),
        provenance=rows({"draws": str(answer["draws"]), "seed": str(answer["seed"]), "parties": str(answer["parties"])}),
    )


def _warnings(answer: dict[str, Any]) -> list[str]:
    said = [f"{each['name']}: {each['first_access']['reason']}" for each in answer["capabilities"] if each["first_access"]["reason"]]
    return said + ([] if answer["draws"] else ["No draws were made, so nothing has an interval."])
