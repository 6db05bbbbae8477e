"""Checkpoints of one run through Orbax: the state after some step, what the run measured so far, and the run they belong to."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import jax
from orbax.checkpoint import v1 as ocp

from models.fields import is_whole
from scaling.errors import InputError
from scaling.paths import check_folder

State = TypeVar("State")
KEEP = 2


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
    with ocp.training.Checkpointer(str(Path(folder).resolve()), preservation_policy=policy) as checkpointer:
        metadata = {"run_id": run, "past": dataclasses.asdict(past)}
        checkpointer.save(len(past.curve), jax.tree.leaves(state), custom_metadata=metadata)


def restore(folder: str | Path, run: str, state: State) -> tuple[State, Past]:
    """The newest saved state and what was measured up to it, or `(state, Past())` where there is none; refused if it is of another run."""
    path = Path(folder).resolve()
    if not path.exists():
        return state, Past()
    with ocp.training.Checkpointer(str(path)) as checkpointer:
        latest = checkpointer.latest
        if latest is None:
            return state, Past()
        metadata = checkpointer.checkpointables_metadata(latest).custom_metadata or {}
        if metadata.get("run_id") != run:
            raise InputError(f"checkpoint {path}: belongs to another run; choose an empty folder")
        leaves = checkpointer.load(latest, jax.tree.leaves(state))
    return jax.tree.unflatten(jax.tree.structure(state), leaves), Past(**metadata["past"])
