"""Corpora: from files to a shuffled byte stream with a fixed validation set, built once and kept by its hash.

Files are cut at line ends into chunks, chunks that say the same are kept once, and the sha256 of a chunk decides its place in
the stream and whether it is validation. So validation is exchangeable with training, and the split survives re-ordering.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import string
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from scaling.data import sources
from scaling.errors import InputError
from scaling.paths import cache_folder

CHUNK_BYTES = 4096
MIN_BYTES = 100_000
VALIDATION_SHARE = 0.02
VALIDATION_MIN_BYTES = 100_000  # aimed at, up to a fifth of a small corpus
VALIDATION_LEAST_BYTES = 8192
_NOT_ALPHANUMERIC = bytes(set(range(128)) - set((string.ascii_letters + string.digits).encode()))
_SPLIT_SALT = b"isoloss-split-1"


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A built corpus. `id` is NAME@HASH: eight hex digits of the sha256 of its two streams. One token is one byte."""

    name: str
    folder: Path
    manifest: dict

    @property
    def id(self) -> str:
        return f"{self.name}@{self.manifest['sha256'][:8]}"

    def train(self) -> np.ndarray:
        """The training stream, uint8, memory-mapped."""
        return np.memmap(self.folder / "train.bin", dtype=np.uint8, mode="r")

    def validation(self) -> np.ndarray:
        """The validation stream, uint8, memory-mapped."""
        return np.memmap(self.folder / "validation.bin", dtype=np.uint8, mode="r")


def load_corpus(name: str) -> Corpus:
    """The corpus called `name`, built now if it has not been: `python-source`, NAME@HASH, or the path of a text or a folder.

    A build is kept for good: upgraded packages do not change a corpus behind the back of the runs that used it.
    """
    if "@" in name and (_shelf() / name).is_dir():
        return _open(_shelf() / name)
    if "@" in name and not Path(name).exists():
        raise InputError(f"corpus {name!r} is not in {_shelf()}; `isoloss data list` shows what is")
    if name == sources.PYTHON_SOURCE:
        return _built(name, name, sources.python_source())
    path = Path(name).expanduser()
    if not path.exists():
        raise InputError(f"corpus {name!r} is neither {sources.PYTHON_SOURCE!r}, a built NAME@HASH nor an existing file or folder")
    texts = list(sources.text_files(path))
    label = "".join(c if c.isalnum() or c in "-_" else "-" for c in path.resolve().name.split(".")[0]) or "text"
    fingerprint = hashlib.sha256(b"".join(hashlib.sha256(text).digest() for _, text in texts)).hexdigest()[:16]
    return _built(label, f"{label}-{fingerprint}", texts)


def list_corpora() -> list[Corpus]:
    """Every corpus built so far."""
    return [_open(path.parent) for path in sorted(_shelf().glob("*@*/manifest.json"))]


def _shelf() -> Path:
    return cache_folder() / "corpora"


def _open(folder: Path) -> Corpus:
    manifest = json.loads((folder / "manifest.json").read_text())
    for stream in ("train", "validation"):
        size = (folder / f"{stream}.bin").stat().st_size
        if size != manifest[f"{stream}_bytes"]:
            raise InputError(
                f"corpus {folder}: {stream}.bin has {size} bytes, its manifest says {manifest[f'{stream}_bytes']};"
                " delete the folder to build it again"
            )
    return Corpus(folder.name.split("@")[0], folder, manifest)


def _built(name: str, key: str, texts: Iterable[tuple[str, bytes]]) -> Corpus:
    """The corpus that `key` was built into before, or a new build. The pointer is written last, so a killed build is no build."""
    pointer = _shelf() / f"{key}.json"
    if pointer.exists():
        folder = _shelf() / json.loads(pointer.read_text())["folder"]
        if folder.is_dir():
            return _open(folder)
    folder = build(name, texts, _shelf())
    temporary = pointer.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps({"folder": folder.name}))
    temporary.replace(pointer)
    return _open(folder)


def build(name: str, texts: Iterable[tuple[str, bytes]], shelf: Path) -> Path:
    """Builds `shelf/NAME@HASH` (train.bin, validation.bin, manifest.json) from (label, UTF-8 bytes) pairs; returns the folder."""
    files, seen, chunks, duplicates = 0, set(), [], 0
    origin_bytes: dict[str, int] = {}
    for label, text in texts:
        files += 1
        origin_bytes[label.split("/")[0]] = origin_bytes.get(label.split("/")[0], 0) + len(text)
        for chunk in _chunks(text):
            same = hashlib.sha256(chunk.lower().translate(None, _NOT_ALPHANUMERIC)).digest()
            if same in seen:
                duplicates += 1
                continue
            seen.add(same)
            chunks.append((hashlib.sha256(_SPLIT_SALT + chunk).digest(), chunk))
    total = sum(len(chunk) for _, chunk in chunks)
    if total < MIN_BYTES:
        raise InputError(f"corpus {name!r} has {total} bytes of distinct text in {files} files; at least {MIN_BYTES} are needed")
    chunks.sort()
    share = min(0.2, max(VALIDATION_SHARE, VALIDATION_MIN_BYTES / total))
    held_out = [chunk for key, chunk in chunks if _fraction(key) < share]
    training = [chunk for key, chunk in chunks if _fraction(key) >= share]
    streams = {"train": b"\n\n".join(training), "validation": b"\n\n".join(held_out)}
    if len(streams["validation"]) < VALIDATION_LEAST_BYTES:
        raise InputError(
            f"corpus {name!r}: only {len(streams['validation'])} bytes fell to the validation split, at least {VALIDATION_LEAST_BYTES} are needed;"
            " give more text, or text with shorter lines"
        )
    digest = hashlib.sha256(hashlib.sha256(streams["train"]).digest() + hashlib.sha256(streams["validation"]).digest()).hexdigest()
    manifest = {
        "name": name,
        "sha256": digest,
        "train_bytes": len(streams["train"]),
        "validation_bytes": len(streams["validation"]),
        "files": files,
        "chunks": len(chunks),
        "duplicate_chunks_dropped": duplicates,
        "validation_share": share,
        "tokenizer": "bytes",
        "vocab_size": 256,
        "origin_bytes": origin_bytes,
        "origin_versions": sources.versions(origin_bytes),
        "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return _write(shelf / f"{name}@{digest[:8]}", streams, manifest)


def _write(folder: Path, streams: dict[str, bytes], manifest: dict) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    for stale in folder.parent.glob(".building-*"):  # of builds that were killed
        if time.time() - stale.stat().st_mtime > 3600:
            shutil.rmtree(stale, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".building-"))
    for stream, data in streams.items():
        (temporary / f"{stream}.bin").write_bytes(data)
    (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
    try:
        temporary.rename(folder)
    except OSError:  # the same text was built before, or by another process just now
        shutil.rmtree(temporary)
        if not (folder / "manifest.json").exists():
            raise
    return folder


def _chunks(text: bytes) -> Iterator[bytes]:
    """`text` in pieces of at least CHUNK_BYTES that end at line ends (the last may be shorter; blank ones are left out)."""
    start = 0
    while start < len(text):
        end = text.find(b"\n", start + CHUNK_BYTES) + 1
        end = end if 0 < end <= start + 4 * CHUNK_BYTES else min(start + CHUNK_BYTES, len(text))
        chunk = text[start:end].strip(b"\n")
        if chunk.strip():
            yield chunk
        start = end


def _fraction(key: bytes) -> float:
    return int.from_bytes(key[-8:], "big") / 2**64
