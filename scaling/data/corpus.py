"""A built corpus: two token streams and a manifest in a folder that is named by their hash."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from scaling.data.sidecars import read_manifest
from scaling.errors import InputError

STREAMS = ("train", "validation")
RESIDENT_BYTES = 2**28  # of a training stream that is put on the device whole


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A corpus on disk. `id` is NAME@HASH: eight hex digits of the sha256 of its two streams (and of its tokenizer, where it has one)."""

    name: str
    folder: Path
    manifest: dict[str, Any]

    @property
    def id(self) -> str:
        return f"{self.name}@{self.manifest['sha256'][:8]}"

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.manifest["dtype"]).newbyteorder("<")

    @property
    def train_tokens(self) -> int:
        return self.manifest["train_tokens"]

    @property
    def validation_tokens(self) -> int:
        return self.manifest["validation_tokens"]

    @property
    def resident(self) -> bool:
        """Whether the training stream is small enough to lie on the device whole; of others a run gets the sequences that it reads."""
        return self.train_tokens * self.dtype.itemsize <= RESIDENT_BYTES

    def train(self) -> np.ndarray:
        """The training stream, memory-mapped."""
        return np.memmap(self.folder / "train.bin", dtype=self.dtype, mode="r")

    def validation(self) -> np.ndarray:
        """The validation stream, memory-mapped."""
        return np.memmap(self.folder / "validation.bin", dtype=self.dtype, mode="r")

    def order(self, context: int, seed: int) -> np.ndarray:
        """The order in which sequences of `context` tokens are seen, int32: one permutation a corpus, context and seed.

        A shorter run sees a prefix of what a longer one sees, at every model size.
        """
        count = (self.train_tokens - 1) // context
        return np.random.Generator(np.random.Philox(key=[seed, context])).permutation(count).astype(np.int32)

    def sequences(self, context: int, seed: int, count: int) -> np.ndarray:
        """The first `count` training sequences in the order of `seed`, (count, context + 1): inputs and, one further, targets.

        They are read one by one, not through a map, so that resident memory grows by them alone.
        """
        size = self.dtype.itemsize
        rows = np.empty((count, context + 1), self.dtype)
        with open(self.folder / "train.bin", "rb", buffering=0) as file:
            for row, place in zip(rows, self.order(context, seed)[:count].tolist(), strict=True):
                file.seek(place * context * size)
                file.readinto(row)
        return rows

    def bytes_of(self, tokens: np.ndarray) -> np.ndarray | None:
        """Bytes of text that each token stands for; None where that is not known."""
        if self.manifest["tokenizer"] == "bytes":
            return np.ones(tokens.shape)
        lengths = self.folder / "token_bytes.npy"
        if lengths.exists():
            return np.load(lengths).astype(float)[tokens]
        mean = self.manifest.get("bytes_per_token")
        return None if mean is None else np.full(tokens.shape, float(mean))

    def check(self) -> None:
        """Reads all of it and compares its hash with the manifest's; InputError names both where they differ."""
        found = digest([file_sha256(self.folder / f"{stream}.bin") for stream in STREAMS], self.manifest.get("tokenizer_sha256"))
        _same_hash(self, found)


def _same_hash(corpus: Corpus, found: str) -> None:
    if found != corpus.manifest["sha256"]:
        raise InputError(
            f"corpus {corpus.id}: its streams have sha256 {found}, its manifest says {corpus.manifest['sha256']};"
            f" the files in {corpus.folder} were changed: take them from a copy, or delete the folder and build the corpus again"
        )


def open_corpus(folder: Path) -> Corpus:
    """The corpus in `folder`; InputError where what is there contradicts its manifest."""
    manifest = read_manifest(folder / "manifest.json")
    if "source" in manifest:
        from scaling.data.grm import MarkovCorpus, checked

        checked(manifest["source"], f"corpus {folder}: source")
        corpus: Corpus = MarkovCorpus(folder.name.split("@")[0], folder, manifest)
    else:
        corpus = Corpus(folder.name.split("@")[0], folder, manifest)
    if folder.name != f"{manifest['name']}@{manifest['sha256'][:8]}":
        raise InputError(
            f"corpus {folder}: its manifest is of {manifest['name']}@{manifest['sha256'][:8]}; give the folder that name again"
        )
    for stream in STREAMS:
        if stream == "train" and "source" in manifest:  # drawn, not stored
            continue
        wanted = manifest[f"{stream}_tokens"] * corpus.dtype.itemsize
        try:
            size = (folder / f"{stream}.bin").stat().st_size
        except OSError as error:
            raise InputError(f"corpus {folder}: {stream}.bin cannot be read: {error}; delete the folder to build it again") from error
        if size != wanted:
            raise InputError(
                f"corpus {folder}: {stream}.bin has {size} bytes, its manifest says {wanted}; delete the folder to build it again"
            )
    return corpus


def digest(streams: list[str], tokenizer: str | None = None) -> str:
    """A corpus' hash from the hex sha256 of its streams and of its tokenizer."""
    parts = [*streams, *([tokenizer] if tokenizer else [])]
    return hashlib.sha256(b"".join(bytes.fromhex(part) for part in parts)).hexdigest()


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
