"""Runs leave stores and come in: exports, imports, merging, the check, and `isoloss runs`."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from contextlib import closing

import pandas as pd
import pytest
from typer.testing import CliRunner

import fits
from scaling import InputError
from scaling.cli import app
from scaling.run import identify
from scaling.store import Store, open_existing
from scaling.store.exchange import conflicts, export, export_curves, import_runs, merge
from scaling.store.integrity import check
from tests.scaling.stored import OWNER, made, planned

DIVERGED = {"status": "diverged", "loss": None, "loss_se": None, "reason": "not finite at step 7"}


@pytest.fixture
def store(tmp_path):
    """A store with a run in every state."""
    with Store(tmp_path / "runs.sqlite") as store:
        for seed in range(4):
            store.save(made(seed))
        store.save(made(4, **DIVERGED))
        store.plan([planned(made(5)), planned(made(6), holdout=True)])
        store.fail(made(7).run_id, "out of memory")
        store.claim(made(6).run_id, OWNER)
        yield store


def isoloss(*arguments):
    return CliRunner().invoke(app, ["runs", *map(str, arguments)])


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_an_export_to_json_loses_nothing(store, tmp_path, ending):
    export(store, tmp_path / f"runs.{ending}")
    import_runs(tmp_path / f"runs.{ending}", tmp_path / "again.sqlite")
    with open_existing(tmp_path / "again.sqlite") as again:
        assert again.records() == store.records()
        assert again.curves() == store.curves()
        assert again.states() == store.states() | {made(6).run_id: "planned"}  # it runs there, not here
        assert again.frame()["holdout"].tolist() == store.frame()["holdout"].tolist()
        assert list(again.entries())[:5] == list(store.entries())[:5]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_an_export_to_a_table_is_the_runs_table(store, tmp_path, ending):
    path = tmp_path / f"runs.{ending}"
    export(store, path)
    runs = fits.read_runs(path)
    assert runs["loss"].tolist() == [made(seed).loss for seed in range(4)]  # to the last digit; what is not done is left out
    import_runs(path, tmp_path / "again.sqlite")
    with open_existing(tmp_path / "again.sqlite") as again:
        first, second = (
            each.frame().drop(columns="status").fillna({"reason": ""}).set_index("run_id").sort_index() for each in (store, again)
        )
        pd.testing.assert_frame_equal(first, second, check_dtype=False)
        assert merge([store.path], tmp_path / "again.sqlite")[store.path].conflicts == []


def test_ids_that_look_like_numbers_stay_text(tmp_path):
    with Store(tmp_path / "runs.sqlite") as store:
        store.save(made(run_id="0000000000000012", arm="007"))
        export(store, tmp_path / "runs.csv")
    import_runs(tmp_path / "runs.csv", tmp_path / "again.sqlite")
    with open_existing(tmp_path / "again.sqlite") as again:
        assert again.frame()[["run_id", "arm"]].to_numpy().tolist() == [["0000000000000012", "007"]]


def test_learning_curves_are_exported_as_a_table(store, tmp_path):
    export_curves(store, tmp_path / "curves.parquet")
    table = pd.read_parquet(tmp_path / "curves.parquet")
    assert {run: part["train_loss"].tolist() for run, part in table.groupby("run_id")} == store.curves()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "line 1: cannot be read as JSON"),
        ("[1]", "line 1: not an object"),
        ('{"status": "done"}', "run_id 'None' is not a plain name"),
        ('{"run_id": "../../etc", "status": "done", "loss": 2}', "'../../etc' is not a plain name"),
        ('{"run_id": "a", "status": "ready"}', "column 'status': 'ready' is not one of planned"),
        ('{"run_id": "a", "status": "done"}', "column 'loss': a done run has one"),
        ('{"run_id": "a", "status": "done", "loss": NaN}', "column 'loss': 'nan' is not a positive finite number"),
        ('{"run_id": "a", "status": "done", "loss": 2, "params": 1.5}', "column 'params': '1.5' is not a whole number of 1 or more"),
        ('{"run_id": "a", "status": "done", "loss": 2, "params": true}', "column 'params'"),
        ('{"run_id": "a", "status": "done", "loss": 2, "arm": 3}', "column 'arm': '3' is not text"),
        ('{"run_id": "a", "status": "done", "loss": 2, "train_loss": ["x"]}', "train_loss"),
        ('{"run_id": "a", "status": "diverged", "loss": 2}', "a diverged run has none"),
        ('{"run_id": "a", "status": "done", "loss": 2, "tokens": 1' + "0" * 400 + "}", "column 'tokens'"),
    ],
)
def test_an_import_with_a_bad_run_takes_in_none(store, tmp_path, text, says):
    good = json.dumps(made(30).as_dict())
    (tmp_path / "runs.jsonl").write_text(f"{text}\n{good}\n" if "JSON" in says else f"{good}\n{text}\n")
    says = says.replace("line 1: not", "line 2: not")
    before = store.states()
    with pytest.raises(InputError) as caught:
        import_runs(tmp_path / "runs.jsonl", store.path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert store.states() == before
    with pytest.raises(InputError):
        import_runs(tmp_path / "runs.jsonl", tmp_path / "new.sqlite")
    assert not (tmp_path / "new.sqlite").exists()


def test_text_that_is_not_utf_8_is_named_by_its_byte(tmp_path):
    line = json.dumps(made().as_dict()).encode() + b"\n"
    text = line * 20 + line.replace(b"dense", b"d\xffnse", 1)
    (tmp_path / "runs.jsonl").write_bytes(text)
    for read in (lambda path: import_runs(path, tmp_path / "new.sqlite"), fits.read_runs):
        with pytest.raises(InputError, match=rf"not UTF-8 text \(byte offset {text.index(255)}\)"):
            read(tmp_path / "runs.jsonl")


def test_merged_stores_hold_every_run_once_and_what_is_further_wins(store, tmp_path):
    with Store(tmp_path / "other.sqlite") as other:
        for seed in (2, 3, 5, 7, 8):  # two that are there, a planned, a failed and a new one
            other.save(made(seed))
        other.fail(made(0).run_id, "here it failed")
    found = merge([tmp_path / "other.sqlite"], store.path)[tmp_path / "other.sqlite"]
    assert dataclasses.asdict(found) == {"added": 1, "updated": 2, "same": 3, "conflicts": []}
    assert store.finished() == {made(seed).run_id for seed in (0, 1, 2, 3, 4, 5, 7, 8)}
    assert store.records([made(0).run_id]) == [made(0).as_dict()]
    assert store.frame([made(5).run_id])["budget"].tolist() == [3e9]  # the label of the plan is kept
    again = merge([tmp_path / "other.sqlite"], store.path)[tmp_path / "other.sqlite"]
    assert (again.added, again.updated, again.same) == (0, 0, 6)


def test_of_two_outcomes_of_one_run_none_is_lost(store, tmp_path):
    theirs = dataclasses.replace(made(1), loss=2.75)
    with Store(tmp_path / "other.sqlite") as other:
        other.save(theirs)
        other.save(made(2, **DIVERGED))
    for _ in range(2):  # a second time adds nothing
        found = merge([tmp_path / "other.sqlite"], store.path)[tmp_path / "other.sqlite"]
        assert set(found.conflicts) == {made(1).run_id, made(2).run_id}
    assert store.records([made(1).run_id]) == [made(1).as_dict()]
    kept = {each["run_id"]: each for each in conflicts(store)}
    assert len(conflicts(store)) == 2
    assert kept[made(1).run_id]["record"] == theirs.as_dict()
    assert (kept[made(1).run_id]["loss"], kept[made(1).run_id]["other_loss"]) == (made(1).loss, 2.75)
    assert {each["run_id"] for each in check(store).problems} == set(kept)
    merge([store.path], tmp_path / "third.sqlite")
    with open_existing(tmp_path / "third.sqlite") as third:
        assert len(conflicts(third)) == 2


def test_merging_in_any_order_gives_the_same_finished_runs(tmp_path):
    for name, seeds in (("a", range(5)), ("b", range(3, 8)), ("c", (0, 9))):
        with Store(tmp_path / name) as part:
            for seed in seeds:
                part.save(made(seed))
    merge([tmp_path / "a", tmp_path / "b", tmp_path / "c"], tmp_path / "one")
    merge([tmp_path / "c", tmp_path / "b", tmp_path / "a"], tmp_path / "two")
    with open_existing(tmp_path / "one") as one, open_existing(tmp_path / "two") as two:
        key = "run_id"
        assert sorted(one.records(), key=lambda row: row[key]) == sorted(two.records(), key=lambda row: row[key])
        assert len(one.finished()) == 9


def test_a_sound_store_passes_the_check(store):
    found = check(store)
    assert found.problems == []
    assert (found.runs, found.verified) == (8, 5)
    assert found.unverified == {"not finished, and so without a record": 3}


def test_ids_of_older_records_and_of_members_are_recomputed(tmp_path):
    from scaling.ensembles import member_id

    record = made(1)
    old = identify(record.config, corpus=record.corpus, threads=1, numerics=1)
    with Store(tmp_path / "runs.sqlite") as store:
        store.save(made(1, run_id=old, versions={"numerics": "1"}))
        store.save(
            made(2, run_id=member_id(made(2).run_id, 6, 3), versions=made(2).versions | {"members": "6"}, devices=3, layout="members 3")
        )
        store.save(made(3, versions={"numerics": "99"}))
        found = check(store)
    assert found.problems == []
    assert (found.verified, dict(found.unverified)) == (2, {"made by a newer isoloss": 1})


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE runs SET loss = 1.5 WHERE run_id = ?", "column 'loss': the table has 1.5, the record 2.25"),
        ("UPDATE runs SET loss = -1 WHERE run_id = ?", "column 'loss': '-1.0' is not a positive finite number"),
        ("UPDATE runs SET params = 10 WHERE run_id = ?", "active_params"),
        ("UPDATE runs SET owner = 'me' WHERE run_id = ?", "a running run has an owner, and no other has"),
        ("UPDATE runs SET ended = 1e11 WHERE run_id = ?", "ended in the future"),
        (
            "UPDATE records SET record = replace(record, '\"seed\": 1', '\"seed\": 5') WHERE run_id = ?",
            "the configuration in its record has the id",
        ),
        ("UPDATE records SET record = 'x' WHERE run_id = ?", "a record that is no JSON"),
        ("DELETE FROM records WHERE run_id = ?", "a finished run without a record"),
        ("DELETE FROM runs WHERE run_id = ?", "a learning curve without a run"),
        ("UPDATE curves SET train_loss = '[null]' WHERE run_id = ?", "train_loss"),
    ],
)
def test_the_check_finds_what_is_wrong(store, statement, says):
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute(statement, (made(1).run_id,))
    found = check(store)
    assert any(says in each["problem"] for each in found.problems), found.problems
    assert {each["run_id"] for each in found.problems} == {made(1).run_id}


def test_the_check_says_what_can_be_read_of_a_damaged_file(tmp_path):
    with Store(tmp_path / "runs.sqlite") as store:
        for seed in range(60):
            store.save(made(run_id=f"{seed:016x}"))
    text = bytearray(store.path.read_bytes())
    text[len(text) // 2 : len(text) // 2 + 8192] = b"\xff" * 8192
    store.path.write_bytes(text)
    run = isoloss(store.path, "--check")
    assert run.exit_code == 1
    assert "damaged file" in run.stdout


def test_runs_are_listed_chosen_and_sorted(store, tmp_path):
    answer = json.loads(isoloss(store.path, "--where", "loss > 2.17", "--sort", "-seed", "--limit", 2, "--json").stdout)["runs"]
    assert [run["seed"] for run in answer] == [2, 1]
    assert set(answer[0]) >= {"run_id", "corpus", "arm", "precision", "seed", "params", "tokens", "flops", "loss", "loss_se", "status"}
    answer = json.loads(isoloss(store.path, "--state", "failed", "--state", "diverged", "--columns", "seed,reason", "--json").stdout)[
        "runs"
    ]
    assert {run["reason"] for run in answer} == {"out of memory", DIVERGED["reason"]}
    shown = isoloss(store.path).stdout
    assert "8 runs: 4 done" in shown
    assert "out of memory" in shown
    isoloss(store.path, "--where", "seed < 2", "--columns", "run_id,loss", "--export", tmp_path / "two.csv")
    assert pd.read_csv(tmp_path / "two.csv").columns.tolist() == ["run_id", "loss"]
    isoloss(store.path, "--where", "seed < 2", "--export", tmp_path / "two.jsonl")
    assert [json.loads(line) for line in (tmp_path / "two.jsonl").read_text().splitlines()] == list(store.entries())[:2]


def test_a_merge_with_a_conflict_names_it_and_exits_1(store, tmp_path):
    with Store(tmp_path / "other.sqlite") as other:
        other.save(made(1, loss=2.75))
    run = isoloss(store.path, "--merge", tmp_path / "other.sqlite", "--json", "--limit", 0)
    assert run.exit_code == 1
    assert made(1).run_id in run.stderr
    assert json.loads(run.stdout)["merged"]["conflicts"] == [made(1).run_id]
    assert isoloss(store.path, "--check").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--state", "ready"], "'ready' is not one of planned, running, done"),
        (["--sort", "los"], "did you mean 'loss'"),
        (["--columns", "loss,nonesuch"], "no column 'nonesuch'"),
        (["--export", "runs.xls"], "the ending says what is written"),
        (["--export", "."], "the ending says"),
        (["--columns", "loss", "--export", "runs.json"], "holds whole records"),
        (["--export", "a.csv", "--curves", "a.csv"], "name another"),
        (["--import", "none.json"], "no such file"),
        (["--import", "runs.sqlite"], "cannot import"),
        (["--merge", "none.sqlite"], "no such store"),
        (["--merge", "runs.sqlite"], "is the store itself"),
        (["other.sqlite"], "write --merge before other stores"),
        (["--where", "los < 3"], "no column 'los'"),
    ],
)
def test_bad_options_are_refused_before_anything_changes(store, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    run = isoloss("runs.sqlite", *arguments)
    assert isinstance(run.exception, InputError)
    assert says in str(run.exception)
    assert "\n" not in str(run.exception)
    assert {path.name for path in tmp_path.iterdir()} <= {"runs.sqlite", "runs.sqlite-wal", "runs.sqlite-shm"}


def test_values_of_the_wrong_kind_are_noted_and_the_check_goes_on(tmp_path):
    store = Store(tmp_path / "runs.sqlite")
    store.save(made(0))
    store.save(made(1))
    store.close()
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("UPDATE runs SET ended = x'81', params = 'many' WHERE run_id = ?", (made(0).run_id,))
    found = check(store)
    said = " ".join(problem["problem"] for problem in found.problems if problem["run_id"] == made(0).run_id)
    assert found.runs == 2
    assert "'ended': not a time" in said
    assert "'params': 'many' is not" in said
