"""The estimator that joins models and fits: train, sweep, penalty, diffusion, report.

Public names are those of the table below: runs (RunConfig, train, train_many, train_horizons, train_on_hosts, evaluate, Plan, sweep), penalties
(compute_penalty, penalties, measure_multiplier, frontier), hardware (chip, chips, export_control, estimate_training, estimate_inference, utilisation), InputError, and
the package `diffusion`.
They load on first use, so that asking for a penalty does not import Flax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scaling import diffusion as diffusion
    from scaling.branches import train_horizons as train_horizons
    from scaling.devices import one_device_per_core as one_device_per_core
    from scaling.engines.hosts import train_on_hosts as train_on_hosts
    from scaling.ensembles import train_many as train_many
    from scaling.errors import InputError as InputError
    from scaling.finished import evaluate as evaluate
    from scaling.hardware.chips import Chip as Chip
    from scaling.hardware.estimate import Estimate as Estimate
    from scaling.hardware.estimate import estimate_training as estimate_training
    from scaling.hardware.export_rules import Verdict as Verdict
    from scaling.hardware.export_rules import export_control as export_control
    from scaling.hardware.inference import Inference as Inference
    from scaling.hardware.inference import estimate_inference as estimate_inference
    from scaling.hardware.library import chip as chip
    from scaling.hardware.library import chips as chips
    from scaling.hardware.utilisation import utilisation as utilisation
    from scaling.measured import Measurement as Measurement
    from scaling.measurement import measure_multiplier as measure_multiplier
    from scaling.outlook.frontiers import Frontier as Frontier
    from scaling.outlook.frontiers import frontier as frontier
    from scaling.penalty import Penalty as Penalty
    from scaling.penalty import compute_penalty as compute_penalty
    from scaling.penalty_batch import Penalties as Penalties
    from scaling.penalty_batch import penalties as penalties
    from scaling.plan import Plan as Plan
    from scaling.run import RunConfig as RunConfig
    from scaling.run import RunRecord as RunRecord
    from scaling.sweeps import sweep as sweep
    from scaling.training import train as train

_HOME = {
    "InputError": "scaling.errors",
    "Chip": "scaling.hardware.chips",
    "Estimate": "scaling.hardware.estimate",
    "estimate_training": "scaling.hardware.estimate",
    "Inference": "scaling.hardware.inference",
    "estimate_inference": "scaling.hardware.inference",
    "chip": "scaling.hardware.library",
    "chips": "scaling.hardware.library",
    "Verdict": "scaling.hardware.export_rules",
    "export_control": "scaling.hardware.export_rules",
    "utilisation": "scaling.hardware.utilisation",
    "Measurement": "scaling.measured",
    "measure_multiplier": "scaling.measurement",
    "Frontier": "scaling.outlook.frontiers",
    "frontier": "scaling.outlook.frontiers",
    "Penalty": "scaling.penalty",
    "Penalties": "scaling.penalty_batch",
    "compute_penalty": "scaling.penalty",
    "penalties": "scaling.penalty_batch",
    "RunConfig": "scaling.run",
    "RunRecord": "scaling.run",
    "Plan": "scaling.plan",
    "sweep": "scaling.sweeps",
    "train": "scaling.training",
    "train_horizons": "scaling.branches",
    "train_many": "scaling.ensembles",
    "train_on_hosts": "scaling.engines.hosts",
    "evaluate": "scaling.finished",
    "one_device_per_core": "scaling.devices",
}
__all__ = [*_HOME, "diffusion"]


def __getattr__(name: str) -> object:
    if name == "diffusion":
        return importlib.import_module("scaling.diffusion")
    if name not in _HOME:
        raise AttributeError(f"module 'scaling' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
