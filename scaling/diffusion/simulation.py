"""`simulate`: a scenario in, who reaches what and when out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from scaling.diffusion import channels, outcomes, reading
from scaling.diffusion.actors import Cast, build, curve_of
from scaling.diffusion.monte_carlo import Model, law_of, model, points, quasi_random, run
from scaling.diffusion.scenario import Scenario, read_scenario
from scaling.diffusion.worlds import Runs
from scaling.errors import InputError


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The answer (`as_dict`, what `isoloss diffuse --json` prints) and what it was made from: `runs`, whose first world is the stated one, then the draws."""

    scenario: Scenario
    cast: Cast
    model: Model
    runs: Runs
    answer: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The answer."""
        return self.answer

    @property
    def drawn(self) -> slice:
        """The worlds that are draws; the stated one where there are none."""
        return slice(1, None) if self.scenario.uncertainty.draws else slice(0, 1)

    @property
    def reading(self) -> str:
        """The answer in a paragraph."""
        return self.answer["reading"]


def simulate(
    source: str | Path | dict[str, Any] | Scenario, *, draws: int | None = None, seed: int | None = None, sensitivities: bool = False
) -> Outcome:
    """Who reaches which capability when, in the stated world and over the draws of what is uncertain.

    `source`: a built-in name, a TOML file, or a dict of the same shape. `draws` and `seed` replace the file's. `sensitivities` adds gradients and
    Sobol indices. Raises InputError.
    """
    scenario = _with(read_scenario(source), draws, seed)
    curve = curve_of(scenario)
    cast = build(scenario)
    ready = model(scenario, cast, curve)
    runs = _runs(scenario, ready)
    drawn = slice(1, None) if scenario.uncertainty.draws else slice(0, 1)
    sets = channels.coalitions(ready, cast)
    answer: dict[str, Any] = {
        "scenario": scenario.name,
        "about": scenario.about,
        "start": scenario.start,
        "end": scenario.end,
        "leader": scenario.reference,
        "parties": len(cast.names),
        "curve": curve.name,
        "draws": scenario.uncertainty.draws,
        "seed": scenario.uncertainty.seed,
        "level": scenario.uncertainty.level,
        "capabilities": outcomes.access(scenario, cast, runs, drawn),
        "actors": outcomes.actors(scenario, cast, ready, runs, drawn),
        "channels": channels.attribute(sets, cast) if sets else [],
        "controls": channels.control_effects(sets, cast) if sets else [],
    }
    if sensitivities:
        from scaling.diffusion import sensitivities as hangs_on

        answer["sensitivities"] = {"gradients": hangs_on.gradients(scenario, cast, ready), "sobol": hangs_on.sobol(scenario, cast, ready)}
    answer["reading"] = reading.paragraph(answer)
    return Outcome(scenario, cast, ready, runs, answer)


def _with(scenario: Scenario, draws: int | None, seed: int | None) -> Scenario:
    if draws is not None and not 0 <= draws <= 1_000_000:
        raise InputError(f"diffuse: draws must lie between 0 and 1000000, got {draws}")
    if seed is not None and not 0 <= seed < 2**63:
        raise InputError(f"diffuse: seed must be 0 or more, got {seed}")
    changes = {name: value for name, value in (("draws", draws), ("seed", seed)) if value is not None}
    return scenario.model_copy(update={"uncertainty": scenario.uncertainty.model_copy(update=changes)})


def _runs(scenario: Scenario, ready: Model) -> Runs:
    """The stated world and the draws, in one batch."""
    uncertainty = scenario.uncertainty
    z = quasi_random(ready.parameters, uncertainty.draws, uncertainty.seed) if uncertainty.draws else np.zeros((len(ready.parameters), 0))
    z = np.concatenate([np.zeros((len(ready.parameters), 1)), z], axis=1)
    return run(ready, z, law=_laws(scenario, ready, z.shape[1]))


def _laws(scenario: Scenario, ready: Model, worlds: int) -> Any:
    """The law of each world: the curve's own, or draws of its constants after it."""
    curve = ready.curve
    if not scenario.uncertainty.law or worlds == 1:
        return law_of(curve, ready.data_share)
    if curve.draws is None:
        raise InputError(f"uncertainty.law: curve {curve.name} has no draws of its constants; take another curve or leave law at false")
    place = (points(1, worlds - 1, scenario.uncertainty.seed + 1)[:, 0] * len(curve.draws)).astype(int)
    return law_of(curve, ready.data_share, np.concatenate([curve.vector[None], curve.draws[place]]))
