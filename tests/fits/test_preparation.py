"""Units, the best and the mean of a cell, and what a table is warned about."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fits
from fits import preparation

CELL = ("params", "tokens")


def runs(**columns):
    """Three runs that nothing can be said against, but for `columns`."""
    params, tokens = np.array([1e7, 3e7, 1e8]), np.array([1e9, 3e9, 9e9])
    return pd.DataFrame({"params": params, "tokens": tokens, "flops": 6 * params * tokens, "loss": [3.5, 3.0, 2.7]} | columns)


def warnings(frame, **options):
    return fits.complete(frame, **options).attrs["warnings"]


@pytest.mark.parametrize(
    ("column", "unit", "factor"),
    [
        ("params", "thousands", 1e3),
        ("active_params", "millions", 1e6),
        ("tokens", "billions", 1e9),
        ("unique_tokens", "trillions", 1e12),
        ("flops", "petaflop_days", 1e15 * 24 * 3600),
        ("flops", "exaflops", 1e18),
        ("flops", "zettaflops", 1e21),
        ("loss", "nats", 1),
        ("loss", "bits", math.log(2)),
        ("loss", 0.6931 * 4.3, 0.6931 * 4.3),
        ("batch_size", 2048, 2048),
    ],
)
def test_units(column, unit, factor):
    converted, said = preparation.convert(pd.DataFrame({column: [1.0, 2.5, np.nan]}), {column: unit}, "runs")
    np.testing.assert_allclose(converted[column], [factor, 2.5 * factor, np.nan], rtol=1e-15)
    assert column in said[0]


@pytest.mark.parametrize(
    ("units", "says"),
    [
        (
            {"params": "dozens"},
            "'dozens' is not a unit of params; it is one of thousands, millions, billions, trillions, or a positive number",
        ),
        ({"flops": "billions"}, "one of petaflop_days, exaflops, zettaflops, or"),
        ({"loss": "bits_per_byte"}, "bytes per token: give the number"),
        ({"loss": "perplexity"}, "one of nats, bits, or"),
        ({"year": "millions"}, "'millions' is not a unit of year; it is a positive number"),
        ({"params": 0}, "must be positive and finite, got 0"),
        ({"params": math.inf}, "must be positive and finite"),
        ({"params": True}, "must be positive and finite"),
        ({"width": 2}, "units: no column 'width'; there are params"),
    ],
)
def test_unknown_units_say_which_are_known(units, says):
    with pytest.raises(fits.InputError, match=says):
        preparation.convert(runs(year=[1, 2, 3]), units, "runs")


def test_what_is_no_number_is_left_for_the_check_that_names_its_row(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("params,tokens,loss\n1,1,3\n1.3B,1,3\n")
    with pytest.raises(fits.InputError, match=r"row 3, column 'params': '1.3B' is not a positive"):
        fits.read_runs(path, units={"params": "billions", "tokens": "billions"})


def sweep(tmp_path):
    """Six cells of seven runs (learning rates), in random order."""
    draw = np.random.default_rng(1)
    rows = [(n, d, lr, 5 - math.log10(n * d) / 10 + draw.uniform(0, 0.2)) for n in (1e7, 1e8) for d in (1e9, 2e9, 4e9) for lr in range(7)]
    frame = pd.DataFrame(rows, columns=["N", "D", "lr", "loss"]).sample(frac=1, random_state=0)
    frame.to_csv(tmp_path / "sweep.csv", index=False)
    return tmp_path / "sweep.csv", frame


def test_best_keeps_the_row_of_least_loss_of_every_cell(tmp_path):
    path, frame = sweep(tmp_path)
    best = fits.read_runs(path, columns={"params": "N", "tokens": "D"}, best=CELL)
    least = frame.groupby(["N", "D"])["loss"].min()
    assert len(best) == 6
    assert best["loss"].tolist() == [least[cell] for cell in zip(best["N"], best["D"], strict=True)]
    # Whole rows are kept: the learning rate that was best, on the line where it stands.
    assert best["lr"].tolist() == frame["lr"].iloc[best.index - 2].tolist()
    assert best.index.is_monotonic_increasing
    assert "6 of 42 rows" in best.attrs["prepared"][-1]


def test_of_equal_losses_the_first_is_kept():
    kept, _ = preparation.best(pd.DataFrame({"cell": list("aab"), "loss": [2.0, 2.0, 3.0], "lr": [1, 2, 3]}), "cell", "loss", "runs")
    assert kept["lr"].tolist() == [1, 3]


def test_the_last_row_of_a_cell():
    frame = pd.DataFrame({"run": list("aabb"), "step": [1, 2, 9, 3]})
    assert preparation.extreme(frame, ["run"], "step", greatest=True)["step"].tolist() == [2, 9]


def test_aggregate_gives_mean_and_standard_error_of_every_cell(tmp_path):
    path, frame = sweep(tmp_path)
    means = fits.read_runs(path, columns={"params": "N", "tokens": "D"}, aggregate=list(CELL)).set_index(list(CELL))
    cells = frame.groupby(["N", "D"])["loss"]
    assert len(means) == 6
    for cell, losses in cells:
        assert means.loc[cell, "loss"] == pytest.approx(losses.mean(), rel=1e-14)
        assert means.loc[cell, "loss_se"] == pytest.approx(losses.std(ddof=1) / math.sqrt(7), rel=1e-12)
        assert means.loc[cell, "flops"] == pytest.approx(6 * cell[0] * cell[1])
    assert (means["rows_in_cell"] == 7).all()
    assert means["lr"].isna().all()  # seven learning rates have no common value
    assert means.attrs["derived"] == "flops by C = 6 N D"
    assert "42 rows become 6" in means.attrs["prepared"][-1]


def test_a_cell_of_one_row_keeps_its_own_standard_error():
    frame = pd.DataFrame({"c": ["x", "x", "y"], "loss": [1.0, 3.0, 5.0], "loss_se": [0.5, 0.5, 0.25], "arm": ["dense", "dense", "moe"]})
    means, _ = preparation.average(frame, "c", [], "loss", "runs")
    assert means["loss"].tolist() == [2.0, 5.0]
    assert means["loss_se"].tolist() == [1.0, 0.25]
    assert means["rows_in_cell"].tolist() == [2, 1]
    assert means["arm"].tolist() == ["dense", "moe"]
    alone, _ = preparation.average(frame.drop(columns="loss_se"), "c", [], "loss", "runs")
    assert alone["loss_se"].isna().tolist() == [False, True]


def test_seeds_of_the_best_setting(tmp_path):
    rows = [(1e7, 1e9, seed, lr, 3 + 0.1 * lr + 0.01 * seed) for seed in range(3) for lr in (1, 2)]
    pd.DataFrame(rows, columns=["params", "tokens", "seed", "lr", "loss"]).to_csv(tmp_path / "r.csv", index=False)
    one = fits.read_runs(tmp_path / "r.csv", best=[*CELL, "seed"], aggregate=CELL)
    assert one["loss"].item() == pytest.approx(3.11)
    assert one["lr"].item() == 1  # the same in every row, so it stays
    assert one["rows_in_cell"].item() == 3
    assert len(one.attrs["prepared"]) == 2


def test_a_mean_over_different_sizes_is_refused(tmp_path):
    path, _ = sweep(tmp_path)
    with pytest.raises(fits.InputError, match="aggregate: column 'tokens' runs from 1e\\+09 to 4e\\+09 within one cell"):
        fits.read_runs(path, columns={"params": "N", "tokens": "D"}, aggregate="params")


def test_cells_are_named_by_columns_that_exist(tmp_path):
    path, _ = sweep(tmp_path)
    names = {"params": "N", "tokens": "D"}
    wrong: list[tuple[str, dict[str, Any]]] = [("no column 'size'", {"best": ["size"]}), ("no column 'size'", {"aggregate": ["size"]})]
    wrong += [("no columns are named", {"best": []}), ("no columns are named", {"aggregate": []})]
    wrong += [("column 'loss' cannot define a cell", {"best": ["loss"]})]
    for says, options in wrong:
        with pytest.raises(fits.InputError, match=f"{next(iter(options))}: {says}"):
            fits.read_runs(path, columns=names, **options)


def test_sound_runs_raise_no_doubt():
    assert warnings(runs()) == []
    # A dense model has no idle parameters, one epoch no repeated tokens, and a byte-level loss is below 1.
    assert warnings(runs(active_params=runs()["params"], unique_tokens=runs()["tokens"], loss=[0.9, 0.8, 0.7])) == []
    # Sizes of different corpora or arms are different points.
    assert warnings(runs(params=1e7, tokens=1e9, flops=6e16, loss=[4.0, 3.0, 2.0], arm=["a", "b", "c"])) == []


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"params": [0.4, 1.3, 70], "flops": [1e19, 1e20, 1e21]}, "params are all below 1000 (largest 70)"),
        ({"params": [70.0, 400, 16000], "flops": [1e19, 1e20, 1e21]}, "the median of tokens / params is 7.5e+06"),
        ({"tokens": [20.0, 300, 1400], "flops": [1e19, 1e20, 1e21]}, "tokens are all below 100000 (largest 1400)"),
        ({"flops": [0.1, 3.0, 1e4]}, "flops are all below 1e+09 (largest 10000)"),
        ({"flops": 4 * 6 * 1e7 * np.array([1e9, 9e9, 9e10])}, "flops / (6 params tokens) is 4 in the median"),
        ({"flops": runs()["flops"] / 4}, "flops / (6 params tokens) is 0.25 in the median"),
        ({"loss": [15.0, 40.0, 120.0]}, "every loss is above 12.6 (least 15)"),
        ({"loss": [0.01, 3.0, 2.7]}, "1 of 3 losses are above 20 or below 0.05 (first: row 0)"),
        ({"loss": [3.5, 3.0, 25.0]}, "1 of 3 losses are above 20 or below 0.05 (first: row 2)"),
        ({"params": runs()["tokens"], "flops": 6 * runs()["tokens"] ** 2}, "columns 'params' and 'tokens' hold the same numbers"),
        ({"non_embedding_params": runs()["params"]}, "columns 'params' and 'non_embedding_params' hold the same numbers"),
        (
            {"params": 1e7, "tokens": [1e9, 1e9, 3e9], "flops": [6e16, 6e16, 18e16], "loss": [3, 3, 2]},
            "1 rows repeat another row's params, tokens and loss",
        ),
        (
            {"params": 1e7, "tokens": 1e9, "flops": 6e16, "loss": [3.0, 3.1, 3.7]},
            "at 1 points equal params, tokens have losses more than 20% apart",
        ),
    ],
)
def test_what_looks_wrong_is_said_with_its_figures(columns, says):
    found = warnings(runs(**columns))
    assert any(warning.startswith(says) for warning in found), found


@pytest.mark.parametrize(
    "columns",
    [
        {"flops": 2 * runs()["flops"]},  # conventions on head and attention
        {"params": 1e7, "tokens": 1e9, "flops": 6e16, "loss": [3.0, 3.1, 3.5]},  # learning rates
        {"active_params": runs()["params"] / 10, "flops": runs()["flops"] / 10},  # a mixture of experts
        {"params": [1e3, 1e4, 1e5], "tokens": [1e6, 1e7, 1e8], "flops": [6e9, 6e11, 6e13]},  # tiny models
        {"params": 1.35e8, "tokens": [2e12, 5e12, 15e12], "flops": 6 * 1.35e8 * np.array([2e12, 5e12, 15e12])},  # over-trained ones
    ],
)
def test_what_is_unusual_but_right_is_not_warned_about(columns):
    assert warnings(runs(**columns)) == []


def test_every_warning_gives_its_reason_and_how_to_mend_it():
    for doubt in preparation.DOUBTS:
        assert len(doubt.reason) > 20
        assert any(word in doubt.mend for word in ("units", "where", "columns", "best", "logarithm"))


def test_an_output_that_is_no_loss_is_not_judged_as_one():
    frame = runs().rename(columns={"loss": "score"}).assign(score=[0.01, 50.0, -3.0])
    assert warnings(frame, needs=("flops",), output="score") == []


def test_mending_by_units_silences_the_warning(tmp_path):
    path = tmp_path / "r.csv"
    pd.DataFrame({"params": [0.4, 1.3, 70], "tokens": [8, 26, 1400], "loss": [3, 2.5, 2]}).to_csv(path, index=False)
    assert len(fits.read_runs(path).attrs["warnings"]) == 2
    assert fits.read_runs(path, units={"params": "billions", "tokens": "billions"}).attrs["warnings"] == []


def test_nested_values_and_dates_are_no_numbers_and_do_no_harm(tmp_path):
    path = tmp_path / "r.parquet"
    rows = {"params": [1e7, 1e7, 3e7], "tokens": [1e9, 1e9, 2e9], "loss": [3.0, 3.1, 2.5]}
    odd = {"arm": [["a"], ["a"], ["b"]], "when": pd.to_datetime(["2024-01-01"] * 3)}
    pd.DataFrame(rows | odd).to_parquet(path)
    assert len(fits.read_runs(path, aggregate=CELL)) == 2
    with pytest.raises(fits.InputError, match="column 'arm' cannot define a cell"):
        fits.read_runs(path, best="arm")
    with pytest.raises(fits.InputError, match="row 1, column 'params': Timestamp"):
        fits.read_runs(path, columns={"params": "when"})


def test_two_columns_of_one_name_are_refused():
    with pytest.raises(fits.InputError, match="two columns are named 'loss'"):
        fits.complete(pd.concat([runs(), runs()[["loss"]]], axis=1))
