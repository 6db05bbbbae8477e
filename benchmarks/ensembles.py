"""Many small models at once against one by one: `python benchmarks/ensembles.py [--one-thread]`. About two minutes on two cores.

Both ways are what `scaling` does: `train_many`'s compiled call, which trains all members, and `train`'s, once for each member; same
process, same steps of same tokens, many steps a call, compilation apart, turns taken, medians. `--one-thread` gives XLA's CPU backend one
thread, as a sweep's workers have. Runs on one device, as it is, whatever that device is.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time

import jax
import jax.numpy as jnp
import numpy as np

import models
from scaling import step
from scaling.devices import ONE_THREAD, device_name, threads
from scaling.ensembles import Ensemble, member_jobs
from scaling.run import RunConfig
from scaling.training import Job, Run

WIDTHS, MEMBERS = (16, 32, 64), (4, 8, 16)
CONTEXT, BATCH, TOKENS = 128, 4, 10**6
REPEATS, SECONDS, FEWEST_STEPS = 3, 1.0, 4  # a timed turn takes about SECONDS one by one, and at least FEWEST_STEPS


def new_jobs(width: int, members: int, corpus: str) -> list[Job]:
    base = RunConfig(models.ladder(width, context=CONTEXT), TOKENS, corpus, batch=BATCH, micro_batch=BATCH)
    return member_jobs([dataclasses.replace(base, seed=seed) for seed in range(members)], devices=1)[0]


def lone_runs(jobs: list[Job]) -> list[Run]:
    """The members as runs that share a compiled program."""
    states = [step.initialise(job.static, jnp.int32(job.config.seed)) for job in jobs]
    compiled = step.train_steps.lower(jobs[0].static, states[0], jobs[0].data, jobs[0].hyper, jnp.int32(1)).compile()
    return [Run(job, compiled, state) for job, state in zip(jobs, states, strict=True)]


def rates(runs: list[Run], ensemble: Ensemble) -> tuple[float, float]:
    """Tokens per second of all members, one by one and together, timed in turns."""
    for way in (*runs, ensemble):  # the first call of a program is not like the others
        way.advance(way.done + FEWEST_STEPS)
    per_step = timed(runs, FEWEST_STEPS) / FEWEST_STEPS
    steps = int(np.clip(SECONDS / per_step, FEWEST_STEPS, step.STEPS_PER_CALL))
    seconds = np.array([(timed(runs, steps), timed([ensemble], steps)) for _ in range(REPEATS)])
    alone, together = len(runs) * steps * BATCH * CONTEXT / np.median(seconds, axis=0)
    return float(alone), float(together)


def timed(ways: list[Run] | list[Ensemble], steps: int) -> float:
    """Seconds that `steps` more steps of each of `ways` take, one after another."""
    started = time.perf_counter()
    for way in ways:
        way.advance(way.done + steps)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one-thread", action="store_true")
    parser.add_argument("--corpus", default="python-source")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--members", type=int, nargs="+", default=MEMBERS)
    arguments = parser.parse_args()
    if arguments.one_thread:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}".strip()
    platform = jax.devices()[0].platform
    where = f"{device_name()}, threads: {threads()}" if platform == "cpu" else device_name()
    print(f"{where}, jax {jax.__version__}; fp32, context {CONTEXT}, {BATCH} sequences a step, medians of {REPEATS} turns\n")
    print("| width | parameters | members | one by one, tokens/s | vmapped, tokens/s | ratio | compile one, s | compile vmapped, s |")
    print("|" + "---|" * 8)
    for width in arguments.widths:
        jobs = new_jobs(width, max(arguments.members), arguments.corpus)
        started = time.perf_counter()
        runs = lone_runs(jobs)
        compile_alone = time.perf_counter() - started
        for members in arguments.members:
            started = time.perf_counter()
            ensemble = Ensemble(jobs[:members])
            compile_together = time.perf_counter() - started
            alone, together = rates(runs[:members], ensemble)
            size = models.count_params(jobs[0].config.model).total
            print(
                f"| {width} | {size:,} | {members} | {alone:,.0f} | {together:,.0f} | {together / alone:.2f} |"
                f" {compile_alone:.1f} | {compile_together:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
