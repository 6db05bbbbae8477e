"""`isoloss curves`: list published curves and laws, show one, predict, find an optimum."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling import output
from scaling.output import Json

if TYPE_CHECKING:
    from fits.curve import Curve

Many = list[str] | None


def curves(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE]", help="A published curve or a curve file; all are listed without it.")
    ] = None,
    more: Annotated[Many, typer.Argument(metavar="[INPUT=VALUE ...]", help="More inputs for --at.")] = None,
    params: Annotated[float | None, typer.Option(help="Predict the loss of this many parameters, with --tokens.")] = None,
    tokens: Annotated[float | None, typer.Option(help="... and this many training tokens.")] = None,
    flops: Annotated[float | None, typer.Option(help="The optimum for this training compute, or a law's input.")] = None,
    at: Annotated[Many, typer.Option(help="Other inputs of a law: experts=8. May be repeated.")] = None,
    law: Annotated[str | None, typer.Option(help="List only the curves of this law.")] = None,
    laws: Annotated[bool, typer.Option("--laws", help="List the laws that can be fitted.")] = False,
    as_json: Json = False,
) -> None:
    """List curves, show one, predict its output, or find an optimum."""
    import fits
    from scaling.errors import InputError

    if laws:
        return _list_laws(as_json)
    given = {"params": params, "tokens": tokens, "flops": flops}
    asked = {key: value for key, value in given.items() if value is not None} | further_inputs([*(at or []), *(more or [])])
    if name is None:
        if asked:
            raise InputError("curves: --params, --tokens, --flops and --at need the name of a curve before them")
        return _list_curves(law, as_json)
    curve = fits.load(name)
    if (params is None) != (tokens is None) and {"params", "tokens"} <= set(curve.law.inputs):
        raise InputError("curves: --params and --tokens go together, and --flops goes without them")
    answer = about(curve)
    if asked:
        outside = _answer(curve, asked, answer)
        answer["decades_outside"] = outside
        if outside:
            output.note(f"warning: {outside:.1f} decades beyond the range of the fit")
    if as_json:
        return output.emit(answer)
    checks = answer.pop("checks", None)
    checks = checks if isinstance(checks, list) else []
    return output.listing(answer | {"checks": f"{len(checks)} printed or derived values that the tests reproduce" if checks else None})


def _answer(curve: Curve, asked: dict[str, float], answer: dict[str, Any]) -> float:
    """Adds the optimum or the prediction to the answer; returns the decades by which it lies outside the fit's range."""
    size = curve.law.size
    if size is not None and "flops" in asked and size not in asked:
        flops = asked.pop("flops")
        best = curve.optimal(flops, **asked)
        answer["optimal"] = {"params": best.params, "tokens": best.tokens, "loss": best.loss}
        return curve.decades_outside(flops=flops, **asked)
    answer[curve.law.output] = curve.evaluate(**asked)
    if curve.draws is not None:
        answer[f"{curve.law.output}_interval"] = {"level": 0.95, "bounds": list(curve.predict(**asked)[1:])}
    if size is not None:
        asked = asked | {"flops": curve.flops_per_param_token * asked[size] * asked["tokens"]}
    return curve.decades_outside(**asked)


def _list_curves(law: str | None, as_json: bool) -> None:
    import fits
    from fits.laws import law as find_law

    wanted = None if law is None else find_law(law).name
    rows = [
        about(curve) for curve in map(fits.load, [*fits.own(), *fits.published(), *fits.refitted()]) if wanted in (None, curve.law.name)
    ]
    if as_json:
        return output.emit({"curves": rows})
    shown = [
        {
            "name": row["name"],
            "law": row["law"],
            "predicts": row["output"],
            "grade": row["grade"].split(":")[0],
            "arXiv": _arxiv(row["source"]),
        }
        for row in rows
    ]
    output.table(shown, f"{len(rows)} curves")


def _arxiv(source: str) -> str:
    found = re.search(r"\d{4}\.\d{4,5}", source)
    return found[0] if found else ""


def _list_laws(as_json: bool) -> None:
    from fits.laws import LAWS

    rows = [
        {
            "law": each.name,
            "inputs": list(each.inputs),
            "constants": list(each.constants),
            "predicts": each.output,
            "formula": each.formula,
            "source": each.source,
        }
        for each in LAWS.values()
    ]
    if as_json:
        return output.emit({"laws": rows})
    output.table([{key: row[key] for key in ("law", "formula", "predicts")} for row in rows], f"{len(rows)} laws")


def further_inputs(texts: list[str]) -> dict[str, float]:
    """The pairs of --at."""
    from scaling.errors import InputError

    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise InputError(f"--at: write INPUT=NUMBER, as in experts=8, got {text!r}") from None
    return found


def about(curve: Curve) -> dict[str, Any]:
    """What a curve says of itself, as JSON shows it."""
    stored = curve.about.get("intervals")
    interval = stored
    if stored is None and curve.draws is not None:
        pairs = curve.interval(0.95)
        interval = {"level": 0.95} | {name: [end if math.isfinite(end) else None for end in pair] for name, pair in pairs.items()}
    said = {key: curve.about.get(key) for key in ("source", "grade", "rows", "units", "recipe", "limits", "notes", "contradicts")}
    certificate = curve.certificate or {}
    return {
        "name": curve.name,
        "law": curve.law.name,
        "formula": curve.law.formula,
        "output": curve.law.output,
        "constants": curve.constants,
        "printed_constants": curve.about.get("printed_constants"),
        "interval": interval,
        "range": curve.range,
        "residual_sd": curve.residual_sd,
        "certified": certificate.get("certified"),
        "not_certified_because": (certificate.get("reason") or None) if not certificate.get("certified", True) else None,
        "checks": curve.about.get("checks"),
    } | said
