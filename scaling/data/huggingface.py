"""`hf:NAME`: a data set of the Hugging Face hub, or a local folder, streamed through the `datasets` library (isoloss[hf])."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

from scaling.data.reading import Text
from scaling.data.records import encoded
from scaling.errors import InputError


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set, its configuration (where it has several) and its split."""

    path: str
    config: str | None
    split: str = "train"

    @property
    def label(self) -> str:
        name = "-".join(part for part in (Path(self.path).name, self.config) if part)
        return "hf-" + (re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "data")


def is_hf(name: str) -> bool:
    return name.startswith("hf:")


def parse(name: str) -> Dataset:
    """`hf:OWNER/NAME`, `hf:OWNER/NAME:CONFIG`, or `hf:` and the path of a local folder."""
    rest = name.removeprefix("hf:")
    if not rest:
        raise InputError(f"corpus {name!r}: name a data set, hf:OWNER/NAME, or the path of a local folder")
    if Path(rest).expanduser().exists():
        return Dataset(str(Path(rest).expanduser().resolve()), None)
    path, _, config = rest.partition(":")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) or ".." in path.split("/"):
        raise InputError(f"corpus {name!r}: {path!r} is neither OWNER/NAME nor an existing folder")
    return Dataset(path, config or None)


def texts(dataset: Dataset, field: str) -> Iterator[Text]:
    """(label, text) of the field of every row of the train split, a batch at a time; InputError where it cannot be had."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise InputError(f"hf:{dataset.path}: needs the datasets library: pip install 'isoloss[hf]' ({error})") from error
    try:
        rows = datasets.load_dataset(dataset.path, dataset.config, split=dataset.split, streaming=True)
        for row in rows:
            if field not in row:
                raise InputError(
                    f"hf:{dataset.path}: no field {field!r}; it has {', '.join(row)}: name one (isoloss data build --field NAME)"
                )
            if not isinstance(row[field], str | None):
                raise InputError(f"hf:{dataset.path}: field {field!r} holds {type(row[field]).__name__}, not text; name another (--field)")
            if row[field]:
                yield dataset.label, encoded(row[field])
    except InputError:
        raise
    except Exception as error:  # whatever the hub, its network or the files make the library raise
        raise InputError(f"hf:{dataset.path}: cannot be read: {type(error).__name__}: {' '.join(str(error).split())}") from error
