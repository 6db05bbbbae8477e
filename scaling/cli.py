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
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command(short_help="Train, fit, predict, compare, report: the main job.")
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


COMMANDS = (  # in the order of the work, each with what the list of commands says of it
    (sweep_command.sweep, "Train the runs of a plan, or carry on with it."),
    (runs_command.runs, "List, check, merge, import and export a run store."),
    (fit_command.fit, "Fit a law to runs: a job file, or a table."),
    (plan_command.plan, "Propose the next runs worth making."),
    (curves_command.curves, "List curves, show one, predict, find an optimum."),
    (multiplier_command.multiplier, "Compute ratio at equal loss of two sets of runs."),
    (penalty_command.penalty, "Compute ratio at equal loss, by a law."),
    (frontier_command.frontier, "When a penalty is structure x data, and when not."),
    (chips_command.chips, "Chips and export rules."),
    (estimate_command.estimate, "What a training run or serving takes on chips."),
    (ledger_command.ledger, "What chips and software do to time and dollars."),
    (diffuse_command.diffuse, "Who reaches which capability when."),
    (report_command.report, "One HTML page of stores, curves and scenarios."),
    (explore_command.explore, "Open a page whose figures answer at once."),
)
for command, short in COMMANDS:
    app.command(short_help=short)(command)
app.add_typer(data_command.data, name="data")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"isoloss {version('isoloss')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")] = False,
) -> None:
    """How much more compute does it take to reach the same loss, and what follows when capability spreads?"""


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
