"""The page: controls on the left, figures beside them, tables below; one callback turns the form into all of it."""

from __future__ import annotations

import functools
import json
import math
import traceback
from typing import Any

import dash
from dash import ALL, MATCH, ClientsideFunction, Input, Output, ctx, dcc, html, no_update
from dash import State as Held
from flask import Response, request

from scaling import output
from scaling.errors import InputError
from scaling.explorer import figures
from scaling.explorer.answers import Answers, Lab, answer
from scaling.explorer.figures import short
from scaling.explorer.state import (
    CHOICES,
    RANGES,
    THE_GAPS,
    State,
    known_curves,
    label,
    number,
    read_form,
    read_query,
    write_field,
    write_query,
)
from scaling.hardware.library import chips

GROUPS = {
    "Curves and compute": ("curves", "flops"),
    "The follower's gaps": ("structure", "data", "fixed"),
    "Data": ("unique_tokens", "follower_share"),
    "How they train": ("overtraining", "served_tokens"),
    "Leader's chips": ("leader_chip", "leader_chips", "leader_format"),
    "Follower's chips": ("follower_chip", "follower_chips", "follower_format"),
    "Model and export rules": ("model", "on", "destination"),
    "Who reaches what, when": ("scenario", "laggard", "controls", "controls_from"),
}
LABELS = {
    "curves": "Scaling laws",
    "flops": "Leader's training compute (FLOP)",
    "structure": "Structure gap: its parameters count 1/x",
    "data": "Data gap: its effective tokens count 1/x",
    "fixed": "What it cannot change against the leader",
    "unique_tokens": "Unique tokens there are, repetition beyond",
    "follower_share": "Follower's unique tokens / leader's",
    "overtraining": "Leader's tokens per parameter / optimal",
    "served_tokens": "Tokens that each lab serves with its model",
    "leader_chip": "Chip",
    "leader_chips": "Number of chips",
    "leader_format": "Number format",
    "follower_chip": "Chip",
    "follower_chips": "Number of chips",
    "follower_format": "Number format",
    "model": "Shape whose speed is used",
    "on": "Export rules on (date)",
    "destination": "Destination",
    "scenario": "Scenario",
    "laggard": "Its second actor's structure and data gaps",
    "controls": "Its controls",
    "controls_from": "First control moved to (date)",
}
FIGURES = {
    "penalty": "Compute penalty at equal loss",
    "waterfall": "From the leader's training to the follower's",
    "cost": "Training time and dollars at equal loss, 80% bands",
    "diffusion": "Who reaches what, when",
}
SCENARIO = ("structure", "data", "scenario", "laggard", "controls", "controls_from")  # what that figure hangs on
OPEN_ON_A_PHONE = 2  # groups of controls; on a wide screen all are open
_SLIDER_STEPS = 200


def build() -> dash.Dash:
    """The Dash application; everything it serves comes from this machine."""
    app = dash.Dash(__name__, title="Isoloss explorer", update_title="", suppress_callback_exceptions=True, on_error=_failed)
    app.layout = html.Main([dcc.Store(id="address"), dcc.Store(id="query"), dcc.Store(id="asked"), html.Div(id="page")], id="main")
    app.index_string = app.index_string.replace("<html>", '<html lang="en">')
    _callbacks(app)
    _downloads(app)
    return app


def _callbacks(app: dash.Dash) -> None:
    own = functools.partial(ClientsideFunction, namespace="isoloss")
    app.clientside_callback(own(function_name="address"), Output("address", "data"), Input("main", "id"))
    app.clientside_callback(own(function_name="keep"), Output("main", "title"), Input("query", "data"))
    app.clientside_callback(
        own(function_name="slide"),
        Output({"type": "slider", "name": MATCH}, "value"),
        Output({"type": "field", "name": MATCH}, "value"),
        Input({"type": "slider", "name": MATCH}, "value"),
        Input({"type": "field", "name": MATCH}, "value"),
        Held({"type": "slider", "name": MATCH}, "max"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        own(function_name="save"),
        Output({"type": "save", "figure": MATCH, "format": MATCH}, "title"),
        Input({"type": "save", "figure": MATCH, "format": MATCH}, "n_clicks"),
        prevent_initial_call=True,
    )
    app.callback(Output("page", "children"), Input("address", "data"))(_page)
    app.callback(
        Output("message", "children"),
        Output("headline", "children"),
        Output("tables", "children"),
        *(Output(f"figure-{name}", "figure") for name in ("penalty", "waterfall", "cost")),
        Output("query", "data"),
        Output("csv", "href"),
        Output("json", "href"),
        Output("asked", "data"),
        Input({"type": "field", "name": ALL}, "value"),
        Held("asked", "data"),
    )(_answer)
    app.callback(Output("reading", "children"), Output("dates", "children"), Output("figure-diffusion", "figure"), Input("asked", "data"))(
        _reached
    )


def _failed(error: Exception) -> None:
    """Says on the page what nobody foresaw, and leaves it in the terminal too."""
    traceback.print_exception(error)
    dash.set_props(
        "message", {"children": f"This setting failed inside Isoloss ({type(error).__name__}: {error}); the last answer is kept."}
    )


def _answer(_: list[Any], asked: str | None) -> tuple[Any, ...]:
    """Everything that a changed form changes; a bad value changes only the message."""
    values = {field["id"]["name"]: field.get("value") for field in ctx.inputs_list[0]}
    try:
        state = read_form({name: ",".join(value) if isinstance(value, list) else str(value or "") for name, value in values.items()})
        found = answer(state)
    except InputError as error:
        return f"Refused, and the last answer kept: {error}", *(no_update,) * 9
    query = write_query(state)
    drawn = (figures.penalty_figure(found), figures.waterfall_figure(found), figures.cost_figure(found))
    fields: dict[str, Any] = {name: getattr(state, name) for name in SCENARIO}
    if state.laggard != THE_GAPS:  # then the gaps do not matter
        fields |= {"structure": State.structure, "data": State.data}
    wanted = write_query(State(**fields))
    again = no_update if wanted == asked else wanted
    return "", headline(found), tables(found), *drawn, query, f"numbers.csv?{query}", f"numbers.json?{query}", again


def _reached(asked: str | None) -> tuple[Any, Any, Any]:
    """The scenario's figure, in a request of its own: it takes longer than the rest and hangs on less."""
    from scaling.explorer import diffusion  # compiles

    if asked is None:
        return no_update, no_update, no_update
    try:
        found = diffusion.outcome(read_query(asked)[0])
    except InputError as error:
        return f"Refused, and the last answer kept: {error}", no_update, no_update
    if found is None:
        return "No scenario is chosen.", "", {"data": [], "layout": figures.plain_layout("", "")}
    return (
        found.reading,
        _table(f"Date of access, {found.scenario.uncertainty.level:.0%} interval", diffusion.rows(found)),
        diffusion.figure(found),
    )


def _downloads(app: dash.Dash) -> None:
    """The numbers behind the page, at addresses that take the same query as the page does."""

    def numbers(kind: str) -> Response:
        from scaling.explorer import diffusion

        state, problems = read_query(request.query_string.decode())
        try:
            if problems:
                raise InputError("; ".join(problems))
            found = answer(state)
        except InputError as error:
            return Response(f"isoloss: {error}\n", status=400, mimetype="text/plain")
        if kind == "csv":
            text = found.lines.to_csv(index=False)
        else:
            reached = diffusion.outcome(state)
            whole = found.as_dict() | {"diffusion": None if reached is None else reached.as_dict()}
            text = json.dumps(output.strict(whole), indent=1, allow_nan=False) + "\n"
        mimetype = {"csv": "text/csv", "json": "application/json"}[kind]
        return Response(text, mimetype=mimetype, headers={"Content-Disposition": f"attachment; filename=isoloss.{kind}"})

    for kind in ("csv", "json"):
        app.server.add_url_rule(f"/numbers.{kind}", f"numbers-{kind}", functools.partial(numbers, kind))


def _page(address: dict[str, Any] | None) -> list[Any]:
    """The whole page in the state of its address; `narrow` says that it is read on a small screen."""
    search, narrow = (address["search"], address["narrow"]) if address else ("", False)
    state, problems = read_query(search)
    if not problems:
        try:
            answer(state)
        except InputError as error:
            state, problems = State(), [f"{error}; the defaults are used"]
    warning = [html.P("This address no longer fits: " + "; ".join(problems) + ".", id="stale", role="alert")] if problems else []
    groups = [_group(name, state, opened=not narrow or place < OPEN_ON_A_PHONE) for place, name in enumerate(GROUPS)]
    return [
        html.H1("Isoloss: how much more compute for the same loss?"),
        html.P(id="headline", role="status"),
        *warning,
        html.P(id="message", role="alert"),
        html.Div(
            [
                html.Div(groups, role="form", **{"aria-label": "settings"}),
                html.Section(
                    [
                        *(_figure(name, title) for name, title in FIGURES.items()),
                        html.P(id="reading", role="status"),
                        html.Div(id="dates"),
                        html.Div(id="tables"),
                        _links(),
                    ]
                ),
            ],
            className="columns",
        ),
    ]


def _group(name: str, state: State, opened: bool) -> html.Details:
    controls = [_control(field, getattr(state, field)) for field in GROUPS[name]]
    return html.Details([html.Summary(name), *controls], open=opened, className="group")


def _control(name: str, value: Any) -> html.Div:
    field = {"type": "field", "name": name}
    text = write_field(name, value)
    if name in RANGES:
        low, high = (math.log10(end) for end in RANGES[name].slider)
        slider = dcc.Input(
            id={"type": "slider", "name": name},
            type="range",
            min=low,
            max=high,
            step=(high - low) / _SLIDER_STEPS,
            value=_place(name, value),
        )
        box = dcc.Input(id=field, type="text", value=text, debounce=0.4)
        return html.Div(
            [html.Label([html.Span(LABELS[name]), box]), html.Label([html.Span(f"{label(name)}, slider", className="hidden"), slider])],
            className="control",
        )
    if name in ("on", "controls_from"):
        return html.Div(
            html.Label([html.Span(LABELS[name]), dcc.Input(id=field, type="text", value=text, debounce=0.4)]), className="control"
        )
    several = name == "curves"
    options = list(known_curves()) if several else [chip.name for chip in chips()] if name.endswith("_chip") else list(CHOICES[name]())
    chosen = list(value) if several else text
    return html.Div(
        html.Label([html.Span(LABELS[name]), dcc.Dropdown(options, chosen, id=field, multi=several, clearable=False)]), className="control"
    )


def _place(name: str, value: float) -> float:
    """Where a value stands on its slider; the end of it where it lies beyond."""
    low, high = RANGES[name].slider
    return math.log10(min(max(value, low), high))


def _figure(name: str, title: str) -> html.Figure:
    buttons = [
        html.Button(
            kind.upper(),
            id={"type": "save", "figure": name, "format": kind},
            type="button",
            **{"aria-label": f"{title}: save as {kind.upper()}"},
        )
        for kind in ("png", "svg")
    ]
    graph = dcc.Graph(id=f"figure-{name}", config={"displayModeBar": False, "responsive": True}, className="graph")
    plot = html.Div(graph, role="img", **{"aria-label": title})
    return html.Figure([html.Figcaption([html.H2(title), html.Span(buttons)]), plot])


def _links() -> html.P:
    return html.P(
        [
            "These numbers as ",
            html.A("CSV", id="csv", href="numbers.csv"),
            " or ",
            html.A("JSON", id="json", href="numbers.json"),
            "; the address of this page holds its settings.",
        ]
    )


def headline(found: Answers) -> list[Any]:
    """The penalty at the chosen compute, by each curve."""
    parts: list[Any] = [f"Penalty at {number(found.state.flops)} FLOP: "]
    for place, (name, point) in enumerate(found.points.items()):
        text = f"{point.value:.4g}x" if point.feasible else "out of reach"
        parts += [
            ", " if place else "",
            html.Strong(text, className="value", **{"data-curve": name, "data-value": repr(point.value)}),
            f" ({name})",
        ]
    return parts


def tables(found: Answers) -> list[Any]:
    """Allocations by curve, and both labs' runs."""
    allocations = [
        {
            "curve": name,
            "penalty": f"{point.value:.4g}" if point.feasible else f"none: {point.reason}",
            "leader's loss": f"{point.leader.loss:.4f}",
            "leader's parameters": _short(point.leader.params),
            "tokens": _short(point.leader.tokens),
            "follower's parameters": _short(point.follower.params),
            "its tokens": _short(point.follower.tokens),
            "beyond the fit": f"{point.decades_outside:.1f} decades",
        }
        for name, point in found.points.items()
    ]
    return [
        _table("By curve", allocations),
        _table(f"The runs, by {found.state.curves[0]}", [_lab_row(lab, found.state) for lab in found.labs]),
    ]


def _lab_row(lab: Lab, state: State) -> dict[str, str]:
    spent = lab.cost
    days = [short(hours / 24) for hours in (spent.hours, *spent.hours_band)] if spent else []
    return {
        "lab": lab.name,
        "compute, FLOP": _short(lab.flops),
        "chips": f"{lab.chips:,} {lab.chip}, {lab.format}",
        "utilisation": f"{lab.estimate.mfu:.0%}" if lab.estimate else "",
        "days (80% band)": f"{days[0]} [{days[1]}, {days[2]}]" if days else f"none: {lab.reason}",
        "USD, bought chips": _short(spent.usd_buy) if spent else "",
        "USD, rented": _short(spent.usd_rent) if spent else "",
        f"export to {state.destination} on {state.on}": f"{lab.verdict.status.replace('_', ' ')}: {lab.verdict.reason}",
    }


def _table(caption: str, rows: list[dict[str, str]]) -> html.Div:
    head = html.Thead(html.Tr([html.Th(name, scope="col") for name in rows[0]]))
    body = html.Tbody([html.Tr([html.Td(text) for text in row.values()]) for row in rows])
    return html.Div(html.Table([html.Caption(caption), head, body]), className="scroll", tabIndex="0")


def _short(value: float | None) -> str:
    return "" if value is None else short(value) if math.isfinite(value) else "none"
