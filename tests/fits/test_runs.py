"""Reading foreign tables, filters, what a law needs of a table, and errors that name the place."""

from __future__ import annotations

import gzip
import lzma
import math
import time

import numpy as np
import pandas as pd
import pytest

import fits
from fits.selection import select


def write(path, text):
    path.write_text(text)
    return path


def test_foreign_columns_are_mapped_and_the_third_follows(tmp_path):
    path = write(tmp_path / "runs.csv", "Model Size,Training FLOP,loss\n1e6,6e15,3.0\n2e6,2.4e16,2.8\n")
    runs = fits.read_runs(path, columns={"params": "Model Size", "flops": "Training FLOP"})
    assert runs["tokens"].tolist() == [1e9, 2e9]
    assert runs.attrs["derived"] == "tokens by C = 6 N D"


def test_columns_may_be_swapped(tmp_path):
    path = write(tmp_path / "runs.csv", "params,tokens,loss\n1e9,1e6,3.0\n")
    runs = fits.read_runs(path, columns={"params": "tokens", "tokens": "params"})
    assert runs[["params", "tokens"]].to_numpy().tolist() == [[1e6, 1e9]]


def test_filters_are_parsed_not_evaluated():
    frame = pd.DataFrame({"Model Size": [1.0, 2.0, 3.0], "arm": ["dense", "moe and more", "dense"], "loss": [3.0, 2.5, 2.0]})
    assert select(frame, "loss < 2.9").index.tolist() == [1, 2]
    assert select(frame, 'Model Size >= 2 and arm = "dense"').index.tolist() == [2]
    assert select(frame, 'arm != "dense"').index.tolist() == [1]
    assert select(frame, 'arm == "moe and more"').index.tolist() == [1]
    assert select(frame.assign(held=[True, False, True]), "held = false").index.tolist() == [1]
    for bad in ("loss", "loss < ", "__import__('os')", "loss < high", 'arm < "dense"', "size > 1", "loss < 3 or loss > 2"):
        with pytest.raises(fits.InputError, match="where"):
            select(frame, bad)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file is empty"),
        ("params,tokens,loss\n", "no finished runs"),
        ("a,b\n1,2\n", "no column 'loss'"),
        ("params,loss\n1,2\n", "two of the columns"),
        ("params,tokens,loss\n1e6,1e8,3\n1e6,many,3\n", "row 3, column 'tokens': 'many'"),
        ("params,tokens,loss\n1e6,1e8,3\n1e6,1e8,3\n1e6,1e8,-1\n", "row 4, column 'loss'"),
        ("params,tokens,loss\n1e6,1e8,3,9\n1e6,1e8,3,9\n", "more fields than the heading"),
        ("params,tokens,loss\n1e6,1e8,3,9,9\n1,2\n1,2,3,4,5,6,7\n", "cannot be read as a table"),
    ],
)
def test_bad_tables_name_file_row_and_column(tmp_path, text, says):
    path = write(tmp_path / "bad.csv", text)
    with pytest.raises(fits.InputError, match=says) as caught:
        fits.read_runs(path)
    assert "bad.csv" in str(caught.value)


def test_missing_files_and_columns(tmp_path):
    with pytest.raises(fits.InputError, match="no such file"):
        fits.read_runs(tmp_path / "none.csv")
    path = write(tmp_path / "runs.csv", "params,tokens,loss\n1e6,1e8,3\n")
    with pytest.raises(fits.InputError, match="no column 'Size'"):
        fits.read_runs(path, columns={"params": "Size"})
    with pytest.raises(fits.InputError, match="no row is left"):
        fits.read_runs(path, where="loss < 1")


def test_diverged_runs_are_left_out_and_counted(tmp_path):
    path = write(tmp_path / "runs.csv", "params,tokens,loss,status\n1e6,1e8,3,done\n1e6,1e8,,diverged\n")
    runs = fits.read_runs(path)
    assert len(runs) == 1
    assert runs.attrs["left_out"] == 1


PLAIN = "params,tokens,loss\n1e6,1e8,3.5\n2e6,1e8,3.25\n"


def test_every_format_gives_the_same_runs(tmp_path):
    frame = pd.DataFrame(
        {"params": [1e6, 2e6, 4e6], "tokens": [10**8, 10**8, 3 * 10**8], "loss": [3.5, 3.25, 1 / 3], "name": ["a", "b, c", None]}
    )
    frame.to_csv(tmp_path / "r.csv", index=False)
    frame.to_csv(tmp_path / "r.csv.gz", index=False)
    frame.to_csv(tmp_path / "r.csv.xz", index=False)
    frame.to_parquet(tmp_path / "r.parquet")
    frame.set_index("params").to_parquet(tmp_path / "indexed.parquet")
    frame.to_json(tmp_path / "r.jsonl", orient="records", lines=True, double_precision=15)
    expected = fits.read_runs(tmp_path / "r.csv")[["params", "tokens", "loss", "flops"]]
    assert expected["loss"].tolist() == frame["loss"].tolist()
    for name in ("r.csv.gz", "r.csv.xz", "r.parquet", "indexed.parquet", "r.jsonl"):
        runs = fits.read_runs(tmp_path / name)
        np.testing.assert_allclose(runs[list(expected)], expected, rtol=1e-15)
        assert runs["name"].isna().tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("r.parquet", PLAIN.encode(), "named .parquet, but holds text; name it .csv"),
        ("r.csv", b"PAR1\x15\x04\x15", "named .csv, but holds Parquet; name it .parquet"),
        ("r.csv", bytes(range(256)) * 4, "named .csv, but holds binary data"),
        ("r.csv", b"a,b\n\xe9,1\n" * 3, "not UTF-8 text"),
        ("r.csv", b'{"params": 1e6, "loss": 3}\n', "named .csv, but holds JSON; name it .jsonl"),
        ("r.csv", b'[{"params": 1e6}]', "named .csv, but holds a JSON array"),
        ("r.jsonl", PLAIN.encode(), "named .jsonl, but holds text; name it .csv"),
        ("r.jsonl", b'[{"params": 1e6}]', "named .jsonl, but holds a JSON array; write one object a line"),
        ("r.jsonl", b'{"params": 1e6}\n{"params": }\n', "line 2 is not a JSON object"),
        ("r.jsonl", b"{}\n" + b"[" * 100_000, "line 2 is not a JSON object"),
        ("r.jsonl", b'{"params": 1e6}\n17\n', "line 2 is not a JSON object"),
        ("r.csv", b"<!DOCTYPE html><html>", "holds a web page; download the raw file"),
        ("r.csv", b"PK\x03\x04rest", "a zip archive or a spreadsheet"),
        ("r.csv", "a,b\n1,2\n".encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        ("r.csv", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("r.csv", gzip.compress(PLAIN.encode(), mtime=0), "holds gzip data; name it .csv.gz"),
        ("r.csv.gz", PLAIN.encode(), "named .csv.gz, but holds text"),
        ("r.csv.gz", gzip.compress(PLAIN.encode() * 99, mtime=0)[:40], "damaged or cut short"),
        ("r.csv.xz", lzma.compress(PLAIN.encode() * 99)[:60], "damaged or cut short"),
        ("r.parquet", b"PAR1 and no more PAR1", "cannot be read"),
        ("r.csv", b"params;tokens;loss\n1;2;3\n", "separated by semicolons"),
        ("r.csv", b"\nparams,tokens,loss\n1,2,3\n", "line 1 is blank"),
        ("r.csv", b"params,loss,tokens,loss\n1e6,3,1e8,4\n", r"2 columns are named 'loss' \(columns 2, 4\)"),
        ("r.xlsx", b"PK", "cannot read '.xlsx' files; give a .csv"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(fits.InputError, match=says) as caught:
        fits.read_runs(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_are_named_by_their_line_even_after_blank_lines(tmp_path):
    path = write(tmp_path / "runs.csv", "params,tokens,loss\n1e6,1e8,3\n\n,,\n1e6,1e8,none\n")
    with pytest.raises(fits.InputError, match="row 5, column 'loss': 'none'"):
        fits.read_runs(path)
    path = write(tmp_path / "runs.jsonl", '{"params": 1e6, "tokens": 1e8, "loss": 3}\n{"params": 1e6, "tokens": 0, "loss": 3}\n')
    with pytest.raises(fits.InputError, match=r"row 2, column 'tokens': 0\.0 is not a positive"):
        fits.read_runs(path)


def test_units_are_read_before_the_filter(tmp_path):
    path = write(tmp_path / "runs.csv", "size,D,bits,loss_se\n1.5,2,4,0.1\n70,1.4,2,0.1\n")
    runs = fits.read_runs(
        path,
        columns={"params": "size", "tokens": "D", "loss": "bits"},
        units={"params": "billions", "tokens": "trillions", "loss": "bits"},
        where="params > 1e10",
    )
    assert runs[["params", "tokens"]].to_numpy().tolist() == [[70e9, 1.4e12]]
    assert runs["loss"].item() == pytest.approx(2 * math.log(2), rel=1e-15)
    assert runs["loss_se"].item() == pytest.approx(0.1 * math.log(2), rel=1e-15)  # an error is in the unit of its loss
    assert runs["flops"].item() == pytest.approx(6 * 70e9 * 1.4e12)
    assert len(runs.attrs["prepared"]) == 5


def test_needs_asks_for_exactly_the_columns_of_a_law():
    frame = pd.DataFrame({"active_params": [1e6], "tokens": [1e8], "experts": [8], "loss": [3.0], "other": ["text"]})
    whole = fits.complete(frame, needs=("active_params", "tokens", "experts"))
    assert "flops" not in whole
    assert all(whole[name].dtype == float for name in ("active_params", "experts", "loss"))
    with pytest.raises(fits.InputError, match="no column 'granularity'"):
        fits.complete(frame, needs=("active_params", "granularity"))
    with pytest.raises(fits.InputError, match=r"no column 'params'.*active_params is another count.*params = 'active_params'"):
        fits.complete(frame, needs=("params", "tokens"))
    with pytest.raises(fits.InputError, match=r"two of the columns params, tokens, flops.*active_params is another count"):
        fits.complete(frame)
    with pytest.raises(fits.InputError, match=r"no column 'non_embedding_params'.*params is another count"):
        fits.complete(frame.rename(columns={"active_params": "params"}), needs=("non_embedding_params", "tokens"))


def test_params_tokens_and_flops_still_follow_from_each_other():
    frame = pd.DataFrame({"params": [1e6], "flops": [6e14], "sparsity": [0.0], "loss": [3.0]})
    whole = fits.complete(frame, needs=("tokens", "sparsity"))
    assert whole["tokens"].tolist() == [1e8]
    assert whole.attrs["derived"] == "tokens by C = 6 N D"
    # What nobody needs is neither derived nor checked.
    assert "tokens" not in fits.complete(frame.assign(params=-1.0), needs=("flops",))


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("sparsity", 0, -0.1),
        ("shared_ratio", 0, math.inf),
        ("year", 0, "soon"),
        ("release_year", 2024, -1),
        ("experts", 1, 0.5),
        ("granularity", 0.5, 0),
        ("unique_tokens", 1, -1),
    ],
)
def test_every_input_has_its_range(name, good, bad):
    frame = pd.DataFrame({"tokens": [1e8, 1e8], "loss": [3.0, 2.0]})
    assert fits.complete(frame.assign(**{name: [good, good]}), needs=("tokens", name))[name].tolist() == [good, good]
    with pytest.raises(fits.InputError, match=f"row 1, column '{name}': .*{bad}"):
        fits.complete(frame.assign(**{name: pd.Series([good, bad], dtype=object)}), needs=("tokens", name))


def test_outputs_other_than_a_loss_may_have_any_sign():
    frame = pd.DataFrame({"flops": [1e20, 1e21], "score": [0.0, -0.5]})
    assert fits.complete(frame, needs=("flops",), output="score")["score"].tolist() == [0.0, -0.5]
    with pytest.raises(fits.InputError, match="column 'score': nan is not a finite number"):
        fits.complete(frame.assign(score=[0.1, math.nan]), needs=("flops",), output="score")
    with pytest.raises(fits.InputError, match="no column 'loss'"):
        fits.complete(frame, needs=("flops",))
    with pytest.raises(fits.InputError, match=r"column 'loss': -0\.5 is not a positive"):
        fits.complete(frame.rename(columns={"score": "loss"}).iloc[1:], needs=("flops",))


def test_completing_twice_changes_nothing():
    frame = pd.DataFrame({"params": [1e6, 1e6], "tokens": [1e8, 1e8], "loss": [3.0, 3.0], "status": ["done", "diverged"]})
    once = fits.complete(frame)
    twice = fits.complete(once)
    pd.testing.assert_frame_equal(once, twice)
    assert once.attrs == twice.attrs
    assert once.attrs["left_out"] == 1
    assert "left_out" not in frame.attrs


def test_a_near_miss_of_a_column_is_suggested(tmp_path):
    path = write(tmp_path / "runs.csv", "Model Size,tokens,loss\n1e6,1e8,3\n")
    with pytest.raises(fits.InputError, match="did you mean 'Model Size'"):
        fits.read_runs(path, columns={"params": "model size"})


def test_many_rows(tmp_path):
    rows = 200_000
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"params": np.exp(draw.uniform(15, 25, rows)), "tokens": np.exp(draw.uniform(20, 28, rows))})
    frame.assign(loss=draw.uniform(2, 5, rows), seed=1).to_csv(tmp_path / "runs.csv", index=False)
    started = time.perf_counter()
    runs = fits.read_runs(tmp_path / "runs.csv")
    assert time.perf_counter() - started < 5  # 0.2 s measured; a loop over the rows would take longer
    assert len(runs) == rows
    np.testing.assert_allclose(runs["flops"], 6 * frame["params"].to_numpy() * frame["tokens"].to_numpy(), rtol=1e-12)
    assert runs.memory_usage(deep=True).sum() < 50 * rows
    assert runs.attrs["warnings"] == []
