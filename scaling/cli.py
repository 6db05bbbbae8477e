"""The command `isoloss`: thin functions that parse, call the library and print. Libraries load inside them, so --help is quick."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from scaling import (
    chips_command,
    curves_command,
    data_command,
    diffuse_command,
    estimate_command,
    explore_command,
    fit_command,
    output,
    plan_command,
    report_command,
    runs_command,
    sweep_command,
)
from scaling.output import Json
from scaling.sweep_command import Workers

app = typer.Typer(
    name="isoloss",
    help="How much more compute does it take to reach the same loss, and what follows when capability spreads?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(data_command.data, name="data")
app.command()(fit_command.fit)
app.command()(curves_command.curves)
app.command()(plan_command.plan)
app.command()(estimate_command.estimate)
app.command()(chips_command.chips)
app.command()(sweep_command.sweep)
app.command()(diffuse_command.diffuse)
app.command()(runs_command.runs)
app.command()(explore_command.explore)
app.command()(report_command.report)


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
    at: Annotated[list[str] | None, typer.Option(metavar="INPUT=NUMBER", help="A further input of the law, such as experts=8.")] = None,
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
        inputs=curves_command.further_inputs(at or []),
    )
    answer = dataclasses.asdict(found)
    if as_json:
        return output.emit(answer)
    if found.decades_outside:
        output.note(f"warning: {found.decades_outside:.1f} decades of compute beyond the range of the fit")
    output.listing(answer)


def main() -> None:
    """Runs the command. Bad input is one line on stderr and exit status 2."""
    from models.config import ConfigError
    from scaling.errors import InputError
    from scaling.stopping import Stopped

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
        output.note("isoloss: stopped; finished runs are kept")
        status = 130
    except Stopped as stopped:
        output.note(f"isoloss: stopped; {stopped}")
        status = 128 + stopped.signal
    sys.exit(status if isinstance(status, int) else 0)
