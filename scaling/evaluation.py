"""The validation loss of a model and its standard error."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import nnx

from scaling import step
from scaling.data.corpora import Corpus

BLOCK_BYTES = 8192  # two of a corpus' chunks, whose places in the stream are random
GROUP_ROWS = 1024  # tokens that go through the model at once


def validation(static: step.Static, params: step.Params, router: nnx.State, corpus: Corpus, tokens: int) -> tuple[float, float]:
    """Mean loss (nats per token) over about `tokens` validation tokens, evenly spread, the same ones for every run of a context; its error."""
    losses, places = sequence_losses(static, params, router, corpus, tokens)
    return float(losses.mean()), standard_error(losses, places)


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
    return np.asarray(losses, np.float64).reshape(-1), index.reshape(-1) * context


def standard_error(losses: np.ndarray, places: np.ndarray) -> float:
    """Of the mean of `losses`, clustered: sequences within BLOCK_BYTES of the stream come from one text and err together."""
    excess = losses - losses.mean()
    _, block = np.unique(places // BLOCK_BYTES, return_inverse=True)
    sums = np.bincount(block, weights=excess)
    return float(np.sqrt(np.sum(sums**2) * sums.size / max(1, sums.size - 1)) / losses.size)
