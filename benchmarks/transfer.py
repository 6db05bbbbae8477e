"""Width transfer: `python benchmarks/transfer.py [check] [sweep] [--store FILE]`, both by default.

`check`: root mean square of activations after a few large steps at four widths, and its slope: d log rms / d log width is 0 where
the parametrisation transfers. `sweep`: validation loss over a grid of learning rates at four widths, everything else equal; the best rate
is the vertex of a parabola in log rate through the best cell and its neighbours. Runs that are in the store are not made again.
The sweep's 100 runs are 4.5e13 FLOP and half as many again for Newton-Schulz steps and validation: about ten minutes at 1.2e11 FLOP/s.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import models
from scaling import engines, sweeps
from scaling.data.corpora import load_corpus
from scaling.optimizers import optimizer
from scaling.progress import SweepProgress
from scaling.run import RunConfig, run_id
from scaling.store import Store

LAYERS, CONTEXT = 2, 64

CHECK_WIDTHS, CHECK_RATE, CHECK_STEPS, CHECK_SEEDS, CHECK_ROWS = (32, 64, 128, 256), 0.01, 4, 3, 16

# At smaller batches Muon's Newton-Schulz steps, which do not shrink with them, would cost more than the gradients.
WIDTHS, TOKENS, BATCH, VALIDATION_TOKENS = (32, 64, 96, 160), 2**18, 8, 2**16


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to set the steps of the weights, and the learning rates that are tried with it."""

    optimizer: str
    parametrization: str
    rates: tuple[float, ...]
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.optimizer}, {self.parametrization}"


ARMS = (
    Arm("adam", "completep", (0.0015, 0.003, 0.006, 0.012, 0.024), (0, 1)),
    Arm("muon", "completep", (0.003, 0.006, 0.012, 0.024, 0.048), (0, 1)),
    Arm("adam", "standard", (0.0015, 0.003, 0.006, 0.012, 0.024), (0,)),
)


def shape(width: int, arm: Arm) -> models.ModelConfig:
    return models.ladder(width, layers=LAYERS, context=CONTEXT, parametrization=arm.parametrization)


def check() -> None:
    """Prints the coordinate check of every arm."""
    for arm in ARMS:
        found = [rms_by_place(shape(width, arm), arm.optimizer) for width in CHECK_WIDTHS]
        print(f"\n**Coordinate check, {arm.name}**: rms after {CHECK_STEPS} steps at rate {CHECK_RATE}, {CHECK_SEEDS} seeds\n")
        print("| place | " + " | ".join(f"width {width}" for width in CHECK_WIDTHS) + " | slope |")
        print("|" + "---|" * (len(CHECK_WIDTHS) + 2))
        slopes = {}
        for place in found[0]:
            values = [rms[place] for rms in found]
            slopes[place] = float(np.polyfit(np.log(CHECK_WIDTHS), np.log(values), 1)[0])
            print(f"| {place} | " + " | ".join(f"{value:.3f}" for value in values) + f" | {slopes[place]:+.2f} |")
        worst = max(slopes, key=lambda place: abs(slopes[place]))
        print(f"\nSteepest: {worst}, {slopes[worst]:+.2f}.")


def rms_by_place(config: models.ModelConfig, name: str) -> dict[str, float]:
    """Mean over seeds of the root mean square of each place's activations after CHECK_STEPS steps on one batch of text."""
    own = optimizer(name, config)

    @jax.jit
    def trained(seed: jax.Array, tokens_BT: jax.Array) -> dict[str, jax.Array]:
        graph, params, rest = nnx.split(models.Transformer(config, rngs=nnx.Rngs(params=jax.random.key(seed))), nnx.Param, ...)

        def loss(params: nnx.State) -> jax.Array:
            logits_BTV = nnx.merge(graph, params, rest)(tokens_BT[:, :-1])
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits_BTV), tokens_BT[:, 1:, None], axis=-1))

        def step(_: int, carry: tuple) -> tuple:
            return own.update(jax.grad(loss)(carry[0]), carry[1], carry[0], CHECK_RATE, 0.0)

        params, _ = jax.lax.fori_loop(0, CHECK_STEPS, step, (params, own.init(params)))
        places = activations(nnx.merge(graph, params, rest), tokens_BT[:, :-1])
        return {place: jnp.sqrt(jnp.mean(jnp.square(x))) for place, x in places.items()}

    tokens_BT = text_batch()
    found = [trained(jnp.int32(seed), tokens_BT) for seed in range(CHECK_SEEDS)]
    return {place: float(np.mean([rms[place] for rms in found])) for place in activations_of(config)}


def text_batch() -> jax.Array:
    """CHECK_ROWS sequences from all over the corpus, (B, T + 1). Random tokens would have nothing in common that widths could learn alike."""
    stream = np.asarray(load_corpus("python-source").validation())
    starts = np.linspace(0, stream.size - CONTEXT - 1, CHECK_ROWS).astype(int)
    return jnp.asarray(np.stack([stream[start : start + CONTEXT + 1] for start in starts]), jnp.int32)


def activations(model: models.Transformer, tokens_BT: jax.Array) -> dict[str, jax.Array]:
    """What each part of a model gives, from the embedding to the logits."""
    x_BTD = model.embedding_VD[...][tokens_BT]
    found = {"embedding": x_BTD}
    graph, blocks_L = nnx.split(model.blocks_L)
    for layer in range(model.config.layers):
        block = nnx.merge(graph, jax.tree.map(lambda weight, layer=layer: weight[layer], blocks_L))
        attention_BTD = block.attention(block.attention_norm(x_BTD))
        x_BTD = x_BTD + block.residual * attention_BTD
        given = block.ffn(block.ffn_norm(x_BTD))
        ffn_BTD = given[0] if isinstance(given, tuple) else given
        x_BTD = x_BTD + block.residual * ffn_BTD
        found |= {f"attention {layer + 1}": attention_BTD, f"feed-forward {layer + 1}": ffn_BTD}
    return found | {"stream": x_BTD, "logits": model(tokens_BT)}


def activations_of(config: models.ModelConfig) -> list[str]:
    """The places of `activations`, in the order of the forward pass (a compiled function sorts them)."""
    blocks = [(f"attention {layer}", f"feed-forward {layer}") for layer in range(1, config.layers + 1)]
    return ["embedding", *itertools.chain(*blocks), "stream", "logits"]


def sweep(path: str) -> None:
    """Makes the runs that the store at `path` lacks and prints the tables."""
    store, corpus = Store(path), load_corpus("python-source")
    configs = {
        (arm, width, rate, seed): RunConfig(
            shape(width, arm),
            TOKENS,
            corpus.id,
            seed=seed,
            batch=BATCH,
            learning_rate=rate,
            optimizer=arm.optimizer,
            validation_tokens=VALIDATION_TOKENS,
        )
        for arm in ARMS
        for width, rate, seed in itertools.product(WIDTHS, arm.rates, arm.seeds)
    }
    ids = {key: run_id(config, corpus.id, engines.WORKER_THREADS) for key, config in configs.items()}
    frame = sweeps.sweep(list(configs.values()), store.path, progress=SweepProgress())
    failures = frame.loc[frame["status"] == "failed", "reason"]
    if len(failures):
        raise SystemExit(f"{len(failures)} runs failed; the first: {failures.iloc[0]}")
    records = {record["run_id"]: record for record in store.records()}
    print(f"\ncorpus {corpus.id}; {TOKENS} tokens in steps of {BATCH} x {CONTEXT}, {LAYERS} layers")
    for arm in ARMS:
        losses = {key[1:]: records[ids[key]]["loss"] for key in configs if key[0] == arm}
        report(arm, losses)


def report(arm: Arm, losses: dict[tuple[int, float, int], float | None]) -> None:
    """Prints an arm's losses (a diverged run has none), each width's best rate, and how far apart the best rates are."""
    print(f"\n**{arm.name}**: mean validation loss over {len(arm.seeds)} seeds\n")
    print("| width | " + " | ".join(f"lr {rate:g}" for rate in arm.rates) + " | best lr | of each seed |")
    print("|" + "---|" * (len(arm.rates) + 3))
    best, curvature = [], []
    for width in WIDTHS:
        grid = np.array([[_number(losses[width, rate, seed]) for rate in arm.rates] for seed in arm.seeds])
        vertex, curve = parabola(arm.rates, grid.mean(axis=0))
        best.append(vertex)
        curvature.append(curve)
        cells = " | ".join("diverged" if math.isinf(loss) else f"{loss:.4f}" for loss in grid.mean(axis=0))
        print(f"| {width} | {cells} | {_shown(vertex)} | " + ", ".join(_shown(parabola(arm.rates, row)[0]) for row in grid) + " |")
    if not all(map(math.isfinite, best)):
        return print("\nA best rate lies outside the grid: no verdict.")
    factor, middle = max(best) / min(best), math.exp(float(np.mean(np.log(best))))
    excess = max(curve * math.log(middle / vertex) ** 2 for vertex, curve in zip(best, curvature, strict=True))
    print(
        f"\nBest rates lie within a factor {factor:.2f} over {len(WIDTHS)} widths. One rate for all, {middle:.4f}, costs at most {excess:.4f} nats."
    )


def parabola(rates: tuple[float, ...], losses: np.ndarray) -> tuple[float, float]:
    """Vertex (a rate) and curvature (nats per squared log rate) through the best cell and its neighbours; NaN where the best is at the edge."""
    middle = int(np.argmin(losses))
    if not 0 < middle < len(rates) - 1 or not np.isfinite(losses[middle - 1 : middle + 2]).all():
        return math.nan, math.nan
    near = slice(middle - 1, middle + 2)
    a, b, _ = np.polyfit(np.log(rates[near]), losses[near], 2)
    return math.exp(-b / (2 * a)), float(a)


def _number(loss: float | None) -> float:
    return math.inf if loss is None else loss


def _shown(rate: float) -> str:
    return f"{rate:.4f}" if math.isfinite(rate) else "outside"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="check, sweep; both by default")
    parser.add_argument("--store", default="transfer.sqlite")
    arguments = parser.parse_args()
    parts = {"check": check, "sweep": functools.partial(sweep, arguments.store)}
    for part in arguments.parts or parts:
        parts[part]()


if __name__ == "__main__":
    main()
