"""Compiled CPU kernels, all optional: the models work without them, slower.

`status()` says whether they can be used here and why not; `version()` names them for the record of a run, because they round
differently from plain JAX. They are compiled on first use by the C++ compiler that is found, kept in the cache folder, and
switched off by `ISOLOSS_KERNELS=off` in the environment.
"""

from __future__ import annotations

from models.kernels.build import status as status
from models.kernels.build import version as version

__all__ = ["status", "version"]
