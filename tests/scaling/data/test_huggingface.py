"""`hf:` through the `datasets` library, from a local folder, without a network."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scaling.data import huggingface
from scaling.data.corpora import Options, load_corpus
from scaling.errors import InputError


@pytest.fixture
def folder(text_folder, tmp_path):
    texts = [path.read_text() for path in sorted((text_folder / "asyncio").glob("*.py"))]
    for part in range(2):
        pq.write_table(pa.table({"body": texts[part::2], "id": range(len(texts[part::2]))}), tmp_path / f"train-{part}.parquet")
    return tmp_path


def test_a_local_folder_is_streamed_and_gives_the_same_corpus_as_its_files(folder, monkeypatch):
    pytest.importorskip("datasets", reason="the datasets library (isoloss[hf]) is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = load_corpus(f"hf:{folder}", Options(field="body", name="mine"))
    assert found.name.startswith("hf-")
    assert found.manifest["sha256"] == load_corpus(str(folder), Options(field="body")).manifest["sha256"]
    assert load_corpus("mine").id == found.id
    assert load_corpus(f"hf:{folder}", Options(field="body")).folder == found.folder
    with pytest.raises(InputError, match="no field 'text'; it has body, id"):
        load_corpus(f"hf:{folder}")


def test_without_the_library_it_says_what_to_install(folder, monkeypatch):
    def missing(name, *rest):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(huggingface.importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"pip install 'isoloss\[hf\]'"):
        load_corpus(f"hf:{folder}", Options(field="other"))


@pytest.mark.parametrize("name", ["hf:", "hf:../secret", "hf:a/b/c", "hf:owner/..", "hf:a b"])
def test_names_that_lead_elsewhere_are_refused(name):
    with pytest.raises(InputError, match="hf:"):
        load_corpus(name)


def test_names_of_the_hub_are_taken_apart():
    assert huggingface.parse("hf:owner/name:part") == huggingface.Dataset("owner/name", "part")
    assert huggingface.parse("hf:owner/name:part").label == "hf-name-part"
