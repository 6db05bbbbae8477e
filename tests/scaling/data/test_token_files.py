"""Token files: what is written is read, mapped and not copied; a sidecar that contradicts its file is refused with both numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scaling.data.building import CHUNK_TOKENS
from scaling.data.corpora import load_corpus
from scaling.data.token_files import open_tokens, sidecar_path, write_tokens
from scaling.errors import InputError


def random_tokens(count: int, vocab_size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, vocab_size, count)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def change(path: Path, **fields) -> None:
    sidecar = sidecar_path(path)
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | fields))


@pytest.mark.parametrize("suffix", [".bin", ".npy"])
@pytest.mark.parametrize(("vocab_size", "dtype"), [(256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")])
def test_what_is_written_is_read(tmp_path, suffix, vocab_size, dtype):
    tokens = random_tokens(10_001, vocab_size)
    written = write_tokens(tmp_path / f"t{suffix}", np.array_split(tokens, 7), vocab_size=vocab_size, tokenizer="mine")
    found = open_tokens(tmp_path / f"t{suffix}")
    assert written == found
    assert (found.sidecar.dtype, found.sidecar.count) == (dtype, tokens.size)
    np.testing.assert_array_equal(found.tokens(), tokens)
    np.testing.assert_array_equal(np.concatenate([piece for _, piece in found.pieces(1000)]), tokens)
    if suffix == ".npy":
        np.testing.assert_array_equal(np.load(tmp_path / "t.npy"), tokens)
    found.check()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc, which is not here")
def test_a_gigabyte_is_mapped_not_read(tmp_path):
    path = tmp_path / "large.bin"
    with open(path, "wb") as file:
        file.truncate(2**30)  # sparse: no disk is used
    fields = {"dtype": "uint16", "count": 2**29, "vocab_size": 50_000, "tokenizer": "mine", "sha256": "0" * 64}
    sidecar_path(path).write_text(json.dumps(fields))
    before = resident_bytes()
    tokens = open_tokens(path).tokens()
    assert tokens[-1] == 0
    assert tokens.size == 2**29
    assert resident_bytes() - before < 2**24


def test_a_corpus_of_tokens_holds_each_distinct_chunk_once(tmp_path):
    tokens = random_tokens(100 * CHUNK_TOKENS, 1000)
    twice = np.concatenate([tokens, tokens[: 10 * CHUNK_TOKENS]])
    write_tokens(tmp_path / "t.bin", twice, vocab_size=1000, tokenizer="mine", bytes_per_token=3.5)
    corpus = load_corpus(str(tmp_path / "t.bin"))
    assert corpus.manifest["duplicate_chunks_dropped"] == 10
    assert corpus.manifest["vocab_size"] == 1000
    streams = np.concatenate([corpus.train(), corpus.validation()])
    assert streams.dtype == np.uint16
    chunks = [{part.tobytes() for part in all_.astype(np.uint16).reshape(-1, CHUNK_TOKENS)} for all_ in (streams, tokens)]
    assert chunks[0] == chunks[1]
    assert corpus.validation_tokens / streams.size == pytest.approx(corpus.manifest["validation_share"], rel=0.5)
    assert corpus.bytes_of(corpus.validation()[:10]) == pytest.approx(3.5)
    assert load_corpus(str(tmp_path / "t.bin")).folder == corpus.folder
    corpus.check()


def test_sidecars_that_contradict_their_file_are_refused(tmp_path):
    path = tmp_path / "t.bin"

    def fresh() -> Path:
        write_tokens(path, random_tokens(200_000, 300), vocab_size=300, tokenizer="mine")
        return path

    def refused(says):
        with pytest.raises(InputError, match=says) as caught:
            load_corpus(str(path))
        assert "\n" not in str(caught.value)

    fresh().write_bytes(path.read_bytes()[:-3])
    refused(r"holds 199998 tokens \(399997 bytes of uint16\), its sidecar says count = 200000 \(400000 bytes\)")
    change(fresh(), count=200_001)
    refused(r"holds 200000 tokens .* says count = 200001")
    change(fresh(), dtype="uint8", vocab_size=200)
    refused("holds 400000 tokens .* says count = 200000")
    change(fresh(), vocab_size=299)
    refused("token 299 at place .* says vocab_size = 299")
    change(fresh(), vocab_size=70_000)
    refused("vocab_size = 70000 does not fit dtype uint16")
    change(fresh(), dtype="float32")
    refused("dtype")
    change(fresh(), sha256="0" * 64)
    refused(f"its tokens have sha256 [0-9a-f]{{64}}, its sidecar says {'0' * 64}")
    sidecar_path(fresh()).unlink()
    refused("there is no sidecar t.bin.json")
    npy = tmp_path / "t.npy"
    write_tokens(npy, random_tokens(5000, 300), vocab_size=300, tokenizer="mine")
    np.save(npy, np.zeros(5000, np.uint32))
    with pytest.raises(InputError, match="holds uint32, its sidecar says uint16"):
        open_tokens(npy)
    np.save(npy, np.zeros((50, 100), np.uint16))
    with pytest.raises(InputError, match=r"one axis .* 'shape': \(50, 100\)"):
        open_tokens(npy)


def test_tokens_beyond_the_vocabulary_are_not_written(tmp_path):
    with pytest.raises(InputError, match="tokens from 5 to 10 do not fit vocab_size = 10"):
        write_tokens(tmp_path / "t.bin", np.array([5, 10]), vocab_size=10, tokenizer="mine")
    assert not list(tmp_path.iterdir())
