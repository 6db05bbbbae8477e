"""The multipliers that this project measured on its own runs, from `measured.toml`."""

from __future__ import annotations

import math
from functools import cache
from importlib import resources
from typing import Annotated

import pydantic

from scaling.errors import InputError
from scaling.toml_files import PositiveFloat, Strict, read_toml, validated


class Measured(Strict):
    """A compute multiplier at equal loss with its 95% interval, and the budgets (FLOP) of the runs that it was measured on."""

    what: str
    value: PositiveFloat
    low: PositiveFloat
    high: PositiveFloat
    flops: Annotated[list[PositiveFloat], pydantic.Field(min_length=2, max_length=2)]
    runs: str
    source: str

    @pydantic.model_validator(mode="after")
    def _check(self) -> Measured:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"low <= value <= high must hold, got {self.low:g}, {self.value:g}, {self.high:g}")
        if not self.flops[0] <= self.flops[1]:
            raise ValueError(f"flops: the smaller budget first, got {self.flops}")
        return self

    def decades_to(self, flops: float) -> float:
        """Decades of compute between the measured budgets and `flops`; 0 within them."""
        return max(0.0, math.log10(flops / self.flops[1]), math.log10(self.flops[0] / flops))


@cache
def _all() -> dict[str, Measured]:
    with resources.as_file(resources.files("scaling.ledger").joinpath("measured.toml")) as path:
        return {name: validated(Measured, fields, f"{path.name}: {name}") for name, fields in read_toml(path).items()}


def measured(name: str) -> Measured:
    """The multiplier of that name. Raises InputError that lists what there is."""
    if name not in _all():
        raise InputError(f"ledger: no multiplier {name!r} was measured here; there are {', '.join(_all())}")
    return _all()[name]
