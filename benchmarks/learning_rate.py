"""The search behind the learning-rate rule: 2 widths x 2 horizons x 5 rates x 2 seeds, at the demo's context, about 4 minutes on two cores.

    python benchmarks/learning_rate.py [--store FILE]

For every width and horizon a parabola through the mean loss against log rate gives the best rate. Constant over widths: the
parametrisation transfers. Their geometric mean at each horizon gives the constants of `scaling.recipe`.
"""

from __future__ import annotations

import argparse
import itertools
import math

import numpy as np

import models
from scaling import engines, sweeps
from scaling.data.corpora import load_corpus
from scaling.progress import SweepProgress
from scaling.run import RunConfig, run_id
from scaling.store import Store

WIDTHS, HORIZONS, RATES, SEEDS, CONTEXT = (32, 64), (300_000, 1_200_000), (0.0015, 0.003, 0.006, 0.012, 0.024), (0, 1), 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="learning-rate.sqlite")
    store = Store(parser.parse_args().store)
    corpus = load_corpus("python-source")
    cells = itertools.product(WIDTHS, HORIZONS, RATES, SEEDS)
    configs = [
        RunConfig(models.ladder(width, context=CONTEXT), tokens, corpus.id, seed=seed, learning_rate=rate)
        for width, tokens, rate, seed in cells
    ]
    ids = {config: run_id(config, corpus.id, engines.WORKER_THREADS) for config in configs}
    sweeps.sweep(configs, store.path, progress=SweepProgress())
    records = {record["run_id"]: record for record in store.records()}

    print(f"corpus {corpus.id}; mean validation loss over {len(SEEDS)} seeds\n")
    print("| width | tokens | batch | " + " | ".join(f"lr {rate:g}" for rate in RATES) + " | best lr |")
    print("|" + "---|" * (len(RATES) + 4))
    best: dict[int, list[float]] = {tokens: [] for tokens in HORIZONS}
    for width, tokens in itertools.product(WIDTHS, HORIZONS):
        cell = [
            [config for config in configs if (config.model.width, config.tokens, config.peak) == (width, tokens, rate)] for rate in RATES
        ]
        losses = [float(np.mean([records[ids[config]]["loss"] for config in group])) for group in cell]
        best[tokens].append(_vertex(losses))
        print(
            f"| {width} | {tokens} | {cell[0][0].sequences} | "
            + " | ".join(f"{loss:.4f}" for loss in losses)
            + f" | {best[tokens][-1]:.4f} |"
        )
    means = [float(np.exp(np.mean(np.log(rates)))) for rates in best.values()]
    exponent = -math.log(means[1] / means[0]) / math.log(HORIZONS[1] / HORIZONS[0])
    print(
        f"\nbest rate by horizon: {', '.join(f'{rate:.4f}' for rate in means)}; exponent {-exponent:.3f}; at 1e6 tokens {means[1] * (1e6 / HORIZONS[1]) ** -exponent:.4f}"
    )


def _vertex(losses: list[float]) -> float:
    """The rate at the vertex of a parabola in log rate through the best rate and its neighbours."""
    middle = min(max(int(np.argmin(losses)), 1), len(RATES) - 2)
    near = slice(middle - 1, middle + 2)
    a, b, _ = np.polyfit(np.log(RATES[near]), losses[near], 2)
    return float(np.exp(np.clip(-b / (2 * a), math.log(RATES[0]), math.log(RATES[-1])))) if a > 0 else RATES[int(np.argmin(losses))]


if __name__ == "__main__":
    main()
