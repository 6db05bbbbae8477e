"""Public tables: what the registry says of them holds, and a file is fetched once and refused if it is another."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import re
import threading
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fits
import fits.datasets
from fits import registry
from fits.datasets import dataset, dataset_names
from fits.registry import TABLES, Table

# Rows of the file, of the checked table, and of the authors' recipe (None: it has none).
ROWS = {
    "chinchilla-epoch": (245, 245, 240),
    "chinchilla-kyotakano-subset": (234, 234, None),
    "misfitting-final": (261, 261, 81),
    "misfitting-checkpoints": (4852, 4852, None),
    "porian-isoflops": (1745, 1745, 121),
    "porian-optima": (177, 173, 12),
    "porian-published-fits": (60, 60, None),
    "gadre-overtraining": (104, 104, 15),
    "datablations-c4": (293, 293, 229),
    "olmo-ladder": (3569, 2459, 16),
    "clark-routed-curves": (5799, 5791, 163),
    "steplaw-dense": (1911, 1911, 17),
    "steplaw-moe": (708, 708, 16),
    "vocab-sailsg": (1200, 1200, 1054),
    "revisiting-lang": (1399, 1399, 766),
    "bnsl-4digit-addition": (17, 17, 14),
    "obs-scaling-base": (148, 148, None),
    "sloth-leaderboard-v2": (216, 216, None),
}
CSV = b"params,tokens,loss\n1e7,1e9,3.5\n2e7,2e9,3.25\n"


@pytest.mark.parametrize("name", ROWS)
def test_every_table_is_the_published_file_and_ready_to_fit(data_folder, name):
    table, (rows, checked, chosen) = TABLES[name], ROWS[name]
    assert len(dataset(name, raw=True)) == rows
    runs = dataset(name)
    assert len(runs) == checked
    assert not any("sha256" in warning for warning in runs.attrs["warnings"])
    assert set(table.columns) <= set(runs.columns)
    if table.output is not None:
        assert np.isfinite(runs[[*(table.needs or ("params", "tokens", "flops")), table.output]]).all(axis=None)
    assert table.has_recipe == (chosen is not None)
    if chosen is not None:
        assert len(dataset(name, recipe=True)) == chosen


def test_the_registry_is_complete_and_says_where_each_table_is_from():
    assert dataset_names() == list(ROWS) == list(TABLES)
    for table in TABLES.values():
        assert re.fullmatch(r"[0-9a-f]{40}", table.commit)
        assert re.fullmatch(r"[0-9a-f]{64}", table.sha256)
        assert re.fullmatch(r"\d{4}\.\d{5}", table.arxiv)
        assert table.remark.endswith(".")
        assert ("must not be redistributed" in table.note) == (table.licence == "none")
        if table.public:
            assert table.url == f"https://raw.githubusercontent.com/{table.repository}/{table.commit}/{table.path}"
            assert (table.packed_sha256 is not None) == table.path.endswith(".gz")


def test_the_documented_recipe_is_applied_only_if_asked(data_folder):
    assert TABLES["chinchilla-epoch"].recipe_where == "loss < 3.43"
    everything, chosen = dataset("chinchilla-epoch"), dataset("chinchilla-epoch", recipe=True)
    assert everything["loss"].max() > 5
    assert chosen["loss"].max() < 3.43
    assert chosen.attrs["derived"] == "tokens by C = 6 N D"
    assert chosen.attrs["prepared"] == ["recipe of the authors: rows with loss < 3.43: 240 of 245 rows"]
    # The five that are left out are those trained on less than 0.42 tokens a parameter.
    assert (everything["tokens"] / everything["params"] < 0.42).sum() == 5
    assert chosen.attrs["dataset"]["arxiv"] == "2404.10102"
    with pytest.raises(fits.InputError, match="no recipe"):
        dataset("sloth-leaderboard-v2", recipe=True)
    with pytest.raises(fits.InputError, match="leave out recipe"):
        dataset("chinchilla-epoch", recipe=True, raw=True)


def test_raw_is_the_file_as_it_is(data_folder):
    raw = dataset("chinchilla-epoch", raw=True)
    assert list(raw) == ["x", "y", "color", "Model Size", "Training FLOP", "hex_color", "loss"]
    assert raw.attrs["dataset"]["licence"] == "none"


def test_columns_mean_what_their_names_say(data_folder):
    clark = dataset("clark-routed-curves", recipe=True)
    assert (clark["params"] <= clark["total_params"]).all()
    assert set(clark["router"]) == {"Dense", "Hash", "S-Base", "RL-R"}
    assert (clark.loc[clark["router"] == "Dense", "experts"] == 1).all()
    step = dataset("steplaw-dense")
    # 2048 tokens a sequence, bs sequences a step, ti steps.
    np.testing.assert_allclose(step["batch_size"] * 2048 * step["ti"], step["tokens"], rtol=0.003)
    raw = dataset("steplaw-dense", raw=True)
    assert step["loss"].equals(raw["smooth loss"])
    assert step["loss_last_step"].equals(raw["loss"])
    moe = dataset("steplaw-moe")
    assert (moe["active_params"] < moe["non_embedding_params"]).all()
    assert (moe["flops"] > 6 * moe["active_params"] * moe["tokens"]).all()  # attention comes on top
    vocab = dataset("vocab-sailsg")
    assert "loss" not in vocab
    assert (vocab["loss_unigram_normalised"] < 0).all()
    np.testing.assert_array_equal(vocab["vocab_params"], vocab["vocab"] * vocab["embed_dim"])
    gadre = dataset("gadre-overtraining", recipe=True)
    assert gadre.groupby("corpus")["params"].agg(["size", "nunique"]).to_numpy().tolist() == [[5, 4]] * 3


@pytest.mark.parametrize("name", ["obs-scaling-base", "sloth-leaderboard-v2"])
def test_scores_come_in_counts_and_flop(data_folder, name):
    scores = dataset(name)
    assert "loss" not in scores
    known = scores[scores["tokens"].notna()]
    np.testing.assert_allclose(known["flops"], 6 * known["params"] * known["tokens"], rtol=1e-9)
    assert 5e7 < scores["params"].min() < scores["params"].max() < 1e12


def test_unknown_names_list_the_known():
    with pytest.raises(fits.InputError, match="no dataset 'chinchila'; there are chinchilla-epoch, "):
        dataset("chinchila")


class Server:
    """A web server of one folder on this machine that counts what it is asked for."""

    def __init__(self, folder):
        self.asked = []
        outer = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments):
                super().__init__(*arguments, directory=str(folder))

            def log_message(self, format, *args):
                outer.asked.append(self.path)

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A small public table behind a local server, an empty cache and no data folder: (register a table, server, cache)."""
    server = Server(tmp_path / "web")
    monkeypatch.setattr(registry, "HOST", server.address)
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("ISOLOSS_DATA", raising=False)

    def publish(content: bytes | None = CSV, **changes):
        facts: dict[str, Any] = {
            "sha256": hashlib.sha256(CSV).hexdigest(),
            "repository": "someone/something",
            "commit": "c0ffee",
            "path": "data/t.csv",
        }
        facts |= {"title": "Tiny", "arxiv": "0000.00000", "licence": "none", "remark": "A table of this test."}
        table = Table(file="tiny.csv", **(facts | changes))
        monkeypatch.setitem(TABLES, "tiny", table)
        path = tmp_path / "web" / table.repository / table.commit / table.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_bytes(content)

    yield publish, server, tmp_path / "cache" / "data"
    server.http.shutdown()
    server.http.server_close()


def test_a_table_is_fetched_once(published):
    publish, server, cache = published
    publish()
    first, second = dataset("tiny"), dataset("tiny")
    assert first["flops"].tolist() == [6e16, 24e16]
    pd.testing.assert_frame_equal(first, second)
    assert len(server.asked) == 1
    assert (cache / "tiny.csv").read_bytes() == CSV
    # A damaged copy is not used: the table is fetched again.
    (cache / "tiny.csv").write_bytes(CSV + b"9,9,9\n")
    assert len(dataset("tiny")) == 2
    assert len(server.asked) == 2


def test_a_packed_table_is_unpacked_in_the_cache(published):
    publish, server, cache = published
    packed = gzip.compress(CSV, mtime=0)
    publish(packed, path="data/t.csv.gz", packed_sha256=hashlib.sha256(packed).hexdigest())
    assert len(dataset("tiny")) == len(dataset("tiny")) == 2
    assert len(server.asked) == 1
    assert (cache / "tiny.csv").read_bytes() == CSV


def test_another_file_at_the_address_is_refused(published):
    publish, _, cache = published
    publish(CSV + b"3e7,3e9,3.0\n")
    with pytest.raises(fits.InputError, match="not the published file") as caught:
        dataset("tiny")
    assert "\n" not in str(caught.value)
    assert not (cache / "tiny.csv").exists()


def test_an_address_that_does_not_answer_says_what_to_do(published):
    publish, _, _ = published
    publish(None)
    with pytest.raises(fits.InputError, match=r"cannot fetch http.*put tiny.csv into a folder.*ISOLOSS_DATA") as caught:
        dataset("tiny")
    assert "\n" not in str(caught.value)


def test_an_extracted_table_needs_a_folder(published):
    publish, server, _ = published
    publish(public=False)
    with pytest.raises(
        fits.InputError, match=r"extracted from github.com/someone/something @ c0ffee.*put tiny.csv into a folder.*ISOLOSS_DATA"
    ):
        dataset("tiny")
    assert server.asked == []


def test_the_users_folder_comes_first_and_another_file_there_is_said(published, tmp_path, monkeypatch):
    publish, server, _ = published
    publish()
    monkeypatch.setenv("ISOLOSS_DATA", str(tmp_path))
    (tmp_path / "tiny.csv").write_bytes(CSV)
    assert dataset("tiny").attrs["warnings"] == []
    (tmp_path / "tiny.csv").write_bytes(CSV + b"3e7,3e9,3.0\n")
    changed = dataset("tiny")
    assert len(changed) == 3
    assert "is not the file that was published as tiny" in changed.attrs["warnings"][0]
    # The word stays with the rows when a fit checks them again.
    assert fits.complete(changed).attrs["warnings"] == changed.attrs["warnings"]
    assert server.asked == []
    (tmp_path / "tiny.csv").unlink()
    assert len(dataset("tiny")) == 2
    assert len(server.asked) == 1
