"""A BPE: lossless on any bytes, trained on the train split alone, and bits per byte that other tokenizers' can be compared with."""

from __future__ import annotations

import dataclasses
import math
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from scaling import evaluation, step
from scaling.data import bpe
from scaling.data.corpora import Options, load_corpus
from scaling.data.corpus import file_sha256
from scaling.errors import InputError
from scaling.run import RunConfig
from scaling.training import train

pytest.importorskip("tokenizers", reason="the tokenizers library (isoloss[bpe]) is not installed")


@pytest.fixture(scope="module")
def pair(text_folder):
    """A byte corpus and its BPE of 400 tokens."""
    return load_corpus(str(text_folder)), load_corpus(str(text_folder), Options(bpe=400, name="text-400"))


def decoded(corpus, tokens) -> bytes:
    tokenizer = bpe.load_tokenizer(corpus)
    return "".join(tokenizer.id_to_token(int(token)) for token in tokens).encode("latin-1")


def test_every_byte_comes_back_and_tokens_are_longer_than_bytes(pair):
    plain, encoded = pair
    for stream in ("train", "validation"):
        tokens = getattr(encoded, stream)()
        assert tokens.dtype == np.uint16
        assert tokens.max() < 400
        assert decoded(encoded, tokens[:20_000]) == bytes(getattr(plain, stream)())[: len(decoded(encoded, tokens[:20_000]))]
        assert encoded.bytes_of(tokens).sum() == getattr(plain, stream)().size
    assert encoded.manifest["bytes_per_token"] > 1.4
    assert encoded.manifest["tokenizer_sha256"] == file_sha256(encoded.folder / "tokenizer.json")
    encoded.check()


def test_bytes_that_are_no_text_come_back_too(tmp_path):
    generator = np.random.default_rng(0)
    pieces = [generator.integers(0, 256, 500, dtype=np.uint8).tobytes().decode("latin-1") for _ in range(40)]
    tokenizer = bpe.train(iter(pieces), 300)
    for piece in pieces:
        assert "".join(tokenizer.id_to_token(number) for number in tokenizer.encode(piece).ids) == piece


def test_it_is_trained_on_the_train_split_alone_and_belongs_to_the_identity(pair, tmp_path):
    plain, encoded = pair
    shutil.copytree(plain.folder, tmp_path / "other")
    (tmp_path / "other" / "validation.bin").write_bytes(b"zqzq " * (plain.validation_tokens // 5))
    other = dataclasses.replace(plain, folder=tmp_path / "other")
    folder = bpe.build_bpe(other, 400, tmp_path)
    assert (folder / "tokenizer.json").read_bytes() == (encoded.folder / "tokenizer.json").read_bytes()
    assert folder.name != encoded.folder.name
    assert load_corpus("text-400").id == encoded.id


def test_a_model_that_knows_nothing_needs_the_bits_of_a_uniform_guess(pair):
    """log2(400) a token, spread over the bytes of the tokens it is judged on."""
    encoded = pair[1]
    static = step.Static(models.ladder(16, context=32, vocab_size=400), "fp32", 8, "wsd")
    state = jax.tree.map(jnp.zeros_like, step.initialise(static, 0))
    found = evaluation.validation(static, state.params, state.router, encoded, 20_000)
    assert found.loss == pytest.approx(math.log(400), abs=1e-5)
    assert found.bits_per_byte == pytest.approx(math.log2(400) / encoded.manifest["bytes_per_token"], rel=0.05)
    assert found.bits_per_byte_se is not None
    assert 1e-4 < found.bits_per_byte_se < 0.1


@pytest.mark.slow
def test_a_run_on_it_has_bits_per_byte_like_those_on_bytes(pair):
    """The same small model on either: bits per byte agree to a fifth, nats per token do not."""
    records = []
    for corpus in pair:
        fields: dict[str, Any] = {"batch": 8, "micro_batch": 8, "learning_rate": 0.01, "validation_tokens": 8192}
        shape = models.ladder(16, context=32, vocab_size=corpus.manifest["vocab_size"])
        records.append(train(RunConfig(shape, 32 * 8 * 300, corpus.id, **fields)))
    plain, encoded = records
    assert plain.loss is not None
    assert encoded.loss is not None
    assert encoded.bits_per_byte == pytest.approx(plain.bits_per_byte, rel=0.2)
    assert encoded.loss > 1.3 * plain.loss


def test_impossible_ones_are_refused(pair, tmp_path):
    with pytest.raises(InputError, match="a vocabulary of 257 to 65536"):
        load_corpus(pair[0].id, Options(bpe=256))
    with pytest.raises(InputError, match="a BPE is trained on bytes, but its tokens are 'bpe-400'"):
        load_corpus(pair[1].id, Options(bpe=500))
    with pytest.raises(InputError, match="a BPE is trained on bytes"):
        load_corpus("grm:order=3", Options(bpe=500))
