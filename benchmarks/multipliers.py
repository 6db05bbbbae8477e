"""What each way of working is worth in compute, on this project's own runs: `python benchmarks/multipliers.py [--time]`.

Every arm of fits/own/runs.csv, and of results/duplicates.csv, beside the dense runs of the same width, budget and seed. A multiplier above 1 means that the arm needs less compute for
the same loss. Hours are kept apart from FLOP: `--time` first measures steps of every arm on this machine, one core, in turns with the dense model's, and
writes benchmarks/results/step_times.csv. Published values are evaluated from the curves of `fits`, at the scale that the line says.
Writes benchmarks/results/multipliers.csv and prints the tables as Markdown.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
from own import LADDER
from published_multipliers import PUBLISHED

import fits
from scaling.measured import Measurement
from scaling.measurement import measure_multiplier

RESULTS = Path(__file__).parent / "results"
MOST_EPOCHS = 50  # the four runs beyond, of 82 and 151 epochs, have learnt their few bytes by heart: at 4.7 and 5.7 nats their multipliers are below 1/1000
PARTS = ("positions", "norm", "qk", "activation")
ARMS = {
    "moe4": "4 experts, top 2",
    "moe8": "8 experts, top 2",
    "moe16": "16 experts, top 2",
    "moe32": "32 experts, top 2",
    "moe64": "64 experts, top 2",
    "moe8-fine2": "16 half-sized experts, top 4",
    "moe8-fine4": "32 quarter-sized experts, top 8",
    "bf16": "bf16 products",
    "fp8": "fp8 products",
    "int8": "int8 weights and activations",
    "int4": "int4 weights and activations",
    "w6": "6-bit weights",
    "w4": "4-bit weights",
    "w3": "3-bit weights",
    "muon": "Muon at twice Adam's rate",
    "muon-slow": "Muon at Adam's rate",
    "laggard": "learned positions, LayerNorm, no QK-norm, GELU",
    "cosine": "cosine in place of WSD",
    "no-decay": "constant rate, no decay",
    "unique-400k": "at most 410k unique bytes",
    "unique-100k": "at most 102k unique bytes",
    "unique-25k": "at most 26k unique bytes, to 3e11 FLOP",
    "duplicated": "half of the data 150k bytes, repeated",
    "distilled": "distilled, the teacher's cost left out",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", action="store_true", help="measure step times first (a quiet machine, ten minutes)")
    if parser.parse_args().time:
        from step_times import measure

        measure(RESULTS / "step_times.csv")
    runs = fits.own_runs()
    runs = comparable(runs[runs["corpus"].str.startswith("pd-prose")])
    dense = fits.own_runs(LADDER)
    curve = fits.fit("chinchilla", dense, bootstrap=400)
    table = pd.DataFrame(rows(runs, dense, curve))
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / "multipliers.csv", index=False, float_format="%.5g")
    print(markdown(table))
    print(shapley(runs, dense, curve))
    print(allocation(curve))


def rows(runs: pd.DataFrame, dense: pd.DataFrame, curve: fits.Curve) -> list[dict]:
    """One row for every arm that has runs."""
    times, found = step_times(), []
    duplicates = RESULTS / "duplicates.csv"
    for arm, what in ARMS.items():
        baseline, variant = dense, runs[runs["arm"] == arm]
        if arm == "duplicated" and duplicates.exists():
            both = pd.read_csv(duplicates).assign(corpus="pd-prose")  # all judged on the validation text of the prose
            baseline, variant = both[both["arm"] == "dense"], both[both["arm"] == arm]
        if variant.empty:
            continue
        measured = measure_multiplier(baseline, variant, pairs=True, curve=curve)
        found.append(row(arm, what, measured, times.get(arm, math.nan)))
    return found


def comparable(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of at most MOST_EPOCHS epochs."""
    return runs[runs["tokens"] <= MOST_EPOCHS * runs["unique_tokens"]]


def row(arm: str, what: str, measured: Measurement, slower: float) -> dict:
    """`hours`: the multiplier of time on this machine, which a step of the arm takes `slower` times as long for per FLOP."""
    value, low, high = measured.multiplier
    levels = {f"{line['baseline_flops']:.0e}": round(line["multiplier"], 3) for line in measured.levels.to_dict("records")}
    return {
        "arm": arm,
        "what": what,
        "pairs": measured.runs[1],
        "multiplier": value,
        "low": low,
        "high": high,
        "hours": value / slower,
        "hours_low": low / slower,
        "hours_high": high / slower,
        "per_decade": math.exp(measured.scale.value),
        "scale_p": measured.scale_p,
        "by_flops": json.dumps(levels),
        "published": PUBLISHED.get(arm, _none)(),
    }


def _none() -> str:
    return "none found"


def step_times() -> dict[str, float]:
    """Seconds a FLOP of each arm over those of the dense model of the same width, where they were measured."""
    path = RESULTS / "step_times.csv"
    return {} if not path.exists() else dict(pd.read_csv(path).groupby("arm")["slower"].median())


def markdown(table: pd.DataFrame) -> str:
    lines = [
        "| arm | pairs | compute multiplier, 95% | by FLOP of the run | a decade of compute multiplies it by | in hours here | published |",
        "|---" * 7 + "|",
    ]
    for each in table.to_dict("records"):
        hours = "" if math.isnan(each["hours"]) else f"{each['hours']:.2f} ({each['hours_low']:.2f}-{each['hours_high']:.2f})"
        levels = ", ".join(f"{at}: {value:g}" for at, value in json.loads(each["by_flops"]).items())
        slope = "" if math.isnan(each["per_decade"]) else f"{each['per_decade']:.2f} (p {each['scale_p']:.2g})"
        lines.append(
            f"| {each['what']} | {each['pairs']} | {each['multiplier']:.2f} ({each['low']:.2f}-{each['high']:.2f}) | {levels} | {slope} | {hours} | {each['published']} |"
        )
    return "\n".join(lines)


def shapley(runs: pd.DataFrame, dense: pd.DataFrame, curve: fits.Curve) -> str:
    """The laggard's penalty split over its parts, the mean over all orders of taking them on: logs add up, so factors multiply up."""
    logs = {(): np.zeros(1)}
    seeds: list[int] = sorted(set(runs.loc[runs["arm"].str.startswith("laggard:"), "seed"]))
    for count in range(1, len(PARTS) + 1):
        for parts in itertools.combinations(PARTS, count):
            variant = runs[runs["arm"] == "laggard:" + "+".join(parts)]
            if len(parts) == len(PARTS) and variant.empty:
                variant = runs[(runs["arm"] == "laggard") & runs["budget"].isin([3e11])]
            if variant.empty:
                return "Shapley split: runs are missing (benchmarks/plans/laggard.toml)"
            each = [measure_multiplier(dense, variant[variant["seed"] == seed], pairs=True, curve=curve).multiplier.value for seed in seeds]
            logs[parts] = -np.log(each)
    shares = {part: _shapley(part, logs) for part in PARTS}
    whole = logs[PARTS]
    lines = ["| part of the laggard's recipe | penalty, free of order | seed by seed | alone | last |", "|---|---|---|---|---|"]
    for part, share in shares.items():
        rest = tuple(each for each in PARTS if each != part)
        single, last = np.exp(logs[(part,)].mean()), np.exp((whole - logs[rest]).mean())
        lines.append(
            f"| {part} | {np.exp(share.mean()):.2f} | {', '.join(f'{each:.2f}' for each in np.exp(share))} | {single:.2f} | {last:.2f} |"
        )
    lines.append(f"| all | {np.exp(whole.mean()):.2f} | {', '.join(f'{each:.2f}' for each in np.exp(whole))} | | |")
    return "\n".join(lines)


def _shapley(part: str, logs: dict[tuple[str, ...], np.ndarray]) -> np.ndarray:
    others, total = [each for each in PARTS if each != part], 0.0
    for count in range(len(others) + 1):
        weight = math.factorial(count) * math.factorial(len(PARTS) - count - 1) / math.factorial(len(PARTS))
        for subset in itertools.combinations(others, count):
            joined = tuple(each for each in PARTS if each in (*subset, part))
            total = total + weight * (logs[joined] - logs[subset])
    return np.asarray(total)


def allocation(curve: fits.Curve, flops: float = 1e12) -> str:
    """What a wrong size costs at equal loss: penalties of the dense law, with its draws."""
    from scaling import compute_penalty, penalties

    lines = ["| size over its optimum | penalty at 1e12 FLOP, 95% |", "|---|---|"]
    for error in (0.25, 0.5, 2.0, 4.0):
        value = compute_penalty(curve, flops=flops, allocation_error=error).value
        draws = penalties(curve, flops=flops, allocation_error=error, draws=True).value
        low, high = np.quantile(draws, [0.025, 0.975])
        lines.append(f"| {error:g} | {value:.2f} ({low:.2f}-{high:.2f}) |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
