"""What an answer hangs on: exact gradients at the stated world, and Sobol indices over the uncertain parameters.

Gradients go through the whole simulation (forward mode): the change of a date, a window or a gap when a parameter's logarithm grows by one; of a
growth, the logarithm of its yearly rate. Sobol indices say how much of the variance over the draws a parameter explains alone (first) and with
all its interactions (total): estimators of Saltelli et al. 2010 and Jansen 1999, on quasi-random points.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling.diffusion.actors import Cast
from scaling.diffusion.channels import named_only
from scaling.diffusion.monte_carlo import Model, _moves, _names, _through_quantiles, law_of, points, run, simulated
from scaling.diffusion.scenario import Scenario
from scaling.diffusion.worlds import Runs, Spec

BASE_POINTS = 256
DECADE = math.log(10.0)


def labels(scenario: Scenario, cast: Cast) -> list[str]:
    """The outputs: first access to each capability, each follower's date of access, each follower's gap at the end."""
    followers = [cast.names[row] for row in cast.named if row != cast.leader]
    found = [f"{each.name}: years to first access" for each in scenario.capabilities]
    found += [f"{each.name}: years to access by {name}" for each in scenario.capabilities for name in followers]
    return found + [f"{name}: gap at the end, decades of effective compute" for name in followers]


def outputs(runs: Runs, spec: Spec) -> Any:
    """The same as numbers, (outputs, worlds)."""
    followers = jnp.array([row for row in range(len(spec.named)) if row != spec.leader], int)
    gaps = (runs.accessible[-1][spec.leader][None] - runs.accessible[-1][followers]) / DECADE
    dates = runs.reached[:, followers].reshape(-1, gaps.shape[-1])
    return jnp.concatenate([jnp.min(runs.reached, axis=1), dates, gaps])


def gradients(scenario: Scenario, cast: Cast, model: Model) -> list[dict[str, Any]]:
    """Of every output by every uncertain parameter; None where the output is infinite, or is reached at the start already."""
    alone = named_only(model)
    if not alone.parameters:
        return []
    with jax.enable_x64(True):
        centre = np.zeros(len(alone.parameters))
        arrays = jax.tree.map(np.asarray, (alone.fields, law_of(alone.curve, alone.data_share)))
        moves = _moves(alone.parameters, len(cast.named), len(alone.levels))
        still = (moves, alone.paths, alone.levels, alone.widths)
        values, slopes = jax.tree.map(np.asarray, _sloped(alone.spec, _names(alone.parameters), centre, *arrays, *still))
    rows = []
    for label, value, slope in zip(labels(scenario, cast), values, slopes, strict=True):
        known = math.isfinite(value) and not ("years" in label and value == 0)
        rows.append(
            {"output": label, "value": float(value)}
            | {each.path: float(number) if known else None for each, number in zip(alone.parameters, slope, strict=True)}
        )
    return rows


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sloped(spec: Spec, names: Any, centre: Any, fields: Any, law: Any, *still: Any) -> tuple[Any, Any]:
    def values(z: Any) -> tuple[Any, Any]:
        found = outputs(simulated(spec, names, fields, law, z[:, None], *still), spec)[:, 0]
        return found, found

    slopes, found = jax.jacfwd(values, has_aux=True)(centre)
    return found, slopes


def sobol(scenario: Scenario, cast: Cast, model: Model, base: int = BASE_POINTS) -> list[dict[str, Any]]:
    """First-order and total indices of every output. What is not reached by the end counts as reached at the end; None where nothing varies."""
    alone = named_only(model)
    count = len(alone.parameters)
    if not count:
        return []
    unit = points(2 * count, base, scenario.uncertainty.seed)
    a, b = (_through_quantiles(alone.parameters, part) for part in (unit[:, :count], unit[:, count:]))
    mixed = [np.where(np.arange(count)[:, None] == place, b, a) for place in range(count)]
    found = run(alone, np.concatenate([a, b, *mixed], axis=1))
    horizon = cast.dates[-1] - cast.dates[0]
    values = np.minimum(np.asarray(outputs(found, alone.spec)), np.inf)
    values = np.where(np.isfinite(values), values, horizon)
    fa, fb, *fm = np.split(values, 2 + count, axis=1)
    variance = np.var(np.concatenate([fa, fb], axis=1), axis=1)
    rows = []
    for place, label in enumerate(labels(scenario, cast)):
        known = variance[place] > 1e-20
        indices = {}
        for each, f in zip(alone.parameters, fm, strict=True):
            first = float(np.mean(fb[place] * (f[place] - fa[place])) / variance[place]) if known else None
            total = float(np.mean((fa[place] - f[place]) ** 2) / 2 / variance[place]) if known else None
            indices[each.path] = {"first": first, "total": total}
        rows.append({"output": label, "sd": float(np.sqrt(variance[place])), "indices": indices})
    return rows
