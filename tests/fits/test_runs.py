"""Reading foreign tables, filters, and errors that name the place."""

from __future__ import annotations

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
