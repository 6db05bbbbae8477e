"""An explicit formula with priors, fitted by the project's solver (`fits.solve`): its constants are positive, its output is compared in logs.

Priors are pseudo-rows: one a constant, whose residual is the constant's distance from its prior in spreads of that prior.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Priors = Mapping[str, tuple[float, float]]  # name: (value, spread of its logarithm)
REACH = 4.0  # spreads of the prior that bound a constant


class Solver:
    """Fits `function(constants, columns)` to tables of one set of columns, with one compiled program.

    noise: spread of a row's log residual; robust: how many of them count quadratically (Huber).
    """

    def __init__(
        self,
        function: Callable[[Mapping[str, Any], Mapping[str, Any]], Any],
        priors: Priors,
        columns: Sequence[str],
        *,
        noise: float,
        robust: float,
    ) -> None:
        import jax.numpy as jnp

        from fits.laws.base import Law, Parameter
        from fits.objectives import objective

        self.names, self.columns = list(priors), list(columns)
        centre = np.log([priors[name][0] for name in self.names])
        spread = np.array([priors[name][1] for name in self.names])

        def with_priors(constants: Mapping[str, Any], row: Mapping[str, Any]) -> Any:
            which = jnp.maximum(row["prior"], 0).astype(int)
            logs = jnp.log(jnp.stack([constants[name] for name in self.names]))
            pulled = jnp.exp((logs[which] - jnp.asarray(centre)[which]) * jnp.asarray(noise / spread)[which])
            return jnp.where(row["prior"] >= 0, pulled, function(constants, row) * jnp.exp(row["offset"]))

        self.law = Law(
            name="explicit formula with priors",
            formula="of the caller",
            function=with_priors,
            parameters=tuple(
                Parameter(name, low=value * np.exp(-REACH * width), high=value * np.exp(REACH * width), log=True, starts=(value, value))
                for name, (value, width) in priors.items()
            ),
            inputs=(*self.columns, "offset", "prior"),
            output="output",
        )
        self.objective = objective("log-huber", robust * noise)

    def fit(
        self,
        columns: Mapping[str, np.ndarray],
        output: np.ndarray,
        weights: np.ndarray,
        start: Mapping[str, float],
        offset: np.ndarray | None = None,
    ) -> dict[str, float]:
        """The constants that fit `output` times exp(-offset), searched from `start`."""
        from fits.laws.base import to_constants, to_theta
        from fits.problems import Problem
        from fits.solve import minimise

        count = len(self.names)
        shift = np.zeros(len(output)) if offset is None else offset
        rows = np.column_stack([*(columns[name] for name in self.columns), shift, -np.ones(len(output))])
        priors = np.repeat(rows[:1], count, axis=0)
        priors[:, -1] = np.arange(count)
        low, high = (to_theta(self.law, np.array([getattr(each, side) for each in self.law.parameters])) for side in ("low", "high"))
        problem = Problem(self.law, self.objective, np.concatenate([rows, priors]), np.concatenate([output, np.ones(count)]), low, high)
        begin = to_theta(self.law, np.array([start[name] for name in self.names]))[None]
        all_weights = np.concatenate([weights, np.ones(count)])[None]
        found = minimise(problem, begin, all_weights, first_delta=self.objective.delta, describe=False)
        return dict(zip(self.names, map(float, to_constants(self.law, found.theta[0])), strict=True))
