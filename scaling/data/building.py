"""Builds a corpus: chunks that say the same are kept once, and the sha256 of a chunk decides its place in the stream and its split.

So validation is exchangeable with training, the split survives re-ordering, and a prefix of the stream is a sample of it. Text passes
through a file beside the corpus: memory grows by some 250 bytes a chunk, whatever the chunks hold.
"""

from __future__ import annotations

import array
import hashlib
import json
import shutil
import string
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scaling.data import sources
from scaling.data.corpus import STREAMS, digest
from scaling.data.reading import closing
from scaling.data.token_files import TokenFile
from scaling.errors import InputError

CHUNK_BYTES = 4096
CHUNK_TOKENS = 4096
MIN_BYTES = 100_000  # and as many tokens
VALIDATION_SHARE = 0.02
VALIDATION_MIN_BYTES = 100_000  # aimed at, up to a fifth of a small corpus
VALIDATION_LEAST_BYTES = 8192
VALIDATION_MOST = 2**24  # tokens: all of them lie on the device when a run is judged
_NOT_ALPHANUMERIC = bytes(set(range(128)) - set((string.ascii_letters + string.digits).encode()))
_SPLIT_SALT = b"isoloss-split-1"


def build(name: str, texts: Iterable[sources.Text], shelf: Path, *, limit: int | None = None) -> Path:
    """Builds `shelf/NAME@HASH` (train.bin, validation.bin, manifest.json) from (label, UTF-8 bytes) pairs; returns the folder.

    With `limit` it stops once that many bytes of distinct text are there.
    """
    labels, documents = set(), 0
    origin_bytes: dict[str, int] = {}
    with _Building(shelf) as building, closing(texts):
        for label, text in texts:
            labels.add(label)
            documents += 1
            origin = label.split("/")[0]
            origin_bytes.setdefault(origin, 0)
            pieces = _counted([text] if isinstance(text, bytes) else text, origin_bytes, origin)
            for chunk in _chunks(pieces):
                building.add(chunk, same=chunk.lower().translate(None, _NOT_ALPHANUMERIC))
                if limit is not None and building.size >= limit:
                    break
            if limit is not None and building.size >= limit:
                break
        if building.size < MIN_BYTES:
            raise InputError(
                f"corpus {name!r} has {building.size} bytes of distinct text in {len(labels)} files; at least {MIN_BYTES} are needed"
            )
        share = _share(building.size)
        sizes, sums = building.split(share, b"\n\n")
        if sizes["validation"] < VALIDATION_LEAST_BYTES:
            raise InputError(
                f"corpus {name!r}: only {sizes['validation']} bytes fell to the validation split, at least {VALIDATION_LEAST_BYTES} are needed;"
                " give more text, or text with shorter lines"
            )
        return building.finish(
            name,
            digest(sums),
            {f"{stream}_{unit}": sizes[stream] for stream in STREAMS for unit in ("bytes", "tokens")}
            | {"files": len(labels), "documents": documents, "validation_share": share}
            | {"tokenizer": "bytes", "vocab_size": 256, "dtype": "uint8"}
            | {"origin_bytes": origin_bytes, "origin_versions": sources.versions(origin_bytes)},
        )


def build_from_tokens(name: str, file: TokenFile, shelf: Path, *, limit: int | None = None) -> Path:
    """Builds a corpus from a token file, in chunks of CHUNK_TOKENS; InputError where it holds other tokens than its sidecar says."""
    said, sha = file.sidecar, hashlib.sha256()
    with _Building(shelf) as building:
        size = np.dtype(said.dtype).itemsize
        for at, tokens in file.pieces(CHUNK_TOKENS):
            if limit is not None and building.size >= limit * size:
                break
            worst = int(tokens.max(initial=0))
            if worst >= said.vocab_size:
                place = at + int(np.argmax(tokens >= said.vocab_size))
                raise InputError(f"{file.path}: token {worst} at place {place}, but its sidecar says vocab_size = {said.vocab_size}")
            chunk = tokens.tobytes()
            sha.update(chunk)
            building.add(chunk, same=chunk)
        else:  # all of it was read
            file.same_hash(sha.hexdigest())
        tokens = building.size // size
        if tokens < MIN_BYTES:
            raise InputError(f"corpus {name!r} has {tokens} tokens in distinct chunks; at least {MIN_BYTES} are needed")
        share = _share(tokens)
        sizes, sums = building.split(share, b"")
        if sizes["validation"] < VALIDATION_LEAST_BYTES * size:
            raise InputError(f"corpus {name!r}: only {sizes['validation'] // size} tokens fell to the validation split; give more tokens")
        tokenizer = hashlib.sha256(said.tokenizer.encode()).hexdigest()
        return building.finish(
            name,
            digest(sums, tokenizer),
            {f"{stream}_tokens": sizes[stream] // size for stream in STREAMS}
            | {"validation_share": share, "tokenizer": said.tokenizer, "tokenizer_sha256": tokenizer, "vocab_size": said.vocab_size}
            | {"dtype": said.dtype, "bytes_per_token": said.bytes_per_token, "file_sha256": said.sha256},
        )


class _Building:
    """A corpus that is being built in a folder beside the others, which goes if the build does not finish."""

    def __init__(self, shelf: Path):
        self.folder, self.size, self.duplicates = new_folder(shelf), 0, 0
        self._spool = open(self.folder / "spool", "w+b")  # noqa: SIM115 (closed by __exit__)
        self._seen: set[bytes] = set()
        self._keys = bytearray()  # 32 bytes a chunk
        self._ends = array.array("q", [0])

    def __enter__(self) -> _Building:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, chunk: bytes, same: bytes) -> None:
        """Takes a chunk, unless one with the same `same` was taken before."""
        fingerprint = hashlib.sha256(same).digest()[:16]
        if fingerprint in self._seen:
            self.duplicates += 1
            return
        self._seen.add(fingerprint)
        self._keys += hashlib.sha256(_SPLIT_SALT + chunk).digest()
        self._spool.write(chunk)
        self.size += len(chunk)
        self._ends.append(self.size)

    def split(self, share: float, separator: bytes) -> tuple[dict[str, int], list[str]]:
        """Writes the streams, chunks in the order of their keys; returns their sizes in bytes and their sha256."""
        keys, ends = np.frombuffer(self._keys, ">u8").reshape(-1, 4), np.array(self._ends)
        order = np.lexsort(keys.T[::-1])
        held_out = keys[:, 3].astype(np.float64) / 2.0**64 < share
        written = {}
        for stream, chosen in (("train", order[~held_out[order]]), ("validation", order[held_out[order]])):
            written[stream] = self._write(stream, zip(ends[chosen].tolist(), ends[chosen + 1].tolist(), strict=True), separator)
        return {stream: size for stream, (size, _) in written.items()}, [written[stream][1] for stream in STREAMS]

    def _write(self, stream: str, spans: Iterable[tuple[int, int]], separator: bytes) -> tuple[int, str]:
        sha, size = hashlib.sha256(), 0
        with open(self.folder / f"{stream}.bin", "wb") as file:
            for start, end in spans:
                self._spool.seek(start)
                part = (separator if size else b"") + self._spool.read(end - start)
                sha.update(part)
                size += file.write(part)
        return size, sha.hexdigest()

    def finish(self, name: str, sha256: str, fields: dict[str, Any]) -> Path:
        (self.folder / "spool").unlink()
        chunks = {"chunks": len(self._ends) - 1, "duplicate_chunks_dropped": self.duplicates}
        return publish(self.folder, name, sha256, fields | chunks)


def new_folder(shelf: Path) -> Path:
    """A folder on the shelf to build in."""
    shelf.mkdir(parents=True, exist_ok=True)
    for stale in shelf.glob(".building-*"):  # of builds that were killed
        if time.time() - stale.stat().st_mtime > 24 * 3600:
            shutil.rmtree(stale, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=shelf, prefix=".building-"))


def publish(building: Path, name: str, sha256: str, fields: dict[str, Any]) -> Path:
    """Writes the manifest and gives the folder its name on the shelf: from then on the corpus is there."""
    folder = building.parent / f"{name}@{sha256[:8]}"
    manifest = {"name": name, "sha256": sha256} | fields | {"built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    (building / "manifest.json").write_text(json.dumps(manifest, indent=1))
    try:
        building.rename(folder)
    except OSError:  # the same corpus was built before, or by another process just now
        shutil.rmtree(building)
        if not (folder / "manifest.json").exists():
            raise
    return folder


def _share(tokens: int) -> float:
    """Of the chunks that go to validation."""
    return min(0.2, max(VALIDATION_SHARE, VALIDATION_MIN_BYTES / tokens), VALIDATION_MOST / tokens)


def _counted(pieces: Iterable[bytes], sizes: dict[str, int], origin: str) -> Iterator[bytes]:
    for piece in pieces:
        sizes[origin] += len(piece)
        yield piece


def _chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Text in pieces of at least CHUNK_BYTES that end at line ends (the last may be shorter; blank ones are left out)."""
    held = b""
    for piece in pieces:
        held += piece
        start = 0
        while start + 4 * CHUNK_BYTES < len(held):  # so far a line end decides
            end = _chunk_end(held, start)
            yield from _unless_blank(held[start:end])
            start = end
        held = held[start:]
    start = 0
    while start < len(held):
        end = _chunk_end(held, start)
        yield from _unless_blank(held[start:end])
        start = end


def _chunk_end(text: bytes, start: int) -> int:
    end = text.find(b"\n", start + CHUNK_BYTES, start + 4 * CHUNK_BYTES) + 1
    return end or min(start + CHUNK_BYTES, len(text))


def _unless_blank(chunk: bytes) -> Iterator[bytes]:
    chunk = chunk.strip(b"\n")
    if chunk.strip():
        yield chunk
