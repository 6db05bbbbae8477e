"""The command `isoloss`: thin functions that parse, call the library and print. Libraries load inside them, so --help is quick."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from scaling import chips_command, curves_command, estimate_command, fit_command, output, plan_command
from scaling.output import Json, Where

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
app.command()(fit_command.fit)
app.command()(curves_command.curves)
app.command()(plan_command.plan)
app.command()(estimate_command.estimate)
app.command()(chips_command.chips)

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


@data.command("tables")
def data_tables(as_json: Json = False) -> None:
    """Public tables of runs, for `isoloss fit --dataset NAME`."""
    from fits.registry import TABLES

    rows = [
        {"name": table.name, "paper": f"{table.title}, arXiv {table.arxiv}", "licence": table.licence, "note": table.remark}
        for table in TABLES.values()
    ]
    output.emit({"tables": rows}) if as_json else output.table(
        [{k: row[k] for k in ("name", "paper", "licence")} for row in rows], f"{len(rows)} public tables"
    )


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


def _show_runs(frame: Any, as_json: bool) -> None:
    from fits.runs import COLUMNS

    columns = [*COLUMNS, *(name for name in ("budget", "holdout", "reason") if name in frame)]
    if as_json:
        return output.emit({"runs": frame[columns].astype(object).where(frame[columns].notna(), None).to_dict(orient="records")})
    shown = ["run_id", "arm", "precision", "seed", "params", "tokens", "flops", "loss", "loss_se", "status"]
    output.table(frame[shown].to_dict(orient="records"), f"{len(frame)} runs")


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
