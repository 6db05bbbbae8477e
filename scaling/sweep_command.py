"""`isoloss sweep`: run a plan, carry on with it, or say what it would cost."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling import output
from scaling.errors import InputError
from scaling.output import Json

if TYPE_CHECKING:
    from scaling.plan import Job
    from scaling.sweeps import Sweep
    from scaling.timings import Expected

Workers = Annotated[int | None, typer.Option(min=1, help="Runs at once: worker processes, one a core by default; on Ray as many as fit.")]
UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


def sweep(
    plan: Annotated[Path, typer.Argument(help="The plan, a TOML file.")],
    store: Annotated[Path | None, typer.Option("--store", "-s", help="The run store; made if it is not there.")] = None,
    engine: Annotated[str, typer.Option(help="How the runs are made: local, process or ray.")] = "local",
    workers: Workers = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the table of runs and what they would cost.")] = False,
    time: Annotated[str | None, typer.Option(help="Make what fits into 90m, 2h, 1h30m, ...: what tells most per second first.")] = None,
    address: Annotated[str | None, typer.Option(help="ray: the cluster's address; without it one is started here.")] = None,
    cpus: Annotated[float, typer.Option(min=0, help="ray: CPUs of a run.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="ray: GPUs of a run.")] = 0,
    retries: Annotated[int, typer.Option(min=0, help="How often a run is begun again whose worker or node was lost.")] = 2,
    log: Annotated[
        list[str] | None, typer.Option(help="Also tell tensorboard:DIR, wandb:PROJECT or mlflow:URI; may be given more than once.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a plan, or carry on with it: runs that the store has are not made again."""
    from scaling import sinks, sweeps
    from scaling.paths import use_compilation_cache
    from scaling.progress import SweepProgress
    from scaling.stopping import signals

    if store is None and not dry_run:
        raise InputError("sweep: --store is missing, the file that runs are kept in (or --dry-run to see the plan only)")
    limit = duration(time) if time else None
    prepared = sweeps.prepare(plan, engine)
    states = _states(store, prepared)
    if dry_run or limit is not None:
        estimate, chosen = _chosen(prepared, states, workers, limit)
        if dry_run:
            return _show_plan(prepared, states, estimate, chosen, limit, as_json)
        output.note(_reading(prepared, states, estimate, chosen, limit))
        prepared = dataclasses.replace(prepared, jobs={run: job for run, job in prepared.jobs.items() if run in chosen or run in states})
    assert store is not None
    if engine == "process":
        use_compilation_cache()
    progress = sinks.told(SweepProgress(), log or [])
    with signals() as stop:
        frame = sweeps.sweep(
            prepared,
            store,
            engine,
            workers=workers,
            address=address,
            cpus=cpus,
            gpus=gpus,
            retries=retries,
            progress=progress,
            stop=stop,
        )
    _show_runs(frame, as_json)
    failed = frame[frame["status"] == "failed"]
    if len(failed):
        output.note(f"isoloss: {len(failed)} of {len(frame)} runs failed, the first: {failed['reason'].iloc[0]}")
        raise typer.Exit(1)


def duration(text: str) -> float:
    """Seconds of 2h, 90m, 1h30m, 45s or 1.5d."""
    parts = re.findall(r"([0-9]*\.?[0-9]+)\s*([dhms])", text)
    if not parts or re.sub(r"([0-9]*\.?[0-9]+)\s*([dhms])\s*", "", text).strip():
        raise InputError(f"--time {text!r} is not a time: give 2h, 90m, 1h30m or 45s")
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if seconds <= 0:
        raise InputError(f"--time {text!r} leaves no time")
    return seconds


def _states(store: Path | None, prepared: Sweep) -> dict[str, str]:
    """Of the plan's finished runs, by run id."""
    from scaling.store import FINISHED, open_existing

    if store is None or not store.exists():
        return {}
    return {run: state for run, state in open_existing(store).states(prepared.jobs).items() if state in FINISHED}


def _chosen(prepared: Sweep, states: dict[str, str], workers: int | None, limit: float | None) -> tuple[Expected, dict[str, int]]:
    """The expected time of the runs that are missing, and those that are to be made with their place in the order."""
    from scaling import priorities, timings

    missing = [job for run, job in prepared.jobs.items() if run not in states]
    ids = {job: run for run, job in prepared.jobs.items()}
    estimate = timings.expected(missing, workers)
    if limit is None:
        return estimate, {ids[job]: place for place, job in enumerate(missing, 1)}
    if any(math.isnan(seconds) for seconds in estimate.seconds.values()):
        raise InputError("--time: no run could be timed on this machine, so that none can be chosen by its time; --dry-run says more")
    order = priorities.in_order(missing, estimate.seconds, [prepared.jobs[run] for run in states]) if missing else []
    taken = estimate.fitting(order, limit)
    return estimate, {ids[job]: place for place, job in enumerate(taken, 1)}


def _reading(prepared: Sweep, states: dict[str, str], estimate: Expected, chosen: dict[str, int], limit: float | None) -> str:
    jobs = [prepared.jobs[run] for run in chosen]
    seconds = estimate.wall_seconds(jobs)
    of = f" of {len(estimate.seconds)} (--time {_clock(limit)}, most information per second first)" if limit is not None else ""
    done = f", {len(states)} finished before" if states else ""
    time = "unknown time" if math.isnan(seconds) else f"about {_clock(seconds)}"
    return f"{len(jobs)}{of} runs to make{done}: {sum(job.flops for job in jobs):.2e} FLOP, {time} on {estimate.workers} workers; {estimate.reading}"


def _show_plan(
    prepared: Sweep, states: dict[str, str], estimate: Expected, chosen: dict[str, int], limit: float | None, as_json: bool
) -> None:
    rows = [
        _row(prepared, run, job, states.get(run, "to make" if run in chosen else "left out"), estimate)
        for run, job in prepared.jobs.items()
    ]
    rows.sort(key=lambda row: chosen.get(row["run_id"], len(rows) + 1))
    reading = _reading(prepared, states, estimate, chosen, limit)
    if as_json:
        total = {
            "flops": sum(prepared.jobs[run].flops for run in chosen),
            "seconds": estimate.wall_seconds([prepared.jobs[run] for run in chosen]),
        }
        return output.emit({"runs": rows} | total | {"workers": estimate.workers, "reading": reading})
    output.table(rows, reading)


def _row(prepared: Sweep, run: str, job: Job, state: str, estimate: Expected) -> dict[str, Any]:
    from scaling.training import predicted_memory

    config = job.config
    return {
        "run_id": run,
        "arm": config.arm,
        "width": config.model.width,
        "seed": config.seed,
        "learning_rate": config.peak,
        "budget": job.budget,
        "holdout": job.holdout,
        "tokens": config.tokens_trained,
        "steps": config.steps,
        "flops": job.flops,
        "memory_mb": round(predicted_memory(config, prepared.corpus).total / 1e6),
        "seconds": estimate.seconds.get(job),
        "state": state,
    }


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _show_runs(frame: Any, as_json: bool) -> None:
    from fits.runs import COLUMNS

    columns = [*COLUMNS, *(name for name in ("budget", "holdout", "reason") if name in frame)]
    if as_json:
        return output.emit({"runs": output.plain(frame[columns])})
    shown = ["run_id", "arm", "precision", "seed", "params", "tokens", "flops", "loss", "loss_se", "status"]
    output.table(output.plain(frame[shown]), f"{len(frame)} runs")
