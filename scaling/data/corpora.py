"""Corpora by name: built once, kept by their hash, and found again by it, by their own name, or by where they came from."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from scaling.data import grm, huggingface, sources, token_files
from scaling.data.building import build, build_from_tokens
from scaling.data.corpus import Corpus, open_corpus
from scaling.data.records import FIELD
from scaling.data.sidecars import read_json
from scaling.errors import InputError
from scaling.paths import cache_folder

_ID = re.compile(r"[\w.-]+@[0-9a-f]{8}")
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*")


@dataclasses.dataclass(frozen=True)
class Options:
    """How a corpus is built. `name` is kept as a name of its own; `field` is the key or column that holds text; `tokens` is about how many
    tokens of the source are taken (bytes of distinct text, before a BPE); `bpe` is the vocabulary of a BPE trained on the train split.
    """

    name: str | None = None
    field: str = FIELD
    tokens: int | None = None
    bpe: int | None = None


def load_corpus(name: str, options: Options | None = None) -> Corpus:
    """The corpus called `name`, built now if it has not been.

    `python-source`, `grm` (`grm:order=6`), `hf:NAME`, the path of a text, of JSON lines, a Parquet table, an archive, a token file or a
    folder; or, of one built before, NAME@HASH or the name it was given. A build is kept for good: upgraded packages and changed files do
    not change a corpus behind the back of the runs that used it. InputError for a name that leads nowhere.
    """
    options = options or Options()
    _check(options)
    if _ID.fullmatch(name) and ((_shelf() / name).is_dir() or not Path(name).exists()):
        corpus = _by_id(name)
    elif _NAME.fullmatch(name) and _pointer("names", name).exists():
        corpus = open_corpus(_pointed(_pointer("names", name)) or _gone(name))
    else:
        return _named(_from_source(name, options), options)
    if options.tokens is not None:
        raise InputError(f"corpus {name!r} is built; give tokens with the source that it is built from")
    return _named(corpus, options)


def _named(corpus: Corpus, options: Options) -> Corpus:
    """`corpus`, or its BPE, under the name that was asked for."""
    if options.bpe is not None:
        corpus = _with_bpe(corpus, options)
    if options.name is not None:
        _point(_pointer("names", options.name), corpus.folder)
    return corpus


def list_corpora() -> list[Corpus]:
    """Every corpus built so far."""
    return [open_corpus(path.parent) for path in sorted(_shelf().glob("*@*/manifest.json"))]


def names() -> dict[str, str]:
    """The names given to corpora, and the ids they stand for."""
    found = {path.stem: _pointed(path) for path in sorted((_shelf() / "names").glob("*.json"))}
    return {name: folder.name for name, folder in found.items() if folder}


def same_corpus(corpus: Corpus, recorded: Iterable[str], where: str) -> None:
    """InputError where runs in `where` were made on another corpus than `corpus`; says how to go on with theirs.

    `recorded` are the corpus ids of the runs' records.
    """
    others = sorted(set(recorded) - {corpus.id})
    if not others:
        return
    old = others[0]
    kept = (_shelf() / old).is_dir() if _ID.fullmatch(old) else False
    back = f'set corpus = "{old}" to go on with it' if kept else _way_back(old)
    raise InputError(
        f"{where}: its runs are on corpus {old}, not on {corpus.id}; losses on the two are not comparable: {back}, or use another store"
    )


def _shelf() -> Path:
    return cache_folder() / "corpora"


def _check(options: Options) -> None:
    if options.name is not None and not _NAME.fullmatch(options.name):
        raise InputError(f"name {options.name!r}: letters, digits, dots, dashes and underscores are allowed, and no folder")
    if options.name is not None and (options.name == sources.PYTHON_SOURCE or grm.is_grm(options.name)):
        raise InputError(f"name {options.name!r}: is that of a source; choose another")
    if options.tokens is not None and options.tokens < 1:
        raise InputError(f"tokens = {options.tokens}: at least one is needed")


def _by_id(name: str) -> Corpus:
    folder = _shelf() / name
    if not folder.is_dir():
        raise InputError(f"corpus {name!r} is not in {_shelf()}; `isoloss data list` shows what is; {_way_back(name)}")
    return open_corpus(folder)


def _way_back(name: str) -> str:
    """How to get a corpus that is not here."""
    own, _, _ = name.partition("@")
    others = sorted(path.parent.name for path in _shelf().glob(f"{own}@*/manifest.json"))
    here = f" (here: {', '.join(others)})" if others else ""
    if own == sources.PYTHON_SOURCE:
        how = "or build it again with the versions of Python and packages that its manifest names"
    elif own.split("-")[0] == grm.NAME:
        how = "or build it again with the parameters in its name (isoloss data build grm:...)"
    else:
        how = "or build it again from the same files"
    return f"to get it back copy the folder {name} from where it was built{here}, {how}"


def _gone(name: str) -> Path:
    raise InputError(f"corpus {name!r}: the folder that the name stands for is gone from {_shelf()}; build it again with --name {name}")


def _from_source(name: str, options: Options) -> Corpus:
    """The corpus of a source: what it was built into before, or a new build."""
    shelf, limit = _shelf(), options.tokens
    if name == sources.PYTHON_SOURCE:
        key = name if limit is None else f"{name}-{limit}"
        return _built(key, lambda: build(name, sources.python_source(), shelf, limit=limit))
    if grm.is_grm(name):
        if limit is not None:
            raise InputError(f"corpus {name!r}: has no end, and a run draws as many tokens as it reads; leave tokens out")
        parameters = grm.parse(name)
        return _built(grm.label(parameters), lambda: grm.build_grm(parameters, shelf))
    if huggingface.is_hf(name):
        dataset = huggingface.parse(name)
        key = f"{dataset.label}-{_hex(dataset, options.field, limit)}"
        return _built(key, lambda: build(dataset.label, huggingface.texts(dataset, options.field), shelf, limit=limit))
    return _from_path(name, options)


def _from_path(name: str, options: Options) -> Corpus:
    path, shelf, limit = Path(name).expanduser(), _shelf(), options.tokens
    if not path.exists():
        raise InputError(
            f"corpus {name!r} is neither {sources.PYTHON_SOURCE!r}, grm, hf:NAME, a built NAME@HASH nor an existing file or folder{_near(name)}"
        )
    label = "".join(c if c.isalnum() or c in "-_" else "-" for c in path.resolve().name.split(".")[0]) or "text"
    # What is there is recognised by sizes and times of its files, so that gigabytes need not be read to find what was built from them.
    files = [(str(file), (seen := file.stat()).st_size, seen.st_mtime_ns) for file in sources.files_of(path.resolve())]
    if path.suffix in token_files.SUFFIXES and path.is_file():
        tokens = token_files.open_tokens(path)
        key = f"{label}-{_hex(files, tokens.sidecar, limit)}"
        return _built(key, lambda: build_from_tokens(label, tokens, shelf, limit=limit))
    key = f"{label}-{_hex(files, options.field, limit)}"
    return _built(key, lambda: build(label, sources.texts(path, options.field), shelf, limit=limit))


def _with_bpe(corpus: Corpus, options: Options) -> Corpus:
    from scaling.data import bpe

    size = bpe.check_size(options.bpe)
    return _built(f"{corpus.id}-bpe{size}", lambda: bpe.build_bpe(corpus, size, _shelf()))


def _near(name: str) -> str:
    known = [*names(), *(path.parent.name for path in _shelf().glob("*@*/manifest.json"))]
    close = difflib.get_close_matches(name, known, 3, 0.6)
    return f"; there is {', '.join(close)}" if close else ""


def _hex(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _pointer(folder: str, key: str) -> Path:
    return _shelf() / folder / f"{key}.json"


def _pointed(pointer: Path) -> Path | None:
    """The corpus folder that a pointer names, if it is there."""
    try:
        folder = read_json(pointer).get("folder")
    except InputError:
        return None
    if not isinstance(folder, str) or not _ID.fullmatch(folder):  # nothing outside the shelf
        return None
    return _shelf() / folder if (_shelf() / folder).is_dir() else None


def _point(pointer: Path, folder: Path) -> None:
    pointer.parent.mkdir(parents=True, exist_ok=True)
    temporary = pointer.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps({"folder": folder.name}))
    temporary.replace(pointer)


def _built(key: str, make: Callable[[], Path]) -> Corpus:
    """The corpus that `key` was built into before, or a new build. The pointer is written last, so a killed build is no build."""
    pointer = _pointer("", key)
    folder = _pointed(pointer)
    if folder is None:
        folder = make()
        _point(pointer, folder)
    return open_corpus(folder)
