"""Checkpoints of one run through Orbax: the state after some step, the curve so far, and the run they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import jax
from orbax.checkpoint import v1 as ocp

from scaling.errors import InputError

State = TypeVar("State")
KEEP = 2


def save(folder: str | Path, run: str, state: State, curve: list[list[float]]) -> None:
    """Saves the state after `len(curve)` steps; the KEEP newest are kept. Returns when it is on disk."""
    policy: Any = ocp.training.preservation_policies.LatestN(KEEP)
    with ocp.training.Checkpointer(str(Path(folder).resolve()), preservation_policy=policy) as checkpointer:
        metadata = {"run_id": run, "curve": curve}
        checkpointer.save(len(curve), jax.tree.leaves(state), custom_metadata=metadata)


def restore(folder: str | Path, run: str, state: State) -> tuple[State, list[list[float]]]:
    """The newest saved state and its curve, or `(state, [])` where there is none; refused if it is of another run."""
    path = Path(folder).resolve()
    if not path.exists():
        return state, []
    with ocp.training.Checkpointer(str(path)) as checkpointer:
        latest = checkpointer.latest
        if latest is None:
            return state, []
        metadata = checkpointer.checkpointables_metadata(latest).custom_metadata or {}
        if metadata.get("run_id") != run:
            raise InputError(f"checkpoint {path}: belongs to another run; choose an empty folder")
        leaves = checkpointer.load(latest, jax.tree.leaves(state))
    return jax.tree.unflatten(jax.tree.structure(state), leaves), metadata["curve"]
