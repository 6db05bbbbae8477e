"""The command `isoloss`: thin functions that parse, call the library and print. Libraries load inside them, so --help is quick."""

from __future__ import annotations

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
    frontier_command,
    ledger_command,
    multiplier_command,
    output,
    penalty_command,
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
app.command()(frontier_command.frontier)
app.command()(estimate_command.estimate)
app.command()(chips_command.chips)
app.command()(ledger_command.ledger)
app.command()(sweep_command.sweep)
app.command()(diffuse_command.diffuse)
app.command()(runs_command.runs)
app.command()(multiplier_command.multiplier)
app.command()(penalty_command.penalty)
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
