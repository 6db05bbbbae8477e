"""How far an estimate may be off: an 80% band whose width depends on what is known of a job, from cross-validated errors.

The scale of an error is exp(sum of weights of the job's traits); the band's ends are quantiles of the cross-validated errors over that scale
(conformal prediction with a scale, Lei et al. 2018, arXiv 1604.04173, section 5.2), weighted so that every group of rows counts once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from scaling.hardware.workload import Workload

LEVEL = 0.8
TRAITS = (
    "constant",
    "moe",
    "unknown_stack",
    "inferred_layout",
    "inferred_micro_batch",
    "inferred_recompute",
    "inferred_batch",
    "narrow",
    "consumer",
    "hours",
    "rare_chip",
)
LEAST, MOST = 0.04, 1.0  # scales beyond are not believed
# A chip or a stack that the fit never saw: errors are that much larger when all of its rows are left out (12.4% and 11.7% against 7.7%).
FLOORS = {"rare_chip": 0.45, "unknown_stack": 0.35}
SHRINK = 6.0  # groups that must speak for a trait before it counts half


@dataclasses.dataclass(frozen=True)
class Band:
    """Weights of the traits in the log of the scale, and the ends of the band in scales: log(actual / estimate)."""

    weights: dict[str, float]
    low: float
    high: float
    chips: tuple[str, ...]  # chips that the fit saw in several groups
    stacks: tuple[str, ...]

    def traits(self, work: Workload, inferred: Sequence[str]) -> np.ndarray:
        """The job's traits as numbers."""
        return traits(work, inferred, self.chips, self.stacks)

    def around(self, value: float, work: Workload, inferred: Sequence[str] = ()) -> tuple[float, float]:
        """The ends of the 80% band around an estimate of speed."""
        scale = scales(self.traits(work, inferred)[None], np.array([self.weights[name] for name in TRAITS]))[0]
        return value * float(np.exp(self.low * scale)), value * float(np.exp(self.high * scale))

    def as_dict(self) -> dict[str, Any]:
        """What a constants file holds."""
        return dataclasses.asdict(self) | {"weights": {name: round(value, 4) for name, value in self.weights.items()}, "level": LEVEL}

    @staticmethod
    def from_dict(body: dict[str, Any]) -> Band:
        """The inverse of `as_dict`."""
        return Band(body["weights"], body["low"], body["high"], tuple(body["chips"]), tuple(body["stacks"]))


def traits(work: Workload, inferred: Sequence[str], chips: Sequence[str], stacks: Sequence[str]) -> np.ndarray:
    """What the width of a band depends on."""
    return np.array(
        [
            1.0,
            bool(work.architecture.moe_layers),
            work.software.stack not in stacks,
            bool({"layout", "n_chips", "shape from params"} & {*inferred}),
            "micro_batch_seqs" in inferred,
            "recompute" in inferred,
            "global_batch_seqs" in inferred,
            work.bits < 16,
            work.device.generation == "consumer",
            work.measured_hours,
            work.device.name not in chips,
        ],
        float,
    )


def scales(traits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Scale of the error of every job."""
    return np.clip(np.exp(traits @ weights), LEAST, MOST)


def fit_weights(traits: np.ndarray, errors: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Weights of the traits from cross-validated log errors: shrunken regression of log |error| on the traits, a group counting once."""
    target = np.log(np.maximum(np.abs(errors), 0.01))
    normal = (traits * groups[:, None]).T @ traits
    ridge = np.full(traits.shape[1], SHRINK)
    ridge[0] = 1e-6
    centre = np.sum(groups * target) / groups.sum()
    shift = np.linalg.solve(normal + np.diag(ridge), (traits * groups[:, None]).T @ (target - centre))
    shift[0] += centre
    return np.maximum(shift, [FLOORS.get(name, -np.inf) for name in TRAITS])


def quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """Weighted quantile."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(np.searchsorted(reached, share), len(values) - 1)])


def ends(traits: np.ndarray, errors: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, float, float]:
    """(weights, low, high) from errors = log(actual / estimate)."""
    weights = fit_weights(traits, errors, groups)
    scaled = errors / scales(traits, weights)
    return weights, quantile(scaled, groups, (1 - LEVEL) / 2), quantile(scaled, groups, (1 + LEVEL) / 2)
