"""The command `isoloss`: thin functions that parse, call the library and print. Libraries load inside them, so --help is quick."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import TyperException

from scaling import output

if TYPE_CHECKING:
    from fits.curve import Curve

app = typer.Typer(
    name="isoloss",
    help="How much more compute does it take to reach the same loss, and what follows when capability spreads?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="List, build and inspect corpora.", no_args_is_help=True)
app.add_typer(data, name="data")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]
Where = Annotated[str | None, typer.Option(help='Rows to keep: COLUMN OP NUMBER|"text", joined by and.')]
Workers = Annotated[int | None, typer.Option(min=1, help="Worker processes; one a core by default.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report; an earlier demo's runs there are used again.")] = Path("isoloss-demo"),
    plan: Annotated[Path | None, typer.Option(help="Another plan than the built-in one.")] = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """The main job: train, fit, predict the held-out budget, compare, extrapolate, report."""
    from scaling.demo import print_summary, run_demo
    from scaling.progress import SweepProgress

    found = run_demo(out, plan, workers=workers, progress=SweepProgress())
    if as_json:
        output.emit(found.results())
    else:
        print_summary(found, out)


@app.command()
def sweep(
    plan: Annotated[Path, typer.Argument(help="The plan, a TOML file.")],
    store: Annotated[Path, typer.Option("--store", "-s", help="The run store; made if it is not there.")],
    engine: Annotated[str, typer.Option(help="How the runs are made: local.")] = "local",
    workers: Workers = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the table of runs.")] = False,
    as_json: Json = False,
) -> None:
    """Run a plan, or carry on with it: runs that the store has are not made again."""
    from scaling import sweeps
    from scaling.progress import SweepProgress

    if dry_run:
        jobs = sweeps.prepare(plan).jobs
        rows = [
            {
                "run_id": run,
                "arm": job.config.arm,
                "width": job.config.model.width,
                "budget": job.budget,
                "tokens": job.config.tokens_trained,
                "steps": job.config.steps,
                "flops": job.flops,
            }
            for run, job in jobs.items()
        ]
        return (
            output.table(rows, f"{len(rows)} runs, {sum(job.flops for job in jobs.values()):.2e} FLOP")
            if not as_json
            else output.emit({"runs": rows})
        )
    frame = sweeps.sweep(plan, store, engine, workers=workers, progress=SweepProgress())
    _show_runs(frame, as_json)
    failed = frame[frame["status"] == "failed"]
    if len(failed):
        output.note(f"isoloss: {len(failed)} of {len(frame)} runs failed, the first: {failed['reason'].iloc[0]}")
        raise typer.Exit(1)


@app.command()
def runs(
    store: Annotated[Path, typer.Argument(help="A run store.")],
    where: Where = None,
    export: Annotated[Path | None, typer.Option(help="Write the table to this CSV file.")] = None,
    as_json: Json = False,
) -> None:
    """List the runs of a store, or export them."""
    from fits.selection import select
    from scaling.store import open_existing

    frame = open_existing(store).frame()
    frame = select(frame, where) if where else frame
    if export:
        export.parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(export, index=False)
        output.note(f"wrote {len(frame)} runs to {export}")
    _show_runs(frame, as_json)


@app.command()
def fit(
    source: Annotated[Path, typer.Argument(metavar="JOB.toml|RUNS.csv", help="A fit job, or a table of runs.")],
    law: Annotated[str, typer.Option(help="The law to fit to a table.")] = "chinchilla",
    columns: Annotated[
        list[str] | None, typer.Option(help='The file\'s name of a column: params="Model Size". May be repeated; further pairs may follow.')
    ] = None,
    more_columns: Annotated[list[str] | None, typer.Argument(metavar="[NAME=COLUMN ...]", help="More pairs for --columns.")] = None,
    where: Where = None,
    objective: Annotated[str, typer.Option(help="log-huber or log-squared.")] = "log-huber",
    delta: Annotated[float, typer.Option(help="Where log-huber turns from squares to absolute values.")] = 1e-3,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples for intervals.")] = 0,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="Save the curve to this JSON file.")] = None,
    as_json: Json = False,
) -> None:
    """Fit a law to runs: a job file, or a table with options."""
    from scaling import jobs
    from scaling.errors import InputError
    from scaling.toml_files import validated

    if source.suffix == ".toml":
        if (law, columns, more_columns, where, objective, delta, bootstrap, seed, out) != (
            "chinchilla",
            None,
            None,
            None,
            "log-huber",
            1e-3,
            0,
            0,
            None,
        ):
            raise InputError(f"fit: {source} is a job and says everything itself; only --json goes with it")
        result = jobs.run_job(jobs.read_job(source), source.parent)
    else:
        pairs = _pairs([*(columns or []), *(more_columns or [])])
        job = validated(
            jobs.FitJob,
            {
                "data": {"path": str(source), "columns": pairs, "where": where},
                "fit": {"laws": [law], "objective": objective, "delta": delta, "bootstrap": bootstrap, "seed": seed},
                "output": {"curve": None if out is None else str(out)},
            },
            "fit",
        )
        result = jobs.run_job(job)
    for path in result.written:
        output.note(f"wrote {path}")
    for warning in {text for curve in result.curves.values() for text in curve.about["warnings"]}:
        output.note(f"warning: {warning}")
    found = [_fit_summary(curve) for curve in result.curves.values()]
    if as_json:
        return output.emit(found[0] if len(found) == 1 else {"fits": found})
    for curve in result.curves.values():
        _print_fit(curve)


@app.command()
def curves(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE]", help="A published curve or a curve file; all are listed without it.")
    ] = None,
    params: Annotated[float | None, typer.Option(help="Predict the loss of this many parameters, with --tokens.")] = None,
    tokens: Annotated[float | None, typer.Option(help="... and this many training tokens.")] = None,
    flops: Annotated[float | None, typer.Option(help="The optimum for this training compute.")] = None,
    as_json: Json = False,
) -> None:
    """List curves, show one, predict a loss, or find an optimum."""
    import fits
    from scaling.errors import InputError

    if name is None:
        if params or tokens or flops:
            raise InputError("curves: --params, --tokens and --flops need the name of a curve before them")
        rows = [_about(fits.load(each)) for each in fits.published()]
        return (
            output.emit({"curves": rows})
            if as_json
            else output.table([{key: row[key] for key in ("name", "law", "grade", "source")} for row in rows], "published curves")
        )
    if (params is None) != (tokens is None) or (flops is not None and params is not None):
        raise InputError("curves: --params and --tokens go together, and --flops goes alone")
    curve = fits.load(name)
    answer = _about(curve)
    if params is not None and tokens is not None:
        answer["loss"] = curve.loss(params=params, tokens=tokens)
        if curve.draws is not None:
            answer["loss_interval"] = {"level": 0.95, "bounds": list(curve.predict(params=params, tokens=tokens)[1:])}
        outside = curve.decades_outside(params=params, tokens=tokens, flops=curve.flops_per_param_token * params * tokens)
    elif flops is not None:
        best = curve.optimal(flops)
        answer["optimal"] = {"params": best.params, "tokens": best.tokens, "loss": best.loss}
        outside = curve.decades_outside(flops=flops)
    else:
        return output.emit(answer) if as_json else output.listing(answer)
    answer["decades_outside"] = outside
    if outside:
        output.note(f"warning: {outside:.1f} decades beyond the range of the fit")
    return output.emit(answer) if as_json else output.listing(answer)


@app.command()
def penalty(
    curve: Annotated[str, typer.Argument(metavar="CURVE", help="A published curve or a curve file.")],
    flops: Annotated[float, typer.Option(help="The leader's training compute.")],
    structure: Annotated[float, typer.Option(help="The follower's structure gap: its parameters count 1/structure.")] = 1.0,
    data_gap: Annotated[float, typer.Option("--data", help="The follower's data gap: its effective tokens count 1/data.")] = 1.0,
    follower: Annotated[str | None, typer.Option(help="The follower's own curve.")] = None,
    unique_tokens: Annotated[float | None, typer.Option(help="Unique tokens there are, repetition beyond.")] = None,
    follower_unique_tokens: Annotated[float | None, typer.Option(help="... and for the follower, where they differ.")] = None,
    fixed: Annotated[str | None, typer.Option(help="What the follower cannot change: tokens, params or tokens_per_param.")] = None,
    overtraining: Annotated[float, typer.Option(help="The leader's tokens per parameter over the optimum.")] = 1.0,
    allocation_error: Annotated[float, typer.Option(help="The follower's size over its optimum.")] = 1.0,
    served_tokens: Annotated[float, typer.Option(help="Tokens that each lab serves with its model.")] = 0.0,
    as_json: Json = False,
) -> None:
    """How much more compute a follower needs for the leader's loss."""
    import fits
    from scaling.penalty import compute_penalty

    found = compute_penalty(
        fits.load(curve),
        flops=flops,
        structure=structure,
        data=data_gap,
        follower=fits.load(follower) if follower else None,
        unique_tokens=unique_tokens,
        follower_unique_tokens=follower_unique_tokens,
        fixed=fixed,
        overtraining=overtraining,
        allocation_error=allocation_error,
        served_tokens=served_tokens,
    )
    answer = dataclasses.asdict(found)
    if as_json:
        return output.emit(answer)
    if found.decades_outside:
        output.note(f"warning: {found.decades_outside:.1f} decades of compute beyond the range of the fit")
    output.listing(answer)


@data.command("list")
def data_list(as_json: Json = False) -> None:
    """Corpora built so far."""
    from scaling.data.corpora import list_corpora

    rows = [
        {
            "corpus": each.id,
            "train_bytes": each.manifest["train_bytes"],
            "validation_bytes": each.manifest["validation_bytes"],
            "built": each.manifest["built"],
        }
        for each in list_corpora()
    ]
    output.emit({"corpora": rows}) if as_json else output.table(rows, f"{len(rows)} corpora")


@data.command("build")
def data_build(
    name: Annotated[str, typer.Argument(metavar="NAME|PATH", help="python-source, or a UTF-8 text file or folder.")], as_json: Json = False
) -> None:
    """Build a corpus, unless it has been built."""
    data_inspect(name, as_json)


@data.command("inspect")
def data_inspect(name: Annotated[str, typer.Argument(metavar="NAME|PATH")], as_json: Json = False) -> None:
    """Show a corpus' manifest and where it lies; it is built if it has not been."""
    from scaling.data.corpora import load_corpus

    corpus = load_corpus(name)
    answer = {"corpus": corpus.id, "folder": str(corpus.folder)} | corpus.manifest
    output.emit(answer) if as_json else output.listing(answer)


def _pairs(texts: list[str]) -> dict[str, str]:
    from scaling.errors import InputError

    pairs = [text.partition("=") for text in texts]
    wrong = [left + middle + right for left, middle, right in pairs if not (left and middle and right)]
    if wrong:
        raise InputError(f'--columns: write NAME=COLUMN, as in params="Model Size", got {wrong[0]!r}')
    return {left: right for left, _, right in pairs}


def _show_runs(frame: Any, as_json: bool) -> None:
    from fits.runs import COLUMNS

    columns = [*COLUMNS, *(name for name in ("budget", "holdout", "reason") if name in frame)]
    if as_json:
        return output.emit({"runs": frame[columns].astype(object).where(frame[columns].notna(), None).to_dict(orient="records")})
    shown = ["run_id", "arm", "precision", "seed", "params", "tokens", "flops", "loss", "loss_se", "status"]
    output.table(frame[shown].to_dict(orient="records"), f"{len(frame)} runs")


def _about(curve: Curve) -> dict[str, Any]:
    interval = None
    if curve.draws is not None:
        interval = {"level": 0.95} | {name: list(bounds) for name, bounds in curve.interval(0.95).items()}
    about = {key: curve.about.get(key) for key in ("source", "grade", "units", "recipe", "notes")}
    return {
        "name": curve.name,
        "law": curve.law.name,
        "formula": curve.law.formula,
        "constants": curve.constants,
        "interval": interval,
        "range": curve.range,
    } | about


def _fit_summary(curve: Curve) -> dict[str, Any]:
    interval = None
    if curve.draws is not None:
        interval = {"level": 0.95} | {name: list(bounds) for name, bounds in curve.interval(0.95).items()}
    return {
        "law": curve.law.name,
        "constants": curve.constants,
        "interval": interval,
        "certificate": curve.certificate,
        "rows": curve.about["rows"],
        "range": curve.range,
        "derived": curve.about["derived"],
        "warnings": curve.about["warnings"],
        "bootstrap": {"resamples": curve.about["bootstrap"], "converged": curve.about["bootstrap_converged"]},
        "seconds": curve.about["seconds"],
    }


def _print_fit(curve: Curve) -> None:
    interval = curve.interval(0.95) if curve.draws is not None else {}
    rows = [
        {"constant": name, "value": value} | ({"low": interval[name][0], "high": interval[name][1]} if interval else {})
        for name, value in curve.constants.items()
    ]
    output.table(rows, f"{curve.law.name} on {curve.about['rows']} runs" + (", 95% intervals" if interval else ""))
    certificate = curve.certificate or {}
    state = "certified" if certificate["certified"] else f"NOT certified: {certificate['reason']}"
    output.say(
        f"{state}; objective {certificate['objective']:.10g}; {certificate['starts_at_optimum']} of {certificate['starts_total']} starts ended there;"
        f" condition {certificate['condition']:.2g}"
    )
    if certificate["certified"] and certificate["reason"]:
        output.say(f"but {certificate['reason']}")
    if curve.draws is not None and len(curve.draws) < curve.about["bootstrap"]:
        output.say(f"{len(curve.draws)} of {curve.about['bootstrap']} resamples converged; the intervals rest on those")
    if curve.about["derived"]:
        output.say(f"derived: {curve.about['derived']}")


def main() -> None:
    """Runs the command. Bad input is one line on stderr and exit status 2."""
    from models.config import ConfigError
    from scaling.errors import InputError

    try:
        status = app(standalone_mode=False)
    except TyperException as error:  # a wrong option, or the help that a bare command shows
        text = error.format_message()
        output.note(text if text.startswith("Usage") else f"isoloss: {text}")
        status = 2
    except (InputError, ConfigError, OSError) as error:
        output.note(f"isoloss: {' '.join(str(error).split())}")
        status = 2
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    if status == 130:
        output.note("isoloss: stopped; finished runs are kept")
    sys.exit(status if isinstance(status, int) else 0)
