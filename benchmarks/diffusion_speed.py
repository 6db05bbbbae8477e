"""Speed of the diffusion simulator: `python benchmarks/diffusion_speed.py [--worlds N] [--actors N] [--years N]`.

Quarters, a Pareto population behind two named actors, dissemination, limited data, and every world with a law of its own, so that its deficits are
tabulated for it. Compilation apart; then the cost at half and double the worlds and actors. The machines that run this are noisy: CPU seconds of the
process are printed beside wall time.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Any

import numpy as np
from speed import machine

import fits
from scaling.diffusion import monte_carlo
from scaling.diffusion.actors import build
from scaling.diffusion.scenario import read_scenario
from scaling.diffusion.worlds import Runs

REPEATS = 3


def scenario(actors: int, years: float) -> dict[str, Any]:
    """The scenario that is timed."""
    follower = {
        "name": "second",
        "budget_usd": 2e7,
        "structure": 2.0,
        "data": 2.0,
        "dissemination": 0.8,
        "algorithm_gap": 4.0,
        "budget_growth": 1.8,
    }
    crowd = {"name": "crowd", "distribution": "pareto", "count": actors - 2, "least_usd": 1e5, "exponent": 1.0, "budget_growth": 1.3}
    spreads = {
        "trends.algorithms": 0.2,
        "trends.price_performance": 0.1,
        "trends.unique_tokens": 0.5,
        "actors.second.structure": 0.25,
        "actors.second.data": 0.25,
        "populations.crowd.structure": 0.2,
        "capabilities.1e28": 0.3,
    }
    return {
        "name": "speed",
        "start": 2023.0,
        "end": 2023.0 + years,
        "trends": {"unique_tokens": 3e14},
        "actors": [{"name": "leader", "budget_usd": 1e8, "budget_growth": 2.0}, follower],
        "populations": [crowd | {"structure": 1.5, "dissemination": 1.0, "algorithm_gap": 3.0}],
        "capabilities": [{"name": "1e28", "effective_flops": 1e28}],
        "uncertainty": {"parameters": {path: {"sd": sd} for path, sd in spreads.items()}},
    }


class Timed:
    """A scenario of so many actors, ready to run any number of worlds."""

    def __init__(self, actors: int, years: float, precision: str):
        chosen = read_scenario(scenario(actors, years))
        self.curve, self.precision = fits.load(chosen.curve), precision
        self.model = monte_carlo.model(chosen, build(chosen), self.curve)

    def run(self, worlds: int) -> tuple[Runs, float, float]:
        """The runs, and the wall and CPU seconds of it: draws, tables and simulation."""
        started, used = time.perf_counter(), time.process_time()
        z = monte_carlo.quasi_random(self.model.parameters, worlds, 0)
        constants = np.repeat(self.curve.vector[None], worlds, axis=0)
        constants[:, 3:] *= np.exp(0.03 * np.random.default_rng(0).standard_normal((worlds, 2)))
        found = monte_carlo.run(self.model, z, law=monte_carlo.law_of(self.curve, 0.5, constants), precision=self.precision)
        return found, time.perf_counter() - started, time.process_time() - used

    def median(self, worlds: int) -> tuple[float, float]:
        """Median wall and CPU seconds."""
        seconds = [self.run(worlds)[1:] for _ in range(REPEATS)]
        return float(np.median([wall for wall, _ in seconds])), float(np.median([cpu for _, cpu in seconds]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=100_000)
    parser.add_argument("--actors", type=int, default=200)
    parser.add_argument("--years", type=float, default=20.0)
    parser.add_argument("--precision", choices=("float32", "float64"), default="float32")
    chosen = parser.parse_args()
    print(machine())
    timed = Timed(chosen.actors, chosen.years, chosen.precision)
    steps = int(4 * chosen.years) + 1
    _, cold, _ = timed.run(2 * monte_carlo.CHUNK_ELEMENTS // chosen.actors + 1)
    print(f"diffusion, {chosen.precision}: {chosen.actors} actors, {steps} dates; first call, compilation in: {cold:.2f} s")
    found, wall, cpu = timed.run(chosen.worlds)
    reached = np.isfinite(found.reached).mean()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rate = chosen.worlds * chosen.actors * steps / cpu / 1e6
    print(
        f"  {chosen.worlds} worlds, warm: {wall:.1f} s wall, {cpu:.1f} s of CPU, {rate:.0f}M actor-dates a CPU second; peak memory {peak:.2f} GiB"
    )
    print(f"  {reached:.1%} of actors reach the capability")
    del found
    _linear(timed, chosen.worlds, chosen.actors, chosen.years, chosen.precision)
    _precision(chosen.actors, chosen.years)


def _linear(timed: Timed, worlds: int, actors: int, years: float, precision: str) -> None:
    part = max(worlds // 10, 1)
    rows = [(f"{count} worlds, {actors} actors", *timed.median(count)) for count in (part // 2, part, 2 * part)]
    for count in (actors // 2, 2 * actors):
        other = Timed(count, years, precision)
        other.run(2 * monte_carlo.CHUNK_ELEMENTS // count + 1)
        rows.append((f"{part} worlds, {count} actors", *other.median(part)))
    base = rows[1]
    for label, wall, cpu in rows:
        print(f"  {label}: {wall:.2f} s wall, {cpu:.2f} s of CPU, {cpu / base[2]:.2f} of the CPU time of {base[0]}")


def _precision(actors: int, years: float) -> None:
    """How far single precision is off: dates of access against double precision."""
    single, double = (Timed(actors, years, precision).run(512)[0].reached for precision in ("float32", "float64"))
    both = np.isfinite(single) & np.isfinite(double)
    print(f"  single against double precision: dates of access differ by at most {np.abs(single - double)[both].max():.1e} years")


if __name__ == "__main__":
    main()
