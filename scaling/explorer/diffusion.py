"""Who reaches what, when: a built-in scenario with the page's changes, its dates of access, and their figure."""

from __future__ import annotations

import datetime
import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scaling.diffusion.scenario import Scenario, read_scenario
from scaling.errors import InputError
from scaling.explorer.figures import COLOURS, RULE, Figure, plain_layout
from scaling.explorer.state import AS_WRITTEN, NONE, THE_GAPS, State

if TYPE_CHECKING:
    from scaling.diffusion.simulation import Outcome

DRAWS = 64
SYMBOLS = ("circle", "diamond", "square", "cross", "x", "star")


def asked(state: State) -> Scenario | None:
    """The scenario that a State asks for. Raises InputError where it has no actor or control to change."""
    if state.scenario == NONE:
        return None
    found = read_scenario(state.scenario)
    changed: dict[str, Any] = found.model_dump(exclude_unset=True)
    if state.laggard == THE_GAPS:
        if len(found.actors) < 2:
            raise InputError(f"laggard: scenario {state.scenario} has one actor and no laggard; leave it {AS_WRITTEN}")
        changed["actors"][1] |= {"structure": state.structure, "data": state.data}
    if state.controls == NONE:
        changed["controls"] = []
    elif state.controls_from != AS_WRITTEN:
        changed["controls"] = _moved(found, state.controls_from)
    return read_scenario(changed)


def _moved(scenario: Scenario, day: str) -> list[dict[str, Any]]:
    """The scenario's controls, the first on `day` and the others as long after it as they were."""
    from scaling.diffusion.controls import standing

    if not scenario.controls:
        raise InputError(f"controls from: scenario {scenario.name} has no controls; leave it {AS_WRITTEN}")
    held = standing(scenario)
    date = datetime.date.fromisoformat(day)
    shift = date.year + (date.timetuple().tm_yday - 1) / 365.25 - min(each.begins - each.control.lag_years for each in held)
    moved = []
    for each in held:
        until = None if each.control.until is None else each.control.until + shift
        dates = {"date": each.begins - each.control.lag_years + shift} | ({} if until is None else {"until": until})
        moved.append(each.control.model_dump(exclude_unset=True) | dates)
    return moved


@functools.lru_cache(maxsize=64)
def outcome(state: State) -> Outcome | None:
    """What `scaling.diffusion.simulate` says of the State's scenario, over 64 draws; None where none is asked for."""
    from scaling.diffusion import simulate

    scenario = asked(state)
    return None if scenario is None else simulate(scenario, draws=DRAWS)


def dates(found: Outcome) -> pd.DataFrame:
    """One row an actor and capability: the date of access in the stated world and its interval over the draws; infinite where there is none."""
    rows = []
    level, start = found.scenario.uncertainty.level, found.cast.dates[0]
    for place, capability in enumerate(found.scenario.capabilities):
        for row in found.cast.named:
            reached = start + found.runs.reached[place][row]
            low, high = np.quantile(reached[found.drawn], [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
            rows.append(
                {"capability": capability.name, "actor": found.cast.names[row], "date": float(reached[0]), "low": low, "high": high}
            )
    return pd.DataFrame(rows)


def figure(found: Outcome) -> Figure:
    """Dates of access by actor, a mark a capability, with the interval over the draws; controls as vertical lines."""
    table, end = dates(found), float(found.cast.dates[-1])
    traces = []
    for place, (name, part) in enumerate(table.groupby("capability", sort=False)):
        shown = part[np.isfinite(part["date"])]
        reach = shown["high"].clip(upper=end) - shown["date"], shown["date"] - shown["low"].clip(upper=end)
        traces.append(
            {
                "mode": "markers",
                "name": str(name),
                "x": shown["date"].tolist(),
                "y": shown["actor"].tolist(),
                "error_x": {
                    "type": "data",
                    "array": reach[0].tolist(),
                    "arrayminus": reach[1].tolist(),
                    "color": COLOURS[place],
                    "thickness": 2,
                },
                "marker": {"color": COLOURS[place], "size": 11, "symbol": SYMBOLS[place % len(SYMBOLS)]},
            }
        )
    layout = plain_layout("year", "")
    actors = list(dict.fromkeys(table["actor"]))
    layout["xaxis"] |= {"range": [float(found.cast.dates[0]), end], "tickformat": "d"}
    layout["yaxis"] |= {"categoryorder": "array", "categoryarray": actors[::-1], "range": [-0.6, len(actors) - 0.4], "gridcolor": RULE}
    line = {"color": "#777777", "width": 1, "dash": "dash"}
    held = sorted({each.date for each in found.cast.events})
    shapes = [{"type": "line", "x0": day, "x1": day, "y0": 0, "y1": 1, "yref": "paper", "line": line} for day in held]
    return {"data": traces, "layout": layout | {"shapes": shapes}}


def rows(found: Outcome) -> list[dict[str, str]]:
    """The table under the figure."""
    from scaling.diffusion.reading import date_words

    end = found.cast.dates[-1]

    def words(date: float) -> str:
        return date_words(date) if math.isfinite(date) else f"not by {end:g}"

    return [
        {
            "actor": str(actor),
            **{
                str(row["capability"]): f"{words(row['date'])} [{words(row['low'])}, {words(row['high'])}]"
                for row in part.to_dict(orient="records")
            },
        }
        for actor, part in dates(found).groupby("actor", sort=False)
    ]
