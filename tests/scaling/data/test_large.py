"""A corpus too large for the device: a run gets the sequences that it reads, and computes the same bits from them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import models
from scaling.data import corpus as corpus_module
from scaling.data.corpora import load_corpus
from scaling.ensembles import train_many
from scaling.run import RunConfig
from scaling.training import data_bytes, train, training_data

SHAPE = models.ladder(16, context=32)


def config(text_folder, **more) -> RunConfig:
    fields: dict[str, Any] = {"model": SHAPE, "tokens": 32 * 2 * 300, "corpus": str(text_folder), "batch": 2, "validation_tokens": 2048}
    return RunConfig(**(fields | more))


@pytest.mark.slow
def test_members_of_several_seeds_compute_the_same_bits_too(text_folder, monkeypatch):
    configs = [config(text_folder, seed=seed) for seed in (0, 3)]
    whole = train_many(configs)
    monkeypatch.setattr(corpus_module, "RESIDENT_BYTES", 0)
    assert [own.loss for own in train_many(configs)] == [own.loss for own in whole]


@pytest.mark.slow
def test_members_on_a_drawn_corpus_read_the_streams_of_their_seeds():
    corpus = load_corpus("grm:order=3")
    shape = models.ladder(16, context=32, vocab_size=8)
    configs = [dataclasses.replace(config(""), model=shape, corpus=corpus.id, seed=seed) for seed in (0, 1)]
    together = train_many(configs)
    alone = [train(own) for own in configs]
    assert [own.loss for own in together] == pytest.approx([own.loss for own in alone], abs=1e-4)


def test_rows_are_the_sequences_in_order_and_wrap_where_the_stream_ends(text_folder, monkeypatch):
    corpus = load_corpus(str(text_folder))
    stream = np.asarray(corpus.train())
    monkeypatch.setattr(corpus_module, "RESIDENT_BYTES", 0)
    short, repeated = config(text_folder), config(text_folder, tokens=3 * corpus.train_tokens, batch=64, micro_batch=2, epochs=4)
    for run, seeds in ((short, [0, 7]), (repeated, [0])):
        rows, orders = training_data(run, corpus, seeds)
        for seed, order in zip(seeds, orders, strict=True):
            wanted = corpus.order(32, seed)
            for place in (0, 1, 255, 599, *((wanted.size - 1, wanted.size, 2 * wanted.size + 5) if run is repeated else ())):
                start = int(wanted[place % wanted.size]) * 32
                np.testing.assert_array_equal(rows[order[place % order.size]], stream[start : start + 33])
    assert rows.nbytes == data_bytes(repeated, corpus)
    longer = dataclasses.replace(short, tokens=32 * 2 * 400)
    assert data_bytes(longer, corpus) == data_bytes(short, corpus)  # one shape, one compilation
