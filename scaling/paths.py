"""Where things that can be made again are kept: corpora and compiled programs."""

from __future__ import annotations

import os
from pathlib import Path

from scaling.errors import InputError


def cache_folder() -> Path:
    """`ISOLOSS_CACHE`, or `isoloss` in the user's cache folder."""
    chosen = os.environ.get("ISOLOSS_CACHE")
    if chosen:
        return Path(chosen).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isoloss"


def check_folder(folder: str | Path, name: str) -> None:
    """InputError unless `folder`, which a user calls `name`, is a folder that can be written to, or can be made."""
    path = Path(folder).resolve()
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise InputError(f"{name} {folder}: {there} is not a folder that can be written to; choose another")


def use_compilation_cache() -> None:
    """Keep compiled programs on disk, one folder a JAX version, so that a second process does not compile again."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / f"xla-{jax.__version__}"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
