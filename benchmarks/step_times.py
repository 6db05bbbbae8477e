"""Seconds a FLOP of every arm over those of the dense model of the same width, on one core, in turns: what `multipliers.py --time` calls."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from scaling.engines.local import Worker
from scaling.plan import Plan
from scaling.run import RunConfig
from scaling.toml_files import read_toml

PLANS = Path(__file__).parent / "plans"
WIDTH, BUDGET, ROUNDS, SECONDS = 48, 3e11, 2, 1.0


def measure(path: Path) -> None:
    """Writes arm, round, FLOP a second, and how many times as long as the dense model a FLOP takes. The dense model is timed before and after every arm."""
    configs = [
        job.config
        for name in ("dense", "arms")
        for job in Plan(**read_toml(PLANS / f"{name}.toml")).jobs()
        if _wanted(job.config, job.budget)
    ]
    dense, arms = configs[0], configs[1:]
    rows = []
    with Worker() as worker:
        for place in range(ROUNDS):
            before = _rate(worker, dense)
            for config in arms:
                rate = _rate(worker, config)
                after = _rate(worker, dense)
                rows.append({"arm": config.arm, "round": place, "flops_per_second": rate, "slower": (before + after) / 2 / rate})
                before = after
                print(rows[-1], flush=True)
    path.parent.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False, float_format="%.4g")


def _wanted(config: RunConfig, budget: float) -> bool:
    return config.model.width == WIDTH and config.seed == 0 and budget == BUDGET


def _rate(worker: Worker, config: RunConfig) -> float:
    for answer in worker.ask({"measure": config.as_dict(), "seconds": SECONDS}):
        if "timing" in answer:
            return float(answer["timing"][0])
    raise RuntimeError(f"no timing of {config.arm}")
