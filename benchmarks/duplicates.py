"""Duplicated against deduplicated data: `python benchmarks/duplicates.py [--store FILE]`, about ten minutes on one core.

Half of the duplicated corpus is new prose, the other half repeats one small part of it. Runs on it and on the whole prose, equal in all else,
are judged on one validation text, that of the prose. Both corpora are token files cut from the prose corpus' training split.
Writes benchmarks/results/duplicates.csv, which `multipliers.py` reads.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from own import prose

import models
from scaling.data.corpora import Options, load_corpus
from scaling.data.token_files import write_tokens
from scaling.finished import evaluate
from scaling.run import RunConfig
from scaling.training import train

NEW, REPEATED, TIMES = 6_000_000, 150_000, 40  # tokens: half of 12 million are 150,000 seen 40 times
WIDTHS, BUDGETS, SEEDS = (32, 48), (1e11, 3e11, 1e12), (0, 1)
OUT = Path(__file__).parent / "results" / "duplicates.csv"


def build(folder: Path) -> None:
    """The duplicated corpus, by the name prose-duplicated."""
    stream = load_corpus("pd-prose").train()
    again = np.tile(stream[NEW : NEW + REPEATED], TIMES)
    path = folder / "prose-duplicated.bin"
    write_tokens(path, np.concatenate([stream[:NEW], again]), vocab_size=256, tokenizer="bytes", bytes_per_token=1.0)
    load_corpus(str(path), Options(name="prose-duplicated"))


def row(corpus: str, width: int, budget: float, seed: int, folder: Path) -> dict:
    shape = models.ladder(width, context=64)
    tokens = int(budget / models.training_flops(shape).training)
    arm = "dense" if corpus == "pd-prose" else "duplicated"
    record = train(RunConfig(shape, tokens, corpus, seed=seed, arm=arm, learning_rate=0.0034, kernels=True), save=folder / "model")
    judged = evaluate(folder / "model", corpus="pd-prose")
    fields = ("run_id", "corpus", "arm", "seed", "width", "params", "tokens", "flops", "status")
    own = record.as_dict()
    return {name: own[name] for name in fields} | {"budget": budget, "loss": judged["loss"], "own_loss": record.loss}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    prose()
    done = pd.read_csv(OUT) if OUT.exists() else pd.DataFrame()
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        for budget, width, seed, corpus in itertools.product(BUDGETS, WIDTHS, SEEDS, ("pd-prose", "prose-duplicated")):
            arm = "dense" if corpus == "pd-prose" else "duplicated"
            if len(done) and ((done["budget"] == budget) & (done["width"] == width) & (done["seed"] == seed) & (done["arm"] == arm)).any():
                continue
            done = pd.concat([done, pd.DataFrame([row(corpus, width, budget, seed, Path(folder))])])
            OUT.parent.mkdir(exist_ok=True)
            done.to_csv(OUT, index=False, float_format="%.8g")
            print(json.dumps(done.iloc[-1].to_dict(), default=str), flush=True)


if __name__ == "__main__":
    main()
