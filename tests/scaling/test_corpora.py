"""A corpus is the same text, split once, and kept by its hash."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from scaling.data.corpora import Options, build, load_corpus, names, same_corpus
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


def test_a_changed_stream_and_a_renamed_folder_are_noticed(text_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path))
    corpus = load_corpus(str(text_folder))
    corpus.check()
    stream = corpus.folder / "train.bin"
    text = stream.read_bytes()
    stream.write_bytes(text[:1000] + b"!" + text[1001:])
    with pytest.raises(InputError, match=f"its streams have sha256 [0-9a-f]+, its manifest says {corpus.manifest['sha256']}"):
        corpus.check()
    corpus.folder.rename(corpus.folder.with_name("other@00000000"))
    with pytest.raises(InputError, match=f"its manifest is of {corpus.id}"):
        load_corpus("other@00000000")


def test_a_corpus_that_is_not_the_one_of_the_runs_is_refused_and_the_way_back_named(text_folder, tmp_path):
    """Text that changes behind a store's back gives another hash; runs on the old one are found again by it."""
    folder = tmp_path / "notes"
    shutil.copytree(text_folder, folder)
    old = load_corpus(str(folder))
    next(folder.rglob("*.py")).write_text("# another text\n" * 1000)
    new = load_corpus(str(folder))
    assert new.id != old.id
    same_corpus(new, [new.id, new.id], "runs.sqlite")
    with pytest.raises(InputError, match=f'runs.sqlite: its runs are on corpus {old.id}, not on {new.id}.*set corpus = "{old.id}"'):
        same_corpus(new, [new.id, old.id], "runs.sqlite")
    assert load_corpus(old.id).manifest == old.manifest
    with pytest.raises(InputError, match=f"copy the folder notes@00000000 from where it was built .here: .*{old.id}"):
        load_corpus("notes@00000000")
    with pytest.raises(InputError, match="to get it back copy the folder python-source@00000000"):
        same_corpus(new, ["python-source@00000000"], "runs.sqlite")


def test_a_name_of_ones_own_leads_to_the_corpus_and_nowhere_else(text_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path))
    corpus = load_corpus(str(text_folder), Options(name="notes.v1"))
    assert load_corpus("notes.v1").id == corpus.id
    assert names() == {"notes.v1": corpus.id}
    for name in ("../notes", "/tmp/notes", ".hidden", "", "a/b", "grm", "python-source", "x\ny"):
        with pytest.raises(InputError, match="name "):
            load_corpus(str(text_folder), Options(name=name))
    for name in ("../corpora/text@12345678", "..@12345678/x", "names/notes.v1"):
        with pytest.raises(InputError, match="neither"):
            load_corpus(name)
    with pytest.raises(InputError, match="is built; give tokens with the source"):
        load_corpus("notes.v1", Options(tokens=1000))
    outside = tmp_path / "elsewhere@12345678"
    outside.mkdir()
    (tmp_path / "corpora" / "names" / "notes.v1.json").write_text(json.dumps({"folder": "../elsewhere@12345678"}))
    with pytest.raises(InputError, match="the name stands for is gone"):
        load_corpus("notes.v1")


def test_a_manifest_of_before_token_counts_is_read(text_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path))
    corpus = load_corpus(str(text_folder))
    older = {key: value for key, value in corpus.manifest.items() if key not in ("train_tokens", "validation_tokens", "dtype", "documents")}
    (corpus.folder / "manifest.json").write_text(json.dumps(older))
    again = load_corpus(corpus.id)
    assert (again.train_tokens, again.validation_tokens, again.dtype) == (corpus.train_tokens, corpus.validation_tokens, np.uint8)


def test_the_command_builds_lists_and_inspects(text_folder, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from scaling.data_command import data

    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path))

    def answer(*arguments):
        run = CliRunner().invoke(data, [*map(str, arguments), "--json"], catch_exceptions=False)
        assert run.exit_code == 0
        return json.loads(run.stdout)

    built = answer("build", text_folder, "--name", "notes", "--tokens", 2e5)
    assert 200_000 <= built["train_tokens"] + built["validation_tokens"] < 220_000
    assert answer("inspect", "notes", "--check")["sha256"] == built["sha256"]
    source = answer("inspect", "grm:order=2")
    assert len(source["entropy_ladder"]) == 3
    assert source["entropy"] == source["entropy_ladder"][-1]
    listed = answer("list")["corpora"]
    assert {row["corpus"]: row["names"] for row in listed} == {built["corpus"]: ["notes"], source["corpus"]: []}


def test_prose_by_its_path(corpora_folder):
    corpus = load_corpus(str(corpora_folder / "pd-prose-v1-val.txt.xz"))
    assert corpus.name == "pd-prose-v1-val"
    assert corpus.manifest["train_bytes"] + corpus.manifest["validation_bytes"] > 1_000_000
