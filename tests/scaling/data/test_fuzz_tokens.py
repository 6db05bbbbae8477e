"""Whatever bytes stand in a sidecar, a manifest or a pointer: they are read, or refused in one line that names the file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scaling.data import corpora
from scaling.data.corpus import open_corpus
from scaling.data.token_files import open_tokens, sidecar_path, write_tokens
from scaling.errors import InputError

SIDECAR = {"dtype": "uint8", "count": 4, "vocab_size": 256, "tokenizer": "t", "sha256": "0" * 64, "bytes_per_token": 1.5}
MANIFEST = SIDECAR | {"name": "x", "train_tokens": 4, "validation_tokens": 4, "built": "today"}
SOURCE = MANIFEST | {"source": {"order": 2, "vocab": 8}}
NUMBERS = st.integers() | st.floats() | st.sampled_from([-1, 0, 10**30, "9" * 5000, "NaN", 1e400, True])
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=8) | st.sampled_from(["uint8", "uint64", ">u2", "../../x", "f" * 64])
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=6
)


def changed(valid: dict) -> st.SearchStrategy[bytes]:
    """Bytes of a JSON object in which some values are others and some keys are gone, with a few bytes broken; or anything."""
    edits = st.dictionaries(st.sampled_from(sorted(valid)), JSON, max_size=3)
    gone = st.sets(st.sampled_from(sorted(valid)), max_size=2)
    objects = st.builds(lambda edit, drop: {k: v for k, v in (valid | edit).items() if k not in drop}, edits, gone)
    texts = objects.map(lambda value: json.dumps(value).encode())
    broken = st.builds(
        lambda text, at, put: text[: at % len(text)] + put + text[at % len(text) + 1 :], texts, st.integers(0, 999), st.binary(max_size=4)
    )
    deep = st.sampled_from([b"[" * 3000, b'{"a":' * 2000, b"1" * 5000, b"", b"\xef\xbb\xbf{}", b"null"])
    return texts | broken | JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40) | deep


def refused_or_read(read: Callable[[Path], object], path: Path, content: bytes) -> None:
    """`read` of a file that holds `content`: a value, or an InputError of one line that names the path or the folder it is in."""
    path.write_bytes(content)
    says = str(path.parent)
    with contextlib.suppress(InputError):
        try:
            read(path)
        except InputError as error:
            says = str(error)
            raise
    assert "\n" not in says
    assert str(path.parent) in says


def readers(folder: Path) -> list[tuple[Callable[[Path], object], Path, st.SearchStrategy[bytes]]]:
    """Every reader, where its file lies, and what to write there."""
    tokens = folder / "t.bin"
    write_tokens(tokens, np.arange(4), vocab_size=256, tokenizer="t")
    (folder / "x@00000000").mkdir()
    for stream in ("train", "validation"):
        (folder / "x@00000000" / f"{stream}.bin").write_bytes(b"abcd")
    manifest, sidecar = folder / "x@00000000" / "manifest.json", sidecar_path(tokens)
    array = folder / "t.npy"
    np.save(array, np.arange(4, dtype=np.uint8))
    sidecar_path(array).write_text(json.dumps(SIDECAR))
    header = array.read_bytes()
    spoilt = st.builds(lambda at, put: header[:at] + put + header[at + len(put) :], st.integers(0, 130), st.binary(max_size=8)) | st.binary(
        max_size=90
    )
    return [
        (lambda path: open_tokens(tokens).tokens(), sidecar, changed(SIDECAR)),
        (lambda path: open_tokens(path).tokens(), array, spoilt),
        (lambda path: open_corpus(path.parent).validation(), manifest, changed(MANIFEST) | changed(SOURCE)),
        (corpora._pointed, folder / "pointer.json", changed({"folder": "x@00000000"})),
    ]


def fuzz(folder: Path, inputs: int) -> None:
    for read, path, contents in readers(folder):
        _attempts(read, path, contents, inputs)()


def _attempts(read: Callable[[Path], object], path: Path, contents: st.SearchStrategy[bytes], inputs: int) -> Callable[[], None]:
    @settings(max_examples=inputs, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(contents)
    def attempt(content: bytes) -> None:
        refused_or_read(read, path, content)

    return attempt


def test_readers_take_200_hostile_inputs_each(tmp_path):
    fuzz(tmp_path, 200)


@pytest.mark.slow
def test_readers_take_10000_hostile_inputs_each(tmp_path):
    fuzz(tmp_path, 10_000)
