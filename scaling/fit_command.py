"""`isoloss fit`: laws fitted to a table of runs, from a job file or from options."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling import output
from scaling.output import Json, Where

if TYPE_CHECKING:
    from fits.curve import Curve
    from scaling.jobs import FitResult

Many = list[str] | None


def fit(
    context: typer.Context,
    source: Annotated[
        Path | None, typer.Argument(metavar="JOB.toml|RUNS", help="A fit job, or a table of runs: CSV, Parquet or JSONL.")
    ] = None,
    more: Annotated[
        Many,
        typer.Argument(metavar="[NAME=VALUE ...]", help="More pairs for --columns, or for --units if that is the only option of pairs."),
    ] = None,
    law: Annotated[Many, typer.Option(help="The law to fit; several by repeating it. `isoloss curves --laws` lists them.")] = None,
    dataset: Annotated[str | None, typer.Option(help="A public table by name in place of a file.")] = None,
    recipe: Annotated[bool, typer.Option("--recipe", help="Of a dataset: only the rows that its authors fitted.")] = False,
    columns: Annotated[Many, typer.Option(help='The file\'s name of a column: params="Model Size". May be repeated.')] = None,
    units: Annotated[Many, typer.Option(help="What a column counts: params=billions, loss=bits, or a factor.")] = None,
    where: Where = None,
    best: Annotated[str | None, typer.Option(help="Keep the row of least loss for every value of these columns: params,tokens.")] = None,
    aggregate: Annotated[str | None, typer.Option(help="Average the rows (seeds) that share these columns.")] = None,
    objective: Annotated[
        str, typer.Option(help="log-huber, huber, log-squared, squared, log-absolute, absolute, log-asymmetric or asymmetric.")
    ] = "log-huber",
    delta: Annotated[float, typer.Option(help="Where Huber turns from squares to absolute values.")] = 1e-3,
    over: Annotated[float, typer.Option(help="How often an asymmetric objective counts over-predictions.")] = 10.0,
    fixed: Annotated[Many, typer.Option(help="Hold a constant: alpha=0.34.")] = None,
    bounds: Annotated[Many, typer.Option(help="Bound a constant: E=1:2.")] = None,
    weights: Annotated[str | None, typer.Option(help="Column of row weights.")] = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples, for intervals and predictions.")] = 0,
    resample: Annotated[str, typer.Option(help="What is resampled: rows, clusters or wild.")] = "rows",
    cluster: Annotated[str | None, typer.Option(help="Columns by which rows belong together, for --resample clusters.")] = None,
    seed: int = 0,
    interval: Annotated[str, typer.Option(help="auto, profile, bootstrap or none.")] = "auto",
    level: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.95,
    compare: Annotated[bool, typer.Option("--compare", help="Compare the laws: AICc, BIC and the error on --holdout rows.")] = False,
    holdout: Annotated[
        str | None,
        typer.Option(help="Rows that the comparison predicts and does not fit, as in --where; the curve itself is fitted to all rows."),
    ] = None,
    rolling: Annotated[bool, typer.Option("--rolling", help="Fit below every budget and predict above it.")] = False,
    out: Annotated[Path | None, typer.Option(help="Save the curve to this JSON file.")] = None,
    figures: Annotated[Path | None, typer.Option(help="Draw each fit into this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Fit a law to runs: a job file, or a table with options."""
    from scaling import jobs
    from scaling.errors import InputError
    from scaling.paths import use_compilation_cache
    from scaling.toml_files import validated

    if source is not None and source.suffix == ".toml":
        if any(_was_given(context, name) for name in context.params if name not in ("source", "as_json")):
            raise InputError(f"fit: {source} is a job and says everything itself; only --json goes with it")
        job, folder = jobs.read_job(source), source.parent
    else:
        pairs: dict[str, dict[str, Any]] = {"columns": _pairs("columns", columns), "units": _pairs("units", units)}
        _pairs_that_follow(more, pairs, {"columns": columns, "units": units, "fixed": fixed, "bounds": bounds})
        pairs["units"] = {name: _unit(text) for name, text in pairs["units"].items()}
        data: dict[str, Any] = {
            "path": None if source is None else str(source),
            "dataset": dataset,
            "recipe": recipe,
            **pairs,
            "where": where,
        }
        data |= {"best": _names(best), "aggregate": _names(aggregate)}
        asked = {
            "laws": law or ["chinchilla"],
            "objective": objective,
            "delta": delta,
            "over": over,
            "fixed": {name: _number("fixed", name, text) for name, text in _pairs("fixed", fixed).items()},
            "bounds": {name: _range(name, text) for name, text in _pairs("bounds", bounds).items()},
            "weights": weights,
            "bootstrap": bootstrap,
            "resample": resample,
            "cluster": _names(cluster),
            "seed": seed,
            "interval": interval,
            "level": level,
        }
        left = {"curve": None if out is None else str(out), "figures": None if figures is None else str(figures)}
        comparison = {"holdout": holdout, "rolling": rolling} if compare or holdout or rolling else None
        job, folder = validated(jobs.FitJob, {"data": data, "fit": asked, "compare": comparison, "output": left}, "fit"), Path(".")
    use_compilation_cache()
    result = jobs.run_job(job, folder, progress=_Progress())
    _report(result, job.fit.level, as_json)


def _was_given(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line, whatever its value."""
    origin = context.get_parameter_source(name)
    return origin is not None and origin.name == "COMMANDLINE"


def _pairs(option: str, texts: list[str] | None) -> dict[str, str]:
    from scaling.errors import InputError

    pairs = [text.partition("=") for text in texts or []]
    wrong = [left + middle + right for left, middle, right in pairs if not (left and middle and right)]
    if wrong:
        examples = {"columns": 'NAME=COLUMN, as in params="Model Size"', "units": "NAME=UNIT, as in params=billions"}
        raise InputError(f"--{option}: write {examples.get(option, 'NAME=VALUE, as in alpha=0.34')}, got {wrong[0]!r}")
    return {left: right for left, _, right in pairs}


def _pairs_that_follow(more: list[str] | None, pairs: dict[str, dict[str, Any]], options: dict[str, list[str] | None]) -> None:
    """Pairs after the first belong to the one option of pairs that was given; with several it must be said to which."""
    from scaling.errors import InputError

    used = [name for name, texts in options.items() if texts]
    if more and used not in (["columns"], ["units"]):
        raise InputError(f"fit: {more[0]!r} belongs to no option; write --columns, --units, --fixed or --bounds before every pair")
    if more:
        pairs[used[0]].update(_pairs(used[0], more))


def _unit(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _number(option: str, name: str, text: str) -> float:
    from scaling.errors import InputError

    try:
        return float(text)
    except ValueError:
        raise InputError(f"--{option}: {name} needs a number, got {text!r}") from None


def _range(name: str, text: str) -> tuple[float, float]:
    from scaling.errors import InputError

    low, colon, high = text.partition(":")
    if not colon:
        raise InputError(f"--bounds: write {name}=LOW:HIGH, got {text!r}")
    return _number("bounds", name, low or "-inf"), _number("bounds", name, high or "inf")


class _Progress:
    """How far a bootstrap is, with the time left: a line every ten seconds, on stderr."""

    def __init__(self) -> None:
        self._started = self._said = time.monotonic()
        self._what = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._started, self._said = what, now, now
        elif now - self._said > 10 and done < total:
            self._said = now
            left = (now - self._started) * (total / done - 1)
            output.note(f"{what}: {done} of {total}, {int(left // 60)}:{int(left % 60):02d} left")


def _report(result: FitResult, level: float, as_json: bool) -> None:
    for path in result.written:
        output.note(f"wrote {path}")
    for warning in dict.fromkeys(text for curve in result.curves.values() for text in curve.about["warnings"]):
        output.note(f"warning: {warning}")
    found = [_summary(curve, result.intervals[name], level) for name, curve in result.curves.items()]
    if as_json:
        answer: dict[str, Any] = found[0] if len(found) == 1 else {"fits": found}
        if result.comparison is not None:
            answer = answer | {"comparison": output.plain(result.comparison)}
        if result.rolling is not None:
            answer = answer | {"rolling": output.plain(result.rolling)}
        return output.emit(answer)
    for name, curve in result.curves.items():
        _print_fit(curve, result.intervals[name], level)
    if result.comparison is not None:
        shown = ["law", "constants", "certified", "rms_log", "aicc", "bic", "heldout_rows", "heldout_error", "baseline_error", "reason"]
        output.table([{name: row[name] for name in shown} for row in output.plain(result.comparison)], "comparison of the laws")
    if result.rolling is not None:
        shown = ["law", "cut", "rows_fitted", "rows_predicted", "decades_ahead", "error", "baseline_error", "reason"]
        output.table(
            [{name: row[name] for name in shown} for row in output.plain(result.rolling)],
            "rolling extrapolation: fitted below the cut, error above it",
        )


def _summary(curve: Curve, interval: dict[str, Any] | None, level: float) -> dict[str, Any]:
    about = curve.about
    return {
        "law": curve.law.name,
        "constants": curve.constants,
        "interval": interval,
        "certificate": curve.certificate,
        "rows": about["rows"],
        "range": curve.range,
        "residual_sd": curve.residual_sd,
        "derived": about["derived"],
        "prepared": about["prepared"],
        "warnings": about["warnings"],
        "bootstrap": {"resamples": about["bootstrap"], "kind": about["resample"], "converged": about["bootstrap_converged"]},
        "seconds": about["seconds"],
    }


def _print_fit(curve: Curve, interval: dict[str, Any] | None, level: float) -> None:
    about = curve.about
    ends = interval or {}
    rows: list[dict[str, Any]] = []
    for name, value in curve.constants.items():
        row: dict[str, Any] = {"constant": name, "value": value}
        if interval:
            low, high = ends.get(name, (None, None))
            row |= {
                "low": "fixed" if name in about["fixed"] else "open" if low is None else low,
                "high": "" if name in about["fixed"] else "open" if high is None else high,
            }
        rows.append(row)
    said = f", {100 * level:g}% intervals ({ends['method']})" if interval else ""
    output.table(rows, f"{curve.law.name} on {about['rows']} runs{said}")
    certificate = curve.certificate or {}
    state = "certified" if certificate["certified"] else f"NOT certified: {certificate['reason']}"
    output.say(
        f"{state}; objective {certificate['objective']:.10g}; {certificate['starts_at_optimum']} of {certificate['starts_total']} starts ended there;"
        f" condition {certificate['condition']:.2g}"
    )
    if certificate["certified"] and certificate["reason"]:
        output.say(f"but {certificate['reason']}")
    if curve.draws is not None and len(curve.draws) < about["bootstrap"]:
        output.say(f"{len(curve.draws)} of {about['bootstrap']} resamples converged; what comes from draws rests on those")
    if curve.law.output == "loss" and curve.residual_sd is not None:
        kind = "log loss" if about["objective"].startswith("log") else "loss"
        output.say(f"residuals: {curve.residual_sd:.3g} of {kind} (standard deviation)")
    for text in [*([about["derived"]] if about["derived"] else []), *about["prepared"]]:
        output.say(f"data: {text}")
