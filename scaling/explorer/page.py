"""The page: controls on the left, figures beside them, tables below; one callback turns the form into all of it."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import dash
from dash import ALL, MATCH, ClientsideFunction, Input, Output, ctx, dcc, html, no_update
from dash import State as Held
from flask import Response, request

from scaling import output
from scaling.errors import InputError
from scaling.explorer import figures
from scaling.explorer.answers import Answers, Lab, answer
from scaling.explorer.state import (
    CHOICES,
    RANGES,
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
    "Model, dates and controls": ("model", "on", "destination"),
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
}
FIGURES = {
    "penalty": "Compute penalty against the leader's training compute, one line a curve",
    "waterfall": "Factors between the leader's and the follower's training time",
    "cost": "Training time and dollars of both labs",
}
_SLIDER_STEPS = 200


def build() -> dash.Dash:
    """The Dash application; everything it serves comes from this machine."""
    app = dash.Dash(__name__, title="Isoloss explorer", update_title="", suppress_callback_exceptions=True)
    app.layout = html.Main([dcc.Store(id="address"), dcc.Store(id="query"), html.Div(id="page")], id="main")
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
        *(Output(f"figure-{name}", "figure") for name in FIGURES),
        Output("query", "data"),
        Output("csv", "href"),
        Output("json", "href"),
        Input({"type": "field", "name": ALL}, "value"),
    )(_answer)


def _answer(_: list[Any]) -> tuple[Any, ...]:
    """Everything that a changed form changes; a bad value changes only the message."""
    values = {field["id"]["name"]: field.get("value") for field in ctx.inputs_list[0]}
    try:
        state = read_form({name: ",".join(value) if isinstance(value, list) else str(value or "") for name, value in values.items()})
        found = answer(state)
    except InputError as error:
        return f"Refused, and the last answer kept: {error}", *(no_update,) * (5 + len(FIGURES))
    query = write_query(state)
    drawn = (figures.penalty_figure(found), figures.waterfall_figure(found), figures.cost_figure(found))
    return "", headline(found), tables(found), *drawn, query, f"numbers.csv?{query}", f"numbers.json?{query}"


def _downloads(app: dash.Dash) -> None:
    """The numbers behind the page, at addresses that take the same query as the page does."""

    def numbers(kind: str) -> Response:
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
            text = json.dumps(output.strict(found.as_dict()), indent=1, allow_nan=False) + "\n"
        mimetype = {"csv": "text/csv", "json": "application/json"}[kind]
        return Response(text, mimetype=mimetype, headers={"Content-Disposition": f"attachment; filename=isoloss.{kind}"})

    for kind in ("csv", "json"):
        app.server.add_url_rule(f"/numbers.{kind}", f"numbers-{kind}", functools.partial(numbers, kind))


def _page(address: str | None) -> list[Any]:
    """The whole page in the state of its address."""
    state, problems = read_query(address or "")
    if not problems:
        try:
            answer(state)
        except InputError as error:
            state, problems = State(), [f"{error}; the defaults are used"]
    warning = [html.P("This address no longer fits: " + "; ".join(problems) + ".", id="stale", role="alert")] if problems else []
    return [
        html.Header([html.H1("Isoloss: how much more compute for the same loss?"), html.P(id="headline", role="status")]),
        *warning,
        html.P(id="message", role="alert"),
        html.Div(
            [
                html.Form([_group(name, fields, state) for name, fields in GROUPS.items()], id="form"),
                html.Section([*(_figure(name) for name in FIGURES), html.Div(id="tables"), _links()]),
            ],
            className="columns",
        ),
    ]


def _group(name: str, fields: tuple[str, ...], state: State) -> html.Fieldset:
    return html.Fieldset([html.Legend(name), *(_control(field, getattr(state, field)) for field in fields)])


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
    if name == "on":
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


def _figure(name: str) -> html.Figure:
    buttons = [
        html.Button(
            format.upper(),
            id={"type": "save", "figure": name, "format": format},
            type="button",
            **{"aria-label": f"{name} figure as {format.upper()}"},
        )
        for format in ("png", "svg")
    ]
    graph = dcc.Graph(id=f"figure-{name}", config={"displayModeBar": False, "responsive": True}, className="graph")
    return html.Figure([html.Div(graph, role="img", **{"aria-label": FIGURES[name]}), html.Div(buttons, className="buttons")])


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
    status = lab.verdict.status.replace("_", " ")
    return {
        "lab": lab.name,
        "compute, FLOP": _short(lab.flops),
        "chips": f"{lab.chips:,} {lab.chip}, {lab.format}",
        "utilisation": f"{lab.estimate.mfu:.0%}" if lab.estimate else "",
        "days (80% band)": f"{spent.hours / 24:,.3g} [{spent.hours_band[0] / 24:,.3g}, {spent.hours_band[1] / 24:,.3g}]"
        if spent
        else f"none: {lab.reason}",
        "USD, bought chips": _short(spent.usd_buy) if spent else "",
        "USD, rented": _short(spent.usd_rent) if spent else "",
        f"export to {state.destination} on {state.on}": f"{status}: {lab.verdict.reason}",
    }


def _table(caption: str, rows: list[dict[str, str]]) -> html.Div:
    head = html.Thead(html.Tr([html.Th(name, scope="col") for name in rows[0]]))
    body = html.Tbody([html.Tr([html.Td(text) for text in row.values()]) for row in rows])
    return html.Div(html.Table([html.Caption(caption), head, body]), className="scroll", tabIndex="0")


def _short(value: float | None) -> str:
    return "" if value is None else "none" if not math.isfinite(value) else number(float(f"{value:.3g}"))
