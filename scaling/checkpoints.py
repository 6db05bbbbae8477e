"""Checkpoints of one run through Orbax: the state after some step, what the run measured so far, and the run they belong to.

Each has a list of its files with their sha256, written last: one that was cut short, or whose bytes changed, is known before it is read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
from orbax.checkpoint import v1 as ocp

from models.fields import is_whole
from scaling.errors import InputError
from scaling.paths import check_folder
from scaling.processes import is_first

State = TypeVar("State")
KEEP = 2
LISTING = "files.sha256.json"


@dataclasses.dataclass
class Past:
    """What a run measured: [loss, gradient norm] of every step, sums of what routers did, and the seconds that `timed_steps` steps took."""

    curve: list[list[float]] = dataclasses.field(default_factory=list)
    routers: list[list[Any]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    timed_steps: int = 0


def check(folder: str | Path | None, every: int) -> None:
    """InputError unless checkpoints can be left in `folder` every so many steps."""
    if not is_whole(every) or every < 1:
        raise InputError(f"checkpoint_every must be a positive whole number of steps, got {every!r}")
    if folder is not None:
        check_folder(folder, "checkpoint")


def save(folder: str | Path, run: str, state: State, past: Past) -> None:
    """Saves the state after `len(past.curve)` steps; the KEEP newest are kept. Returns when it is on disk."""
    policy: Any = ocp.training.preservation_policies.LatestN(KEEP)
    path = Path(folder).resolve()
    with ocp.training.Checkpointer(str(path), preservation_policy=policy) as checkpointer:
        metadata = {"run_id": run, "past": dataclasses.asdict(past)}
        checkpointer.save(len(past.curve), jax.tree.leaves(state), custom_metadata=metadata)
    if is_first():
        listing = path / str(len(past.curve)) / LISTING
        temporary = listing.with_suffix(".part")
        temporary.write_text(json.dumps(_sums(listing.parent)))
        temporary.replace(listing)


def restore(folder: str | Path, run: str, state: State, say: Callable[[str], None]) -> tuple[State, Past]:
    """The newest saved state that is whole, and what was measured up to it; `(state, Past())` where there is none.

    A checkpoint that was cut short is told to `say` and removed, and the one before is taken. InputError if they are of another run.
    """
    path = Path(folder).resolve()
    steps = sorted((int(each.name) for each in path.glob("*") if each.name.isdigit()), reverse=True)
    for place, step in enumerate(steps):
        if _whole(path / str(step)):
            with ocp.training.Checkpointer(str(path)) as checkpointer:
                return _read(checkpointer, step, run, state, path)
        then = f"going back to that of step {steps[place + 1]}" if place + 1 < len(steps) else "the run starts again"
        say(f"checkpoint {path}: that of step {step} was cut short; {then}")
        if is_first():
            shutil.rmtree(path / str(step))
    return state, Past()


def _read(checkpointer: ocp.training.Checkpointer, step: int, run: str, state: State, path: Path) -> tuple[State, Past]:
    metadata: Any = checkpointer.checkpointables_metadata(step).custom_metadata or {}
    if metadata.get("run_id") != run:
        raise InputError(f"checkpoint {path}: belongs to another run; choose an empty folder")
    leaves = checkpointer.load(step, jax.tree.leaves(state))
    return jax.tree.unflatten(jax.tree.structure(state), leaves), Past(**metadata["past"])


def _sums(folder: Path) -> dict[str, str]:
    """sha256 of every file of a checkpoint but the listing itself."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith(LISTING.removesuffix(".json")))
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _whole(folder: Path) -> bool:
    try:
        return json.loads((folder / LISTING).read_text()) == _sums(folder)
    except (OSError, ValueError):
        return False
