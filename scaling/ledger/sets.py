"""All sets of a scenario's steps: how each is set up, what it takes, and draws of the logarithms of its hours and dollars."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from scaling.hardware.architecture import Architecture, divisible, from_params, preset
from scaling.hardware.library import chip as find_chip
from scaling.ledger.by_law import active_params
from scaling.ledger.effects import Effect, effect, middle
from scaling.ledger.scenario import ArchitectureStep, ChipStep, Scenario
from scaling.ledger.setups import Outcome, Setup, Timer, usd_per_chip_hour

FIELD = {
    "chip": "chip",
    "architecture": "model",
    "format": "format",
    "quantisation": "optimizer_bytes",
    "memory": "memory_gb",
    "rdma": "network_gbps",
    "zero": "zero",
    "peer-to-peer": "peer_to_peer",
    "framework": "framework",
}


@dataclasses.dataclass(frozen=True)
class Sets:
    """The sets of steps (bit i is step i), with what each takes. `effects` are None for steps that leave what is computed as it is."""

    scenario: Scenario
    effects: list[Effect | None]
    setups: list[Setup]
    outcomes: list[Outcome]
    slow_network: list[tuple[Outcome, Outcome]] | None  # at the ends of an assumed range of the network
    rates: list[float]  # dollars a chip-hour

    @property
    def possible(self) -> np.ndarray:
        """Which sets can be run."""
        return np.array([outcome.estimate is not None for outcome in self.outcomes])

    @property
    def log_hours(self) -> np.ndarray:
        """ln of the central hours; 0 where impossible."""
        return np.array([math.log(each.hours * self._more_compute(at)) if each.estimate else 0.0 for at, each in enumerate(self.outcomes)])

    @property
    def log_usd(self) -> np.ndarray:
        """ln of the central dollars."""
        return self.log_hours + np.log([setup.chips for setup in self.setups]) + np.log(self.rates)

    def _more_compute(self, at: int) -> float:
        """Factor of compute by the multipliers of the set's steps; that of the architecture is in the size of the dense model."""
        factor = 1.0
        for place, (step, each) in enumerate(zip(self.scenario.steps, self.effects, strict=True)):
            if each is not None and at >> place & 1 and not isinstance(step, ArchitectureStep):
                factor /= each.value
        return factor


def sets(scenario: Scenario) -> Sets:
    """Sets up and times every set of a scenario's steps. Raises InputError for what no hardware model or law can answer."""
    architecture = next((step for step in scenario.steps if isinstance(step, ArchitectureStep)), None)
    base = scenario.baseline
    target = preset(architecture.model if architecture else str(base.model))
    tokens = float(architecture.tokens if architecture else base.tokens or 0.0)
    effects = [effect(step, target, tokens) for step in scenario.steps]
    first = _baseline(scenario, target, tokens, effects)
    setups = [_after(first, scenario, at, target, tokens) for at in range(1 << len(scenario.steps))]
    timer = Timer({setup.zero for setup in setups})
    outcomes = [timer.outcome(setup) for setup in setups]
    ends = base.network_gbps or ()
    slow = None
    if len(ends) > 1:
        slow = [
            _at_ends(timer, setup, (ends[0], ends[-1])) if not _has(scenario, at, "rdma") else (outcomes[at], outcomes[at])
            for at, setup in enumerate(setups)
        ]
    prices = {find_chip(name).name: middle(value) for name, value in scenario.prices.items()}
    by_chip = {setup.chip: usd_per_chip_hour(setup.chip, base.dollars, prices.get(setup.chip.name)) for setup in setups}
    return Sets(scenario, effects, setups, outcomes, slow, [by_chip[setup.chip] for setup in setups])


def _at_ends(timer: Timer, setup: Setup, ends: tuple[float, float]) -> tuple[Outcome, Outcome]:
    low, high = (timer.outcome(dataclasses.replace(setup, network_gbps=end)) for end in ends)
    return low, high


def _has(scenario: Scenario, at: int, change: str) -> bool:
    return any(step.change == change and at >> place & 1 for place, step in enumerate(scenario.steps))


def _baseline(scenario: Scenario, target: Architecture, tokens: float, effects: list[Effect | None]) -> Setup:
    base = scenario.baseline
    chip = find_chip(base.chip)
    model, seen = target, tokens
    for step, each in zip(scenario.steps, effects, strict=True):
        if isinstance(step, ArchitectureStep) and each is not None:
            model = dense_like(target, each.value)
            # The shape is rounded to whole layers: the tokens make its compute what the multiplier says.
            seen = tokens * each.value * active_params(target) / active_params(model)
    return Setup(
        chip=chip,
        chips=base.chips,
        model=model,
        tokens=seen,
        format=base.format,
        sequence=base.sequence,
        batch=base.batch,
        network_gbps=middle(base.network_gbps) if base.network_gbps else None,
        zero=base.zero,
        peer_to_peer=False if _has(scenario, -1, "peer-to-peer") else base.peer_to_peer,
        framework=base.framework,
        memory_gb=chip.mem_gb if _has(scenario, -1, "memory") else None,
    )


def dense_like(target: Architecture, multiplier: float) -> Architecture:
    """A dense shape of `multiplier` times the target's active parameters, embeddings apart, with its vocabulary."""
    wanted = multiplier * active_params(target)
    embeddings = 2 * target.vocab * from_params(wanted, target.vocab).width
    return divisible(wanted + embeddings, target.vocab)


def _after(setup: Setup, scenario: Scenario, at: int, target: Architecture, tokens: float) -> Setup:
    """The setup after the steps of a set."""
    for place, step in enumerate(scenario.steps):
        if not at >> place & 1:
            continue
        if isinstance(step, ChipStep):
            setup = dataclasses.replace(setup, chip=find_chip(step.to), chips=step.chips or setup.chips)
        elif isinstance(step, ArchitectureStep):
            setup = dataclasses.replace(setup, model=target, tokens=tokens)
        else:
            setup = dataclasses.replace(setup, **{FIELD[step.change]: _value(step)})
    return setup


def _value(step: Any) -> Any:
    """What a step of one field sets it to."""
    if step.change == "memory":
        return None
    if step.change == "peer-to-peer":
        return True
    return getattr(step, {"rdma": "gbps", "zero": "stage", "quantisation": "optimizer_bytes"}.get(step.change, "to"))


def impossible(found: Sets, at: int) -> str:
    """Why a set is impossible, with its steps named."""
    names = [step.change for place, step in enumerate(found.scenario.steps) if at >> place & 1]
    return f"{' + '.join(names) or 'the baseline'}: {found.outcomes[at].reason}"
