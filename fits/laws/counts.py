"""A law with another count of parameters in place of its own, for tables that hold only that one."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from fits.errors import InputError
from fits.laws.base import Constants, Inputs, Law

COUNTS = ("params", "active_params", "non_embedding_params")


@functools.cache
def on_count(original: Law, count: str) -> Law:
    """`original` reading the column `count` where it reads its own size; called NAME-on-COUNT. Raises InputError."""
    own = str(original.size)
    if count not in COUNTS or original.size is None:
        raise InputError(f"law {original.name} cannot be put on {count!r}; counts are {', '.join(COUNTS)}, and the law needs a size")

    def translated(x: Inputs) -> Inputs:
        names = {key: own if key == count else key for key in x}
        return Inputs({names[key]: x[key] for key in x}, {names[key]: x.log(key) for key in x})

    def function(c: Constants, x: Inputs) -> Any:
        return original.function(c, translated(x))

    def start_constants(x: Inputs, output: np.ndarray) -> list[dict[str, float]]:
        assert original.start_constants is not None
        return original.start_constants(translated(x), output)

    return dataclasses.replace(
        original,
        name=f"{original.name}-on-{count.replace('_', '-')}",
        formula=original.formula.replace(own, count),
        function=function,
        start_constants=None if original.start_constants is None else start_constants,
        inputs=tuple(count if key == own else key for key in original.inputs),
        size=count,
        powers=None,
    )
