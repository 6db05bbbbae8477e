"""A corpus is the same text, split once, and kept by its hash."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scaling.data.corpora import build, load_corpus
from scaling.errors import InputError


def test_split_is_disjoint_complete_and_independent_of_file_order(text_folder, tmp_path):
    texts = [(path.name, path.read_bytes()) for path in sorted(text_folder.rglob("*.py"))]
    folder = build("text", texts, tmp_path / "a")
    backwards = build("text", texts[::-1], tmp_path / "b")
    assert folder.name == backwards.name
    train, validation = ((folder / f"{name}.bin").read_bytes() for name in ("train", "validation"))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert len(train) == manifest["train_bytes"]
    assert 0.5 < len(validation) / (len(train) + len(validation)) / manifest["validation_share"] < 2
    # Long lines of the validation set are not in the training set, save what authors repeat.
    lines = [line for line in validation.split(b"\n") if len(line) > 60]
    assert np.mean([line in train for line in lines]) < 0.1
    # Nothing is lost: the lines of every file are in one of the streams.
    for _, text in texts[:20]:
        assert all(line in train or line in validation for line in text.splitlines() if len(line) > 60)


def test_duplicates_are_kept_once(text_folder, tmp_path):
    texts = [(path.name, path.read_bytes()) for path in sorted(text_folder.rglob("*.py"))]
    once = build("text", texts, tmp_path / "a")
    twice = build("text", texts + [(f"copy-{name}", text.upper()) for name, text in texts], tmp_path / "b")
    sizes = [json.loads((folder / "manifest.json").read_text())["train_bytes"] for folder in (once, twice)]
    assert sizes[1] == sizes[0]


def test_a_folder_is_built_once_and_found_by_its_id(text_folder):
    corpus = load_corpus(str(text_folder))
    assert load_corpus(str(text_folder)).folder == corpus.folder
    again = load_corpus(corpus.id)
    assert again.manifest == corpus.manifest
    np.testing.assert_array_equal(again.train()[:100], corpus.train()[:100])


def test_bad_texts_are_refused_in_one_line(tmp_path):
    def refused(says, path):
        with pytest.raises(InputError, match=says) as caught:
            load_corpus(str(path))
        assert "\n" not in str(caught.value)

    refused("neither 'python-source'", tmp_path / "none.txt")
    refused("is not in", "python-source@00000000")
    (tmp_path / "empty").mkdir()
    refused("holds no files", tmp_path / "empty")
    (tmp_path / "tiny.txt").write_text("too little")
    refused("has 10 bytes of distinct text", tmp_path / "tiny.txt")
    (tmp_path / "empty.txt").write_text("")
    refused("has 0 bytes", tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    refused("byte 0xe9 at offset 3", tmp_path / "latin.txt")
    (tmp_path / "cut.txt.xz").write_bytes(b"\xfd7zXZ\x00")
    refused("cannot be read", tmp_path / "cut.txt.xz")


def test_a_cut_stream_is_noticed(text_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path))
    corpus = load_corpus(str(text_folder))
    stream = corpus.folder / "train.bin"
    stream.write_bytes(stream.read_bytes()[:-1])
    with pytest.raises(InputError, match="its manifest says"):
        load_corpus(corpus.id)


def test_prose_by_its_path(corpora_folder):
    corpus = load_corpus(str(corpora_folder / "pd-prose-v1-val.txt.xz"))
    assert corpus.name == "pd-prose-v1-val"
    assert corpus.manifest["train_bytes"] + corpus.manifest["validation_bytes"] > 1_000_000
