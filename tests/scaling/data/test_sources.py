"""Text from files of every kind: the same text is the same corpus, and what cannot be read is refused by name and place."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import lzma
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scaling.data import building, sources
from scaling.data.corpora import Options, load_corpus
from scaling.data.reading import utf8_pieces
from scaling.errors import InputError


@pytest.fixture(scope="module")
def documents(text_folder) -> dict[str, bytes]:
    """A third of a megabyte of text."""
    return {path.name: path.read_bytes() for path in sorted((text_folder / "asyncio").glob("*.py"))}


def zipped(members) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members:
            archive.writestr(name, text)
    return file.getvalue()


def tarred(members, mode="w:gz") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, text in members:
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
    return file.getvalue()


def linked(name, target, kind=tarfile.SYMTYPE) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        archive.addfile(info)
    return file.getvalue()


def test_the_same_documents_are_the_same_corpus_in_every_form(documents, tmp_path):
    items = list(documents.items())
    (tmp_path / "folder").mkdir()
    for name, text in items:
        (tmp_path / "folder" / name).write_bytes(text)
    records = b"".join(json.dumps({"id": name, "body": text.decode()}).encode() + b"\n" for name, text in items)
    (tmp_path / "lines.jsonl").write_bytes(records)
    (tmp_path / "lines.jsonl.zst").write_bytes(pa.compress(records, codec="zstd", asbytes=True))
    table = pa.table({"body": [text.decode() for _, text in items], "id": [name for name, _ in items]})
    pq.write_table(table, tmp_path / "table.parquet", row_group_size=7)
    (tmp_path / "files.zip").write_bytes(zipped([*items, ("__MACOSX/._x", b"\xff")]))
    (tmp_path / "files.tar.gz").write_bytes(tarred(items))
    (tmp_path / "files.tar.xz").write_bytes(tarred(items, "w:xz"))
    packed = {"a.py.gz": gzip.compress, "b.py.xz": lzma.compress, "c.py.bz2": bz2.compress}
    (tmp_path / "packed").mkdir()
    for place, (name, text) in enumerate(items):
        ending, compress = list(packed.items())[place % 3]
        (tmp_path / "packed" / f"{name}-{ending}").write_bytes(compress(text.replace(b"\n", b"\r\n")))
    found = {path.name: load_corpus(str(path), Options(field="body")).manifest["sha256"] for path in sorted(tmp_path.iterdir())}
    assert len(found) == 8
    assert len(set(found.values())) == 1, found


def test_reading_stops_at_the_tokens_asked_for(documents, tmp_path):
    (tmp_path / "all.txt").write_bytes(b"\n".join(documents.values()))
    whole, part = (load_corpus(str(tmp_path / "all.txt"), Options(tokens=limit)) for limit in (None, 150_000))
    sizes = [each.train_tokens + each.validation_tokens for each in (whole, part)]
    assert 150_000 <= sizes[1] < 150_000 + 5 * building.CHUNK_BYTES < sizes[0]


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=6))
@example("a\r\né\r\n€\r".encode(), [2, 4, 7, 8])
@example(b"ab\xe2\x82\xacd\xe2\x82", [3])
@settings(max_examples=300, deadline=None, derandomize=True)
def test_text_in_pieces_is_read_as_if_whole(data, cuts):
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in itertools.pairwise(places)]
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        with pytest.raises(InputError, match=f"byte {data[error.start]:#04x} at offset {error.start}$"):
            list(utf8_pieces(pieces, "x"))
    else:
        assert b"".join(utf8_pieces(pieces, "x")) == data.replace(b"\r\n", b"\n")


@given(st.lists(st.sampled_from([b"x" * 300, b"line\n" * 200, b"\n", b"y" * 20_000, b"\n\n  \n"]), max_size=12), st.integers(1, 9000))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_chunks_do_not_depend_on_the_pieces(parts, size):
    text = b"".join(parts)
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert list(building._chunks(pieces)) == list(building._chunks([text]))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.zip", zipped([("fine.txt", b"x"), ("../evil.txt", b"x")]), r"member '../evil.txt' points outside"),
        ("b.zip", zipped([("a/../../evil.txt", b"x")]), "points outside"),
        ("c.zip", zipped([("C:\\evil.txt", b"x")]), "points outside"),
        ("d.tar", tarred([("/etc/evil", b"x")], "w"), "member '/etc/evil' points outside"),
        ("e.tar", linked("a/link", "../../secret"), r"member 'a/link' \(a link to 'a/../../secret'\) points outside"),
        ("f.tar", linked("link", "../secret", tarfile.LNKTYPE), "points outside"),
        ("g.tar", linked("link", "/etc/passwd"), "points outside"),
        ("h.zip", zipped([("bad.txt", b"abc\xff")]), r"h.zip: bad.txt: not UTF-8 text: byte 0xff at offset 3"),
        ("i.zip", b"PK\x03\x04 no", "cannot be read"),
        ("j.tar.gz", b"\x1f\x8b no", "cannot be read"),
        ("k.tar", b"no archive", "cannot be read"),
        ("l.jsonl", b'{"text": "a"}\n\n{"text": 3}\n', "line 3: field 'text' holds a JSON int"),
        ("m.jsonl", b'{"text": "a"}\nnot json\n', "line 2: not JSON"),
        ("n.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', "line 2: not UTF-8 text: byte 0xff at offset 24"),
        ("o.jsonl", b'{"body": "a", "id": 1}\n', "no field 'text'; it has body, id"),
        ("p.jsonl", b"[" * 100_000, "line 1: not JSON"),
        ("q.jsonl", b"[1]\n", "a JSON list, not an object"),
        ("r.parquet", b"PAR1 no", "cannot be read"),
        ("s.txt.zst", b"\x28\xb5\x2f\xfd no", "cannot be read"),
        ("t.txt.gz", gzip.compress(b"long enough to be cut" * 50, mtime=0)[:-20], "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        load_corpus(str(tmp_path / name))
    assert "\n" not in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_a_table_without_the_column_says_which_it_has(tmp_path):
    pq.write_table(pa.table({"body": ["a"], "stars": [1]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="no column 'text' to take text from; it has body, stars"):
        load_corpus(str(tmp_path / "t.parquet"))
    with pytest.raises(InputError, match="column 'stars' holds int64, not text"):
        load_corpus(str(tmp_path / "t.parquet"), Options(field="stars"))


def test_kinds_are_told_by_their_names():
    kinds = {
        "a.JSONL.gz": ".jsonl",
        "a.tgz": ".tar",
        "a.tar.zst": ".tar",
        "a.parquet": ".parquet",
        "a.txt.xz": "",
        "zip": "",
        "a.b.zip": ".zip",
    }
    assert {name: sources.kind_of(name) for name in kinds} == kinds
