"""Families of laws, by name. Every module of this package that holds laws lists them in `LAWS`."""

from __future__ import annotations

import difflib
import importlib

from fits.errors import InputError
from fits.laws.base import Law
from fits.laws.counts import on_count

_FAMILIES = (
    "chinchilla",
    "tied",
    "outer_exponent",
    "kaplan",
    "saturating",
    "farseer",
    "overtraining",
    "repetition",
    "broken",
    "downstream",
    "allocation_rules",
    "training_rules",
    "progress",
    "routed",
    "fine_grained",
    "joint_moe",
    "moe_sparsity",
    "leverage",
    "five_factor",
    "precision",
    "floating_point",
    "quantization_error",
    "effective_factors",
    "weight_sparsity",
    "distillation",
    "vocabulary",
    "diloco",
    "parallel_streams",
)
LAWS: dict[str, Law] = {law.name: law for family in _FAMILIES for law in importlib.import_module(f"fits.laws.{family}").LAWS}


def law(name: str | Law) -> Law:
    """The law called `name` (NAME-on-params reads that count in place of its own), or the Law itself; InputError offers the nearest names."""
    if isinstance(name, Law):
        return name
    base, on, count = name.rpartition("-on-")
    if on and base in LAWS:
        return on_count(LAWS[base], count.replace("-", "_"))
    if name not in LAWS:
        near = [repr(each) for each in difflib.get_close_matches(name, LAWS, 3, 0.5)]
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise InputError(f"law {name!r} is not known; {hint}`isoloss curves --laws` lists the {len(LAWS)} there are")
    return LAWS[name]
