"""How often 95% intervals hold the truth: `python benchmarks/coverage.py [--replicates 2000] [--only PART]`.

Tables of a planted Chinchilla law, over and over with fresh noise, on square-like grids of 9, 25 and 240 runs (params 1e7 to 1e10, tokens 1e9 to 1e12).
Noise of log loss: normal of one size; normal and four times as large for the smallest models as for the largest; Student's t with three degrees of freedom.
Quantities: alpha, beta, E and the logarithm of the compute for a loss of 1.9 nats, 1.5e25 FLOP, which is beyond most of the grid.
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from fits import frontier, problems, profile, solve
from fits.laws.base import to_constants, to_theta
from fits.laws.chinchilla import CHINCHILLA
from fits.objectives import objective
from fits.quantities import Quantity

TRUTH = np.array([1.8, 450.0, 2000.0, 0.35, 0.37])
DESIGNS = {9: (3, 3), 25: (5, 5), 240: (16, 15)}
NOISES = ("normal", "uneven", "heavy")
SIZE = 5e-3  # standard deviation of log loss
LOSS = 1.9
RESAMPLES = 400
PART = 2**22

QUANTITIES = {name: Quantity(CHINCHILLA, "constant", name=name) for name in ("alpha", "beta", "E")} | {
    "log compute": Quantity(CHINCHILLA, "compute", at=LOSS)
}


def planted(rows: int, goal: str, noise: str, replicates: int, seed: int) -> tuple[problems.Problem, np.ndarray]:
    """The design as a problem, and noisy targets (replicates, rows)."""
    across, along = DESIGNS[rows]
    params, tokens = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e10, across), np.geomspace(1e9, 1e12, along)))
    loss = CHINCHILLA.evaluate(TRUTH, {"params": params, "tokens": tokens})
    low, high = (to_theta(CHINCHILLA, np.array([getattr(p, end) for p in CHINCHILLA.parameters])) for end in ("low", "high"))
    problem = problems.Problem(CHINCHILLA, objective(goal), np.stack([params, tokens], axis=1), loss, low, high)
    generator = np.random.default_rng(seed)
    shape = (replicates, rows)
    if noise == "heavy":
        return problem, problem.observed + SIZE * generator.standard_t(3, shape)
    spread = np.geomspace(2.0, 0.5, across)[np.searchsorted(np.geomspace(1e7, 1e10, across), params * 0.999)] if noise == "uneven" else 1.0
    return problem, problem.observed + SIZE * spread * generator.standard_normal(shape)


def truths() -> dict[str, float]:
    """The quantities at the planted constants, as logarithms where they are profiled so."""
    with jax.enable_x64(True):
        theta = jnp.asarray(to_theta(CHINCHILLA, TRUTH))
        return {name: float(quantity(theta)) for name, quantity in QUANTITIES.items()}


def coverage(
    rows: int, goal: str, noise: str, replicates: int, seed: int = 1, methods: tuple[str, ...] = ("profile", "rows", "wild")
) -> pd.DataFrame:
    """Shares of replicates whose interval holds the truth, lies above it, lies below it, or is open; a row a method and quantity."""
    problem, observed = planted(rows, goal, noise, replicates, seed)
    start = np.tile(to_theta(CHINCHILLA, TRUTH), (replicates, 1))
    minima = solve.minimise(problem, start, np.ones((1, rows)), observed=observed, first_delta=3 * SIZE)
    assert solve.certified(minima, rows).mean() > 0.99
    found = []
    for method in methods:
        if method == "profile":
            ends = {
                name: profile.intervals(problem, minima.theta, np.ones(rows), observed, each, 0.95) for name, each in QUANTITIES.items()
            }
            bounds = {name: (end.low, end.high) for name, end in ends.items()}
        else:
            bounds = _percentiles(problem, minima.theta, observed, method, seed)
        for name, truth in truths().items():
            low, high = bounds[name]
            is_open = ~(np.isfinite(low) & np.isfinite(high))
            shares = {"holds": (low <= truth) & (truth <= high), "above": low > truth, "below": high < truth, "open": is_open}
            found.append(
                {"rows": rows, "objective": goal, "noise": noise, "method": method, "quantity": name}
                | {k: v.mean() for k, v in shares.items()}
            )
    return pd.DataFrame(found)


def _percentiles(
    problem: problems.Problem, theta: np.ndarray, observed: np.ndarray, method: str, seed: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Percentile intervals of the bootstrap of every replicate; replicates are refitted together, as many as memory should hold."""
    replicates, rows = observed.shape
    generator = np.random.default_rng(seed + 1)
    low, high = ({name: np.empty(replicates) for name in QUANTITIES} for _ in range(2))
    for first in range(0, replicates, max(1, PART // rows // RESAMPLES)):
        part = np.arange(first, min(replicates, first + max(1, PART // rows // RESAMPLES)))
        weights, targets = _resample(problem, theta[part], observed[part], method, generator)
        begin = np.repeat(theta[part], RESAMPLES, axis=0)
        ends = solve.minimise(problem, begin, weights, observed=targets, first_delta=3 * SIZE, describe=False).theta
        constants = to_constants(CHINCHILLA, ends)
        values = dict(zip(("E", "A", "B", "alpha", "beta"), constants.T, strict=True)) | {"E": ends[:, 0]}
        with np.errstate(divide="ignore"):
            values["log compute"] = np.log(frontier.product_for(CHINCHILLA, constants, LOSS))
        for name in QUANTITIES:
            table = values[name].reshape(len(part), RESAMPLES)
            low[name][part], high[name][part] = np.quantile(table, [0.025, 0.975], axis=1, method="inverted_cdf")
    return {name: (low[name], high[name]) for name in QUANTITIES}


def _resample(
    problem: problems.Problem, theta: np.ndarray, observed: np.ndarray, method: str, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    rows = observed.shape[1]
    if method == "rows":
        weights = generator.multinomial(rows, np.full(rows, 1 / rows), size=len(theta) * RESAMPLES).astype(float)
        return weights, np.repeat(observed, RESAMPLES, axis=0)
    targets = []
    for ours, seen in zip(theta, observed, strict=True):
        residual = seen - (problem.observed - problems.residuals(problem, ours))
        jacobian = problems.jacobian(problem, ours)
        left, _, _ = np.linalg.svd(jacobian / np.linalg.norm(jacobian, axis=0), full_matrices=False)
        enlarged = residual / (1 - np.minimum(np.sum(left**2, axis=1), 0.95))
        targets.append(seen - residual + generator.choice([-1.0, 1.0], size=(RESAMPLES, rows)) * enlarged)
    return np.ones((1, rows)), np.concatenate(targets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=2000)
    parser.add_argument("--rows", type=int, nargs="*", default=list(DESIGNS))
    parser.add_argument("--noise", nargs="*", default=list(NOISES))
    parser.add_argument("--objective", nargs="*", default=["log-huber", "log-squared"])
    parser.add_argument("--methods", nargs="*", default=["profile", "rows", "wild"])
    chosen = parser.parse_args()
    print("| rows | objective | noise | method | " + " | ".join(QUANTITIES) + " | open | seconds |")
    print("|---|---|---|---|" + "---|" * (len(QUANTITIES) + 2))
    for rows in chosen.rows:
        for goal in chosen.objective:
            for noise in chosen.noise:
                for method in chosen.methods:
                    started = time.perf_counter()
                    table = coverage(rows, goal, noise, chosen.replicates, methods=(method,)).set_index("quantity")
                    shares = " | ".join(f"{table.loc[name, 'holds']:.3f}" for name in QUANTITIES)
                    print(
                        f"| {rows} | {goal} | {noise} | {method} | {shares} | {table['open'].max():.3f} | {time.perf_counter() - started:.0f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
