"""What is learned from runs: tables of runs, laws, certified fits with their uncertainty, and curves from the literature.

Public names: read_runs, complete, dataset, dataset_names, fit, compare, leave_budget_out, rolling_extrapolation, ensemble, isoflop, envelope,
plan_runs, load, published, refitted, own, shipped, own_runs, multiplier, Curve, Allocation, Law, Ensemble, Proposal, InputError. They load on first use, and nothing here
imports Flax or Orbax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fits.comparison import compare as compare
    from fits.comparison import leave_budget_out as leave_budget_out
    from fits.comparison import rolling_extrapolation as rolling_extrapolation
    from fits.curve import Allocation as Allocation
    from fits.curve import Curve as Curve
    from fits.datasets import dataset as dataset
    from fits.datasets import dataset_names as dataset_names
    from fits.derived import multiplier as multiplier
    from fits.ensembles import Ensemble as Ensemble
    from fits.ensembles import ensemble as ensemble
    from fits.envelopes import envelope as envelope
    from fits.errors import InputError as InputError
    from fits.fitting import fit as fit
    from fits.isoflops import isoflop as isoflop
    from fits.laws.base import Law as Law
    from fits.library import load as load
    from fits.library import own as own
    from fits.library import own_runs as own_runs
    from fits.library import published as published
    from fits.library import refitted as refitted
    from fits.library import shipped as shipped
    from fits.planning import Proposal as Proposal
    from fits.planning import plan_runs as plan_runs
    from fits.runs import complete as complete
    from fits.runs import read_runs as read_runs

_HOME = {
    "Allocation": "fits.curve",
    "Curve": "fits.curve",
    "Ensemble": "fits.ensembles",
    "InputError": "fits.errors",
    "Law": "fits.laws.base",
    "Proposal": "fits.planning",
    "compare": "fits.comparison",
    "complete": "fits.runs",
    "dataset": "fits.datasets",
    "dataset_names": "fits.datasets",
    "ensemble": "fits.ensembles",
    "envelope": "fits.envelopes",
    "fit": "fits.fitting",
    "isoflop": "fits.isoflops",
    "leave_budget_out": "fits.comparison",
    "load": "fits.library",
    "multiplier": "fits.derived",
    "own": "fits.library",
    "own_runs": "fits.library",
    "plan_runs": "fits.planning",
    "published": "fits.library",
    "read_runs": "fits.runs",
    "refitted": "fits.library",
    "shipped": "fits.library",
    "rolling_extrapolation": "fits.comparison",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'fits' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
