"""The validation loss of a model, in nats per token and bits per byte, with standard errors."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from scaling import step
from scaling.data.corpus import Corpus

BLOCK_BYTES = 8192  # two of a corpus' chunks, whose places in the stream are random
GROUP_ROWS = 1024  # tokens that go through the model at once
RESAMPLES = 1000


class Evaluation(NamedTuple):
    """`loss` is nats per token; `bits_per_byte` None where the bytes that a token stands for are not known."""

    loss: float
    loss_se: float
    bits_per_byte: float | None
    bits_per_byte_se: float | None


def validation(static: step.Static, params: step.Params, router: nnx.State, corpus: Corpus, tokens: int) -> Evaluation:
    """Over about `tokens` validation tokens, evenly spread, the same ones for every run of a context."""
    losses, places = sequence_losses(static, params, router, corpus, tokens)
    context = static.model.context
    lengths = corpus.bytes_of(corpus.validation()[places[:, None] + np.arange(1, context + 1)])  # of the targets
    if lengths is None:
        return Evaluation(float(losses.mean()), standard_error(losses, places), None, None)
    bytes_, bits = lengths.sum(axis=1), losses * context / math.log(2)
    block = max(1, round(BLOCK_BYTES * places.size * context / bytes_.sum()))  # in tokens
    error = standard_error(bits, places, weights=bytes_, block=block)
    return Evaluation(float(losses.mean()), standard_error(losses, places, block=block), float(bits.sum() / bytes_.sum()), error)


def sequence_losses(
    static: step.Static, params: step.Params, router: nnx.State, corpus: Corpus, tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Loss of each validation sequence and its place in the stream."""
    stream, context = corpus.validation(), static.model.context
    available = (stream.size - 1) // context
    size = min(available, max(1, GROUP_ROWS // context))
    groups = max(1, min(available, max(1, tokens // context)) // size)
    index = np.linspace(0, available - 1, groups * size).astype(np.int32).reshape(groups, size)
    losses = step.validation_losses(static, params, router, jnp.asarray(stream), jnp.asarray(index))
    return np.asarray(losses, np.float64).reshape(-1), index.reshape(-1).astype(np.int64) * context


def standard_error(values: np.ndarray, places: np.ndarray, weights: np.ndarray | None = None, block: int = BLOCK_BYTES) -> float:
    """Of sum(values) / sum(weights) (of the mean without weights), by bootstrap over blocks of the stream.

    Sequences within `block` tokens come from one text and err together, so whole blocks are drawn (Efron & Tibshirani 1993, section
    8.6); the factor sqrt(n / (n - 1)) makes up for the few there may be. The same draws each time.
    """
    _, owner = np.unique(places // block, return_inverse=True)
    sums = np.bincount(owner, weights=values)
    sizes = np.bincount(owner, weights=weights) if weights is not None else np.bincount(owner).astype(float)
    count = sums.size
    if count == 1:
        return 0.0
    drawn = np.random.Generator(np.random.Philox(key=count)).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return float(np.std(drawn @ sums / (drawn @ sizes), ddof=1) * math.sqrt(count / (count - 1)))
