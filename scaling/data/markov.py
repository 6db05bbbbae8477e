"""A random Markov source whose entropy is known: logits are sums of random tables, one an order, whose scale falls by sqrt(rho) per order.

    P(x | c) = softmax_x( s0 G_0[x] + sum_{j=1..order} s1 rho^((j-1)/2) G_j[c_j, x] ),   c_j = sum_{i=1..j} x[t-i] vocab^(i-1)

G_j are standard normal numbers from raw Philox words, the same on every machine and numpy. What the j-th symbol back adds shrinks by
about rho an order, as in natural text. Up to MOST_CONTEXTS contexts the stationary law is solved, and the entropy is exact; of deeper
sources the orders beyond HASHED_ROWS contexts look their rows up by a hash, and the entropy is a mean of exact entropies along a sample.

A symbol is drawn by comparing a counter's 32-bit number with the thresholds of its context; the probabilities of the source are the
differences of those whole numbers, so that nothing depends on how a machine rounds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

MOST_CONTEXTS = 2**21
HASHED_ROWS = 2**18
SEGMENT, WARM_UP = 8192, 2048  # tokens: of a stream drawn side by side, and before each until it forgets where it started
SEGMENTS_AT_ONCE = 1024
NORMALS_AT_ONCE = 2**20
ENTROPY_TOKENS = 2**22  # along which the entropy of a deep source is averaged
ORACLE_TOKENS_AT_ONCE = 2**18
_DRAWS = 2**32  # above the keys of the tables
_RESOLUTION, _NEVER = 2.0**32, 2**32 - 1
Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Parameters:
    """What a source is made from. `vocab` symbols, `order` of them back decide the next; see the module for the others."""

    order: int = 7
    vocab: int = 8
    rho: float = 0.66
    s0: float = 0.5
    s1: float = 0.9
    seed: int = 0

    @property
    def table_order(self) -> int:
        """Orders that are looked up in full; those beyond it by a hash."""
        if self.vocab**self.order <= MOST_CONTEXTS:
            return self.order
        return int(math.log(HASHED_ROWS) / math.log(self.vocab) + 1e-9)

    def scale(self, j: int) -> float:
        return self.s1 * self.rho ** ((j - 1) / 2) if j else self.s0


class Source:
    """Draws from the source and knows its probabilities.

    `table`: thresholds (uint32, contexts x vocab rounded up to eights) of a source that is tabled in full, or logits (float64,
    contexts x vocab) of its first orders; `hashed`: logits (float32, orders x rows x vocab) of the deeper ones.
    """

    def __init__(self, parameters: Parameters, table: np.ndarray, hashed: np.ndarray | None = None):
        self.parameters, self.table, self.hashed = parameters, table, hashed

    def probabilities(self, contexts: NDArray[np.int64]) -> Floats:
        """(contexts, vocab): of the next symbol; a context is sum_{i=1..order} x[t-i] vocab^(i-1)."""
        found = self._thresholds(contexts)[:, : self.parameters.vocab].astype(np.float64)
        found[:, -1] = _RESOLUTION
        found[:, 1:] -= found[:, :-1].copy()
        found /= _RESOLUTION
        return found

    def _thresholds(self, contexts: NDArray[np.int64]) -> NDArray[np.uint32]:
        if self.hashed is None:
            return self.table.take(contexts, axis=0)
        logits = self.table.take(contexts % self.table.shape[0], axis=0)
        for place, rows in enumerate(self.hashed):
            logits += rows.take(_hash(contexts, self.parameters.vocab, self.parameters.table_order + 1 + place), axis=0)
        return _as_thresholds(logits)

    def tokens(self, stream: int, start: int, count: int) -> NDArray[np.uint8]:
        """Tokens `start` to `start + count` of stream `stream` (0 or more): the same ones whatever else is asked for.

        The stream is one chain. Its segments are drawn side by side, each after a warm-up on the numbers of the segment before it: two
        chains fed the same numbers come to agree for good (the chance that they have not falls by e in 150 tokens at order 7, in about
        800 at order 14), so that a segment carries on where the one before it ended. Where one does not, `order` tokens are harder than
        they should be: 1e-8 nats on average at order 7, 3e-5 at order 14.
        """
        first, last = start // SEGMENT, -(-(start + count) // SEGMENT)
        parts = [self._segments(stream, at, min(at + SEGMENTS_AT_ONCE, last)) for at in range(first, last, SEGMENTS_AT_ONCE)]
        drawn = np.concatenate(parts) if len(parts) != 1 else parts[0]
        return drawn[start - first * SEGMENT :][:count]

    def _segments(self, stream: int, first: int, last: int) -> NDArray[np.uint8]:
        uniforms = _uniforms(self.parameters.seed, _DRAWS + stream, first * SEGMENT, (last - first) * SEGMENT + WARM_UP)
        steps = np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(uniforms, SEGMENT + WARM_UP)[::SEGMENT].T)
        contexts = np.zeros(last - first, np.int64)
        drawn = np.empty((SEGMENT, last - first), np.uint8)
        vocab, contexts_in_all = self.parameters.vocab, self.parameters.vocab**self.parameters.order
        for place, number in enumerate(steps):
            passed = self._thresholds(contexts) <= number[:, None]
            symbols = np.bitwise_count(passed.view(np.uint64)).sum(axis=1, dtype=np.int64)  # eight truths a word
            contexts = (contexts * vocab + symbols) % contexts_in_all
            if place >= WARM_UP:
                drawn[place - WARM_UP] = symbols
        return drawn.T.ravel()

    def oracle_losses(self, tokens: np.ndarray) -> Floats:
        """Nats of every token but the first `order` under the source itself: no model does better on average."""
        order = self.parameters.order
        parts = [
            self._oracle_losses(tokens[at : at + ORACLE_TOKENS_AT_ONCE + order])
            for at in range(0, len(tokens) - order, ORACLE_TOKENS_AT_ONCE)
        ]
        return np.concatenate(parts)

    def _oracle_losses(self, tokens: np.ndarray) -> Floats:
        contexts, targets = self._contexts(tokens), tokens[self.parameters.order :].astype(np.int64)
        return -np.log(np.take_along_axis(self.probabilities(contexts), targets[:, None], axis=1)[:, 0])

    def _contexts(self, tokens: np.ndarray) -> NDArray[np.int64]:
        """Of every token but the first `order`."""
        order, vocab = self.parameters.order, self.parameters.vocab
        contexts = np.zeros(len(tokens) - order, np.int64)
        for back in range(1, order + 1):
            contexts += tokens[order - back : len(tokens) - back].astype(np.int64) * vocab ** (back - 1)
        return contexts


@dataclasses.dataclass(frozen=True)
class Entropy:
    """Nats per token. `ladder[j]` is the best loss of a model that sees j symbols, exact; its last one is `rate`.

    Of a deep source there is no ladder, and `rate` is a mean with the standard error `rate_se`.
    """

    rate: float
    rate_se: float
    ladder: list[float] | None


def build_source(parameters: Parameters) -> Source:
    """Makes the tables. 10 s and 0.5 GB for the default, an eighth of both an order less."""
    vocab, order = parameters.vocab, parameters.table_order
    logits = parameters.scale(0) * _normals(parameters.seed, 0, vocab).reshape(1, vocab)
    for j in range(1, order + 1):
        own = _normals(parameters.seed, j, vocab ** (j + 1)).reshape(vocab, -1, vocab)  # by the oldest symbol, then the order below
        own *= parameters.scale(j)
        own += logits
        logits = own.reshape(-1, vocab)
    if order == parameters.order:
        return Source(parameters, _as_thresholds(logits))
    hashed = np.empty((parameters.order - order, HASHED_ROWS, vocab), np.float32)
    for j in range(order + 1, parameters.order + 1):
        hashed[j - order - 1] = parameters.scale(j) * _normals(parameters.seed, j, HASHED_ROWS * vocab).reshape(HASHED_ROWS, vocab)
    return Source(parameters, logits, hashed)


def entropy(source: Source) -> Entropy:
    """The source's entropy rate: solved where all contexts are tabled, else a mean along ENTROPY_TOKENS tokens."""
    if source.hashed is not None:
        tokens = source.tokens(_DRAWS - 1, 0, ENTROPY_TOKENS)
        found = [entr(source.probabilities(source._contexts(part))).sum(axis=1).mean() for part in np.array_split(tokens, 256)]
        return Entropy(float(np.mean(found)), float(np.std(found, ddof=1) / math.sqrt(len(found))), None)
    vocab, order = source.parameters.vocab, source.parameters.order
    joint = _stationary(source)
    ladder = [0.0] * (order + 1)
    for j in range(order, -1, -1):
        ladder[j] = float(entr(joint).sum() - entr(joint.sum(axis=1)).sum())
        joint = joint.reshape(vocab, -1, vocab).sum(axis=0) if j else joint
    return Entropy(ladder[-1], 0.0, ladder)


def _stationary(source: Source, tolerance: float = 1e-13, most: int = 1000) -> Floats:
    """The joint probability of a context and the symbol after it, (contexts, vocab), by power iteration."""
    vocab, contexts = source.parameters.vocab, source.table.shape[0]
    probabilities = source.probabilities(np.arange(contexts))
    law = np.full(contexts, 1 / contexts)
    for _ in range(most if source.parameters.order else 0):
        after = np.zeros((contexts // vocab, vocab))
        for old, rows in zip(law.reshape(vocab, -1), probabilities.reshape(vocab, -1, vocab), strict=True):  # by the symbol that drops out
            after += old[:, None] * rows
        moved = np.abs(after.ravel() - law).sum()
        law = after.ravel() / after.sum()
        if moved < tolerance:
            break
    probabilities *= law[:, None]
    return probabilities


def _as_thresholds(logits: Floats) -> NDArray[np.uint32]:
    """Where the symbols of a row end, in 2^-32, filled up to eights with what no number passes; overwrites `logits`."""
    rows, vocab = logits.shape
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    np.cumsum(logits, axis=1, out=logits)
    logits *= (_RESOLUTION / logits[:, -1])[:, None]
    ends = np.full((rows, -(-vocab // 8) * 8), _NEVER, np.uint32)
    ends[:, :vocab] = np.minimum(np.rint(logits, out=logits), _NEVER)
    return ends


def _hash(contexts: NDArray[np.int64], vocab: int, j: int) -> NDArray[np.int64]:
    """The row of order `j`: the last j symbols, mixed (the finaliser of splitmix64)."""
    with np.errstate(over="ignore"):
        mixed = (contexts % vocab**j).astype(np.uint64) + np.uint64(j) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) % np.uint64(HASHED_ROWS)).astype(np.int64)


def _words(seed: int, stream: int, start: int, count: int) -> NDArray[np.uint64]:
    """64-bit words `start` to `start + count` of a Philox counter; `start` is a multiple of four, a counter's words."""
    generator = np.random.Philox(key=np.array([seed, stream], np.uint64))
    generator.advance(start // 4)
    return generator.random_raw(count)


def _uniforms(seed: int, stream: int, start: int, count: int) -> NDArray[np.uint32]:
    """32-bit numbers below _NEVER, two a word; `start` and `count` are multiples of eight."""
    numbers = _words(seed, stream, start // 2, count // 2).astype("<u8", copy=False).view("<u4")
    return np.minimum(numbers, _NEVER - 1, out=numbers)


def _normals(seed: int, stream: int, count: int) -> Floats:
    """`count` standard normal numbers by Box and Muller: radii from the first half of the words, angles from the second."""
    half = (count + 1) // 2
    found = np.empty((2, half))
    for at, size in _spans(half):
        radius, angle = (_unit(_from(seed, stream, offset + at, size)) for offset in (0, half))
        radius, angle = np.sqrt(-2 * np.log(radius)), 2 * math.pi * angle
        found[0, at : at + size] = radius * np.cos(angle)
        found[1, at : at + size] = radius * np.sin(angle)
    return found.ravel()[:count] if count == 2 * half else np.concatenate([found[0], found[1, : count - half]])


def _spans(count: int) -> Iterator[tuple[int, int]]:
    return ((at, min(NORMALS_AT_ONCE, count - at)) for at in range(0, count, NORMALS_AT_ONCE))


def _from(seed: int, stream: int, start: int, count: int) -> NDArray[np.uint64]:
    return _words(seed, stream, start // 4 * 4, count + start % 4)[start % 4 :]


def _unit(words: NDArray[np.uint64]) -> Floats:
    """Strictly between 0 and 1."""
    return ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
