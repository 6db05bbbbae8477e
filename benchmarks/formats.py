"""Loss against number format at equal tokens, three seeds: `python benchmarks/formats.py [--store FILE]`, about ten minutes on two cores.

Every format trains the same model on the same data in the same order; what a CPU has no units for is emulated to the bit. The second
table rounds the weights of the fp32 runs after training. Runs that are in the store are not made again.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

import numpy as np

import models
from models.precision import policy
from scaling import engines, sweeps
from scaling.data.corpora import load_corpus
from scaling.finished import evaluate
from scaling.progress import SweepProgress
from scaling.run import RunConfig, run_id
from scaling.store import Store
from scaling.training import train

FORMATS = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8", "int4", "w8a8c8", "w6a6c6", "w4a4c4", "w3a3c3", "w3", "we2m1", "we3m2-ae4m3")
SEEDS, WIDTH, CONTEXT, TOKENS = (0, 1, 2), 32, 64, 2**19
ROUNDED = ("w8", "w6", "w5", "w4", "w3", "we4m3", "we3m2", "we2m1")


def config(precision: str, seed: int, corpus: str) -> RunConfig:
    return RunConfig(models.ladder(WIDTH, context=CONTEXT), TOKENS, corpus, precision, seed, batch=8, micro_batch=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="formats.sqlite")
    store = Store(parser.parse_args().store)
    corpus = load_corpus("python-source").id
    configs = {(name, seed): config(name, seed, corpus) for name, seed in itertools.product(FORMATS, SEEDS)}
    ids = {cell: run_id(run, corpus, engines.WORKER_THREADS) for cell, run in configs.items()}
    sweeps.sweep(list(configs.values()), store.path, progress=SweepProgress())
    records = {record["run_id"]: record for record in store.records()}
    print(f"corpus {corpus}; width {WIDTH}, {TOKENS} tokens, {len(SEEDS)} seeds\n")
    print("| format | bits of weights, activations, cache | loss | over fp32, seed by seed | standard error | skipped steps | emulated |")
    print("|---|---|---|---|---|---|---|")
    base = np.array([records[ids["fp32", seed]]["loss"] for seed in SEEDS])
    for name in FORMATS:
        rows = [records[ids[name, seed]] for seed in SEEDS]
        losses = np.array([row["loss"] if row["status"] == "done" else np.nan for row in rows])
        excess, format_ = losses - base, policy(name)
        bits = ", ".join(f"{bits:g}" for bits in (format_.bits_weights, format_.bits_activations, format_.bits_cache))
        print(
            f"| {name} | {bits} | {losses.mean():.4f} | {excess.mean():+.4f} | {excess.std(ddof=1) / len(SEEDS) ** 0.5:.4f}"
            f" | {sum(row['skipped_steps'] for row in rows)} | {', '.join(rows[0]['emulated']) or 'no'} |"
        )
    print("\n| weights rounded after training to | loss | over fp32 | standard error |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / str(seed) for seed in SEEDS]
        own = [train(configs["fp32", seed], save=place).loss for seed, place in zip(SEEDS, places, strict=True)]
        for name in ROUNDED:
            losses = np.array([evaluate(place, name, weights_only=True)["loss"] for place in places])
            excess = losses - np.array(own, float)
            print(f"| {name} | {losses.mean():.4f} | {excess.mean():+.4f} | {excess.std(ddof=1) / len(SEEDS) ** 0.5:.4f} |")


if __name__ == "__main__":
    main()
