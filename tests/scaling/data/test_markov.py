"""The source of known entropy: its ladder, its samples, its oracle, and a model that is trained on it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

import models
from scaling.data import grm, markov
from scaling.data.corpora import load_corpus
from scaling.data.markov import Parameters, build_source, entropy
from scaling.errors import InputError
from scaling.run import RunConfig
from scaling.training import train


def excess_in_errors(losses: np.ndarray, rate: float) -> float:
    """How many standard errors, from means of blocks, the mean of `losses` lies above `rate`."""
    blocks = losses[: losses.size // 2048 * 2048].reshape(-1, 2048).mean(axis=1)
    return (losses.mean() - rate) / (blocks.std(ddof=1) / math.sqrt(blocks.size))


@pytest.fixture(scope="module")
def source():
    return build_source(Parameters(order=6))


@pytest.fixture(scope="module")
def tokens(source):
    return source.tokens(1, 0, 2**20)


def test_entropy_of_a_small_source_is_that_of_its_transition_matrix():
    """The referee solves for the stationary law of contexts by linear algebra, and counts pairs of symbols from it."""
    small = build_source(Parameters(order=2, vocab=3, seed=5))
    probabilities = small.probabilities(np.arange(9))
    chain = np.zeros((9, 9))
    for newest, older, symbol in itertools.product(range(3), repeat=3):
        chain[older * 3 + newest, newest * 3 + symbol] += probabilities[older * 3 + newest, symbol]
    law = np.linalg.lstsq(np.vstack([chain.T - np.eye(9), np.ones(9)]), np.r_[np.zeros(9), 1.0], rcond=None)[0]
    found = entropy(small)
    assert found.rate == pytest.approx(-np.sum(law[:, None] * probabilities * np.log(probabilities)), abs=1e-12)
    pairs = law.reshape(3, 3).sum(axis=1)  # of the older symbol, which has the law of any symbol
    assert found.ladder is not None
    assert found.ladder[0] == pytest.approx(-np.sum(pairs * np.log(pairs)), abs=1e-12)
    joint = law.reshape(3, 3)
    assert found.ladder[1] == pytest.approx(-np.sum(joint * np.log(joint)) - found.ladder[0], abs=1e-12)


def test_ladder_falls_from_the_logarithm_of_the_vocabulary_to_the_rate(source):
    found = entropy(source)
    assert found.ladder is not None
    assert len(found.ladder) == 7
    gains = -np.diff([math.log(8), *found.ladder])
    assert (gains > 0).all()
    assert found.rate == found.ladder[-1]
    # Each order further back adds about rho of what the one before it added.
    np.testing.assert_allclose(gains[3:] / gains[2:-1], 0.66, atol=0.2)


def test_without_tables_every_symbol_is_equally_likely():
    assert entropy(build_source(Parameters(order=3, s0=0, s1=0))).rate == pytest.approx(math.log(8), abs=1e-9)


def test_oracle_loss_of_a_sample_is_the_exact_entropy(source, tokens):
    assert abs(excess_in_errors(source.oracle_losses(tokens), entropy(source).rate)) < 4
    # The check has teeth: the loss of a model of one order less is outside.
    ladder = entropy(source).ladder
    assert ladder is not None
    assert abs(excess_in_errors(source.oracle_losses(tokens), ladder[-2])) > 4


@pytest.mark.slow
def test_the_default_source_has_the_printed_ladder_and_deep_mode_its_mean():
    """Figures of the design's data reference: order 7, and the mean of exact entropies at order 14, 0.021 below."""
    default = build_source(Parameters())
    found = entropy(default)
    assert found.ladder == pytest.approx([1.9523, 1.6945, 1.5762, 1.4921, 1.4365, 1.3949, 1.3696, 1.3563], abs=6e-5)
    assert abs(excess_in_errors(default.oracle_losses(default.tokens(1, 0, 2**22)), found.rate)) < 4
    deep = build_source(Parameters(order=14))
    mean = entropy(deep)
    assert mean.rate == pytest.approx(1.3356, abs=1.5e-3)  # other rows of the tables: the hash is not the reference's
    assert abs(excess_in_errors(deep.oracle_losses(deep.tokens(1, 0, 2**20)), mean.rate)) < 4


def test_a_deep_source_is_sampled_by_its_own_probabilities():
    """Beyond what is tabled: frequencies of the next symbol agree with the probabilities that the source states."""
    deep = build_source(Parameters(order=8))
    assert deep.hashed is not None
    drawn = deep.tokens(1, 0, 2**17)
    stated = deep.probabilities(deep._contexts(drawn))
    assert stated.sum(axis=1) == pytest.approx(1)
    expected, seen = stated.sum(axis=0), np.bincount(drawn[8:], minlength=8)
    assert np.abs(seen - expected).max() < 5 * np.sqrt(drawn.size * 0.25)
    losses = deep.oracle_losses(drawn)
    assert excess_in_errors(losses, -np.sum(stated * np.log(stated), axis=1).mean()) < 4


def test_any_part_of_a_stream_is_the_same_and_streams_differ(source, tokens):
    np.testing.assert_array_equal(source.tokens(1, 0, 1000), tokens[:1000])
    np.testing.assert_array_equal(source.tokens(1, 12_345, 20_000), tokens[12_345:32_345])
    assert np.mean(source.tokens(2, 0, 50_000) == tokens[:50_000]) < 0.3
    other = build_source(Parameters(order=6, seed=1))
    assert np.mean(other.tokens(1, 0, 50_000) == tokens[:50_000]) < 0.3


def test_a_stream_is_one_chain_across_its_segments(source, tokens):
    """The first symbols of a segment would be hard to tell from the last ones of the segment before, were it not."""
    losses, order = source.oracle_losses(tokens), source.parameters.order
    starts = np.arange(markov.SEGMENT, tokens.size, markov.SEGMENT)
    first = np.concatenate([losses[starts - order + back] for back in range(order)])
    assert abs(first.mean() - losses.mean()) < 4 * losses.std() / math.sqrt(first.size)


def test_a_corpus_of_it_is_found_by_its_hash_and_keeps_validation_apart():
    corpus = load_corpus("grm:order=3,seed=2")
    assert corpus.name == "grm-order3-seed2"
    again = load_corpus(corpus.id)
    assert isinstance(again, grm.MarkovCorpus)
    np.testing.assert_array_equal(again.sequences(32, 5, 40), corpus.sequences(32, 5, 64)[:40])  # a prefix
    rows = again.sequences(32, 5, 40)
    np.testing.assert_array_equal(rows[:-1, -1], rows[1:, 0])  # one after another
    train_start = again.sequences(1000, 0, 1)[0]
    validation = np.asarray(again.validation())
    windows = np.lib.stride_tricks.sliding_window_view(validation, 24)
    assert not (windows == train_start[:24]).all(axis=1).any()
    assert again.manifest["oracle_validation_loss"] == pytest.approx(again.manifest["entropy"], abs=0.01)
    again.check()


@pytest.mark.slow
def test_a_model_learns_it_and_does_not_beat_the_entropy():
    corpus = load_corpus("grm:order=3")
    fields: dict[str, Any] = {"batch": 8, "micro_batch": 8, "learning_rate": 0.01, "validation_tokens": 32_768}
    config = RunConfig(models.ladder(16, context=32, vocab_size=8), 32 * 8 * 320, corpus.id, **fields)
    record = train(config)
    ladder = corpus.manifest["entropy_ladder"]
    assert record.loss is not None
    assert record.loss_se is not None
    assert ladder[-1] - 4 * record.loss_se < record.loss < ladder[1]  # more than the symbol before it is used
    assert record.unique_tokens == record.tokens
    assert record.bits_per_byte is None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("grm:depth=3", "'depth' is no parameter"),
        ("grm:order=x", "order = 'x' is not a number from 0 to 20"),
        ("grm:order=21", "must be from 0 to 20"),
        ("grm:rho=nan", "must be above 0"),
        ("grm:vocab=256,order=9", "too many to count"),
        ("grm:seed=-1", "must be from 0 to"),
    ],
)
def test_parameters_that_cannot_be_are_refused(name, says):
    with pytest.raises(InputError, match=says):
        load_corpus(name)
