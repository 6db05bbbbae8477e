"""Engines of a sweep: `python benchmarks/engines.py [overhead] [demo] [kills] [--kills N] [--folder DIR]`.

- overhead: wall time a run beyond its training, of each engine, on runs that take next to no time.
- demo: wall time of the demo's plan over its training time shared out over the workers, twice: the second time with a warm cache.
- kills: a sweep of tiny runs, killed (SIGKILL) at random moments and started again, against one that was left alone.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

from scaling import sweeps
from scaling.devices import cores
from scaling.engines import tasks
from scaling.engines.local import worker_environment
from scaling.store import Store

TINY = {"width": 16, "context": 32, "tokens": 320 * 32, "batch": 1, "validation_tokens": 4096}
ROUND = 60  # runs of a sweep that is killed


def tiny(count: int, first: int = 0) -> dict[str, Any]:
    return {"corpus": "python-source", "runs": [TINY | {"seed": first + seed} for seed in range(count)]}


def overhead(folder: Path, count: int = 40) -> None:
    """What an engine adds to a run, and what it takes to start: from a sweep of `count` runs and one of a fifth of them."""
    print(f"overhead: {count} runs of {TINY['tokens']} tokens, width {TINY['width']}, warm cache; {cores()} workers (process: one)")
    print("| engine | training a run, ms | beyond it a run, ms | until the first run, s | CPU time a run, training included, ms |")
    print("|---|---|---|---|---|")
    for engine in ("process", "local", "ray"):
        workers = 1 if engine == "process" else cores()
        _timed(engine, tiny(workers), folder / f"{engine}-warm.sqlite")
        few, many = (_timed(engine, tiny(n), folder / f"{engine}-{n}.sqlite") for n in (count // 5, count))
        a_run = (many["wall"] - few["wall"]) / (count - count // 5) * workers  # of a worker's time
        trained = (many["train"] - few["train"]) / (count - count // 5)
        start = few["wall"] - a_run * (count // 5) / workers
        # What Ray starts is not this process's to account for.
        cpu = "" if engine == "ray" else f"{(many['cpu'] - few['cpu']) / (count - count // 5) * 1e3:.0f}"
        print(f"| {engine} | {trained * 1e3:.0f} | {(a_run - trained) * 1e3:.0f} | {start:.1f} | {cpu} |", flush=True)


def _timed(engine: str, plan: dict[str, Any], store: Path) -> dict[str, float]:
    """Wall, CPU and training seconds of a sweep in a process of its own, imports and the engine's start counted."""
    code = f"from scaling import sweep; sweep({plan!r}, {str(store)!r}, {engine!r})"
    if engine == "process":
        code = f"from scaling.paths import use_compilation_cache; use_compilation_cache(); {code}"
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | worker_environment())
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu, "train": sum(record["train_seconds"] for record in Store(store).records())}


def demo(folder: Path) -> None:
    """The ratio is wall time over (training time of all runs / workers): 1 is a sweep that does nothing but train, all workers to the end."""
    plan = tomllib.loads(resources.files("scaling").joinpath("demo_plan.toml").read_text())
    for cache in ("as it was", "warm"):
        store = folder / f"demo-{cache.replace(' ', '-')}.sqlite"
        found = _timed("local", plan, store)
        records = Store(store).records()
        shared = found["train"] / cores()
        parts = {name: sum(record[f"{name}_seconds"] for record in records) / cores() for name in ("compile", "evaluation")}
        rest = found["wall"] - shared - sum(parts.values())
        print(
            f"demo, cache {cache}: {len(records)} runs, wall {found['wall']:.0f} s, training {found['train']:.0f} s on {cores()} workers: ratio"
            f" {found['wall'] / shared:.3f} (compilation {parts['compile'] / shared:.3f}, evaluation {parts['evaluation'] / shared:.3f},"
            f" start, store and the last worker's lead {rest / shared:.3f})",
            flush=True,
        )


def kills(folder: Path, count: int) -> None:
    """Every fifth attempt is the engine `local` with its workers in a new process; the others are `process` in a fork, which starts quicker."""
    generator = random.Random(0)
    done, started, where = 0, time.perf_counter(), {"before a run ended": 0, "later": 0}
    attempts = folder / "attempts.txt"
    rounds = runs = again = wrong = lost = 0
    while done < count:
        plan, store = tiny(ROUND, rounds * ROUND), folder / f"round-{rounds}.sqlite"
        prepared = sweeps.prepare(plan)
        kept: dict[str, dict] = {}
        while done < count and len(kept) < ROUND:
            attempts.write_text("")
            local = done % 5 == 4
            pid = _begin_local(plan, store) if local else _begin_fork(prepared, store, attempts)
            begun = None if local or generator.random() < 0.3 else attempts  # so that most of them come in the midst of runs
            killed = _kill_after(pid, generator.uniform(0, 25.0 if local else 8.0), begun)
            if killed:
                done += 1
            again += len(kept.keys() & set(attempts.read_text().split()))
            now = {record["run_id"]: record for record in Store(store).records()} if store.exists() else {}
            where["before a run ended" if len(now) == len(kept) else "later"] += killed
            again += sum(now.get(run) != record for run, record in kept.items())
            kept = now
        _timed("local", plan, store)
        _timed("local", plan, folder / "alone.sqlite")
        records = Store(store).records()
        alone = {record["run_id"]: record["loss"] for record in Store(folder / "alone.sqlite").records()}
        lost += ROUND - len({record["run_id"] for record in records} & set(prepared.jobs))
        wrong += sum(record["loss"] != alone[record["run_id"]] for record in records)
        again += sum({each["run_id"]: each for each in records}[run] != record for run, record in kept.items())
        rounds, runs = rounds + 1, runs + len(records)
        print(f"  {done} kills, {runs} runs, {time.perf_counter() - started:.0f} s", flush=True)
    print(
        f"kills: {done} SIGKILLs ({', '.join(f'{number} {text}' for text, number in where.items())}) in {rounds} sweeps of {ROUND} runs: {runs} runs stored,"
        f" {lost} missing, {again} finished runs trained again, {wrong} losses that differ from the uninterrupted sweep's"
    )


def _begin_local(plan: dict[str, Any], store: Path) -> int:
    code = f"from scaling import sweep; sweep({plan!r}, {str(store)!r}, checkpoint_seconds=0.05)"
    return subprocess.Popen([sys.executable, "-c", code]).pid


def _begin_fork(prepared: sweeps.Sweep, store: Path, attempts: Path) -> int:
    """A fork of this process, which has imported what a sweep needs and not used JAX."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX warns of forks, for processes that have used it
        pid = os.fork()
    if pid:
        return pid
    from scaling.paths import use_compilation_cache

    perform = tasks.perform

    def noted(task: tasks.Task, *rest: Any) -> dict[str, Any]:
        with attempts.open("a") as file:
            file.write(task.run + "\n")
        return perform(task, *rest)

    with contextlib.suppress(BaseException):
        use_compilation_cache()
        setattr(tasks, "perform", noted)  # noqa: B010 - of this fork only
        sweeps.sweep(prepared, store, "process", checkpoint_seconds=0.05)
        os._exit(0)
    os._exit(1)


def _kill_after(pid: int, seconds: float, begun: Path | None) -> bool:
    """Kills the process so long after its start, or after its first run has begun, unless it has ended; whether it was killed."""
    while begun is not None and not begun.stat().st_size:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
        time.sleep(0.005)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="overhead, demo, kills; all by default")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="kept, and not emptied before; a temporary one by default")
    arguments = parser.parse_args()
    os.environ.update(worker_environment())  # forks are to make the runs that workers make
    importlib.import_module("scaling.training")  # what a fork needs is imported before it
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="isoloss-engines-"))
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"overhead": overhead, "demo": demo, "kills": lambda where: kills(where, arguments.kills)}
    for name in arguments.parts or parts:
        if name not in parts:
            sys.exit(f"engines.py: no part {name!r}; there are {', '.join(parts)}")
        parts[name](folder)
    if arguments.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
