"""Byte-pair encoding of a byte corpus: trained on its train split alone, then frozen, kept with the tokens and hashed into their identity.

Sennrich et al. 2016 (arXiv 1508.07909) on bytes, each of which stands as one symbol, so that any bytes at all are encoded and decoded
without loss; merges do not cross words. The `tokenizers` library does the work (isoloss[bpe]).
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scaling.data.building import new_folder, publish
from scaling.data.corpus import STREAMS, Corpus, digest
from scaling.errors import InputError

SMALLEST, LARGEST = 257, 2**16
TRAINING_BYTES = 2**25  # of the train split, whose beginning is a sample of it
PIECE_BYTES, PIECES_AT_ONCE = 2**16, 64
# Words with the blank before them, numbers, marks, blanks; bytes beyond ASCII count as letters.
_WORDS = r" ?[A-Za-z\x80-\xff]+| ?[0-9]{1,3}| ?[^\sA-Za-z0-9\x80-\xff]+|\s+(?=\S)|\s+"


def check_size(vocab_size: int | None) -> int:
    if vocab_size is None or not SMALLEST <= vocab_size <= LARGEST:
        raise InputError(f"bpe = {vocab_size}: a vocabulary of {SMALLEST} to {LARGEST} tokens, of which 256 are bytes")
    return vocab_size


def build_bpe(corpus: Corpus, vocab_size: int, shelf: Path) -> Path:
    """Builds `shelf/NAME-bpeV@HASH` from a byte corpus, in whose order its tokens stand; returns the folder."""
    if corpus.manifest["tokenizer"] != "bytes":
        raise InputError(f"corpus {corpus.id}: a BPE is trained on bytes, but its tokens are {corpus.manifest['tokenizer']!r}")
    name, folder = f"{corpus.name}-bpe{vocab_size}", new_folder(shelf)
    try:
        tokenizer = train(itertools.islice(_pieces(corpus, "train"), TRAINING_BYTES // PIECE_BYTES), vocab_size)
        found = tokenizer.get_vocab_size()
        if found != vocab_size:
            raise InputError(f"corpus {corpus.id}: its text gives a BPE of {found} tokens at most, not {vocab_size}")
        saved = tokenizer.to_str()
        (folder / "tokenizer.json").write_text(saved, encoding="utf-8")
        np.save(folder / "token_bytes.npy", token_bytes(tokenizer))
        encoded = {stream: _encode(tokenizer, _pieces(corpus, stream), folder / f"{stream}.bin") for stream in STREAMS}
        sha = hashlib.sha256(saved.encode()).hexdigest()
        sizes = {f"{stream}_tokens": encoded[stream][0] for stream in STREAMS}
        text = {f"{stream}_bytes": corpus.manifest[f"{stream}_bytes"] for stream in STREAMS}
        fields = sizes | text | {"tokenizer": f"bpe-{vocab_size}", "tokenizer_sha256": sha, "vocab_size": vocab_size, "dtype": "uint16"}
        fields["bytes_per_token"] = text["train_bytes"] / sizes["train_tokens"]
        fields["of"] = corpus.id
        return publish(folder, name, digest([encoded[stream][1] for stream in STREAMS], sha), fields)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def train(pieces: Iterator[str], vocab_size: int) -> Any:
    """A tokenizer of `vocab_size` tokens trained on text in which each character stands for one byte."""
    tokenizers = _library()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(_WORDS), behavior="isolated")
    alphabet = [chr(byte) for byte in range(256)]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, limit_alphabet=256, show_progress=False)
    tokenizer.train_from_iterator(pieces, trainer)
    return tokenizer


def token_bytes(tokenizer: Any) -> np.ndarray:
    """How many bytes each token stands for, uint16."""
    lengths = np.zeros(tokenizer.get_vocab_size(), np.uint16)
    for token, number in tokenizer.get_vocab().items():
        lengths[number] = len(token)
    return lengths


def load_tokenizer(corpus: Corpus) -> Any:
    """The frozen tokenizer of a BPE corpus. It encodes and decodes text in which each character stands for one byte (Latin-1)."""
    return _library().Tokenizer.from_file(str(corpus.folder / "tokenizer.json"))


def _library() -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        import tokenizers
    except ImportError as error:
        raise InputError(f"bpe: needs the tokenizers library: pip install 'isoloss[bpe]' ({error})") from error
    return tokenizers


def _pieces(corpus: Corpus, stream: str) -> Iterator[str]:
    """The stream, cut at line ends near every PIECE_BYTES."""
    held = b""
    with open(corpus.folder / f"{stream}.bin", "rb") as file:
        while piece := file.read(PIECE_BYTES):
            held += piece
            cut = held.rfind(b"\n") + 1 or len(held)
            yield held[:cut].decode("latin-1")
            held = held[cut:]
    if held:
        yield held.decode("latin-1")


def _encode(tokenizer: Any, pieces: Iterator[str], path: Path) -> tuple[int, str]:
    """Writes the tokens of `pieces`, uint16; returns their number and their sha256."""
    count, sha = 0, hashlib.sha256()
    with open(path, "wb") as file:
        while batch := list(itertools.islice(pieces, PIECES_AT_ONCE)):
            tokens = np.concatenate([np.array(each.ids, np.dtype("<u2")) for each in tokenizer.encode_batch_fast(batch)])
            data = tokens.tobytes()
            sha.update(data)
            count += file.write(data) // 2
    return count, sha.hexdigest()
