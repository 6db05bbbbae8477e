"""The error that a user can mend: one class for `fits` and `scaling`."""

from __future__ import annotations

from fits.errors import InputError

__all__ = ["InputError"]
