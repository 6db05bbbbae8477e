"""Checks of numbers that several parts share."""

from __future__ import annotations

import math

from scaling.errors import InputError


def check_positive(what: str, *, zero: tuple[str, ...] = (), **values: float) -> None:
    """InputError unless every value is finite and above 0, or 0 where its name is in `zero`."""
    for name, value in values.items():
        if not (math.isfinite(value) and (value > 0 or (value == 0 and name in zero))):
            raise InputError(f"{what}: {name} must be positive and finite, got {value}")


def check_finite(what: str, **values: float) -> None:
    """InputError unless every value is finite."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise InputError(f"{what}: {name} must be finite, got {value}")
