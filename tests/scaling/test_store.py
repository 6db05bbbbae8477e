"""The store: states of runs, several processes at once, versions of the file, and what can happen to a file."""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import Any

import pandas as pd
import pytest

from scaling import InputError
from scaling.store import STALE_SECONDS, Store, open_existing, schema
from scaling.store.owners import this_process
from tests.scaling.stored import OTHER, OWNER, made, planned, version_1


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "runs.sqlite") as store:
        yield store


@pytest.fixture
def clock(monkeypatch):
    """The store's clock, to be set by hand."""
    now = [1e9]
    monkeypatch.setattr("scaling.store.store.time.time", lambda: now[0])
    return now


def test_a_record_comes_back_as_it_was(store):
    record = made()
    store.save(record)
    assert store.records() == [record.as_dict()]
    assert store.curve(record.run_id) == record.train_loss
    row = store.frame().iloc[0]
    assert {name: row[name] for name in ("loss", "flops", "tokens", "width")} == {
        name: record.as_dict()[name] for name in ("loss", "flops", "tokens", "width")
    }


def test_a_run_goes_from_planned_over_running_to_done(store):
    record = made()
    store.plan([planned(record)])
    assert store.states() == {record.run_id: "planned"}
    assert store.claim(record.run_id, OWNER)
    assert store.states() == {record.run_id: "running"}
    assert not store.finished()
    store.save(record)
    assert store.states() == {record.run_id: "done"}
    assert not store.claim(record.run_id, OWNER)
    frame = store.frame()
    assert (frame["budget"].iloc[0], frame["holdout"].iloc[0]) == (3e9, False)  # labels of the plan, which the record lacks


def test_planning_again_changes_no_run(store):
    done, failed, running = made(0), made(1), made(2)
    store.save(done)
    store.fail(failed.run_id, "out of memory")
    store.claim(running.run_id, OWNER)
    before = store.states()
    store.plan([planned(run) for run in (done, failed, running)])
    assert store.states() == before
    assert store.records(states=["done"]) == [done.as_dict()]


def test_what_a_planned_run_will_be_stands_in_the_table(store):
    store.plan([planned(made(7))])
    row = store.frame().iloc[0]
    assert (row["status"], row["seed"], row["width"], row["corpus"]) == ("planned", 7, 16, made(7).corpus)
    assert pd.isna(row["loss"])


def test_a_run_has_one_owner_until_its_heartbeat_is_stale(store, clock):
    run = made().run_id
    assert store.claim(run, OWNER)
    assert store.claim(run, OWNER)
    assert not store.claim(run, OTHER)
    clock[0] += STALE_SECONDS - 1
    assert store.beat([run], OWNER) == {run}
    clock[0] += STALE_SECONDS - 1
    assert not store.claim(run, OTHER)
    clock[0] += 1
    assert store.states() == {run: "planned"}
    assert store.claim(run, OTHER)
    assert store.beat([run], OWNER) == set()  # it was taken away
    clock[0] -= 10 * STALE_SECONDS  # a clock that ran ahead locks nobody out for longer
    assert store.claim(run, OWNER)


def test_what_a_process_that_has_ended_left_is_free_at_once(store):
    say = "from scaling.store.owners import this_process; print(this_process())"
    ended = subprocess.run([sys.executable, "-c", say], capture_output=True, text=True, check=True).stdout.strip()
    run, other = made(0).run_id, made(1).run_id
    assert store.claim(run, ended)
    assert store.states() == {run: "planned"}
    assert store.frame()["status"].tolist() == ["planned"]
    assert store.claim(run, this_process())
    assert not store.claim(run, OTHER)  # this process is there
    host, _, rest = ended.partition(":")
    assert store.claim(other, f"not-{host}:{rest}")  # of another host nothing is known
    assert not store.claim(other, OTHER)


def test_only_the_owner_gives_a_run_back(store):
    run = made().run_id
    store.claim(run, OWNER)
    store.release(run, OTHER)
    assert store.states() == {run: "running"}
    store.release(run, OWNER)
    assert store.states() == {run: "planned"}
    assert store.claim(run, OTHER)


def test_a_failed_run_may_be_made_and_a_finished_one_never_changes(store):
    record, other = made(), dataclasses.replace(made(), loss=9.0)
    store.fail(record.run_id, "out of memory")
    assert store.frame()["reason"].tolist() == ["out of memory"]
    assert store.claim(record.run_id, OWNER)
    store.save(record)
    store.save(other)
    store.fail(record.run_id, "too late")
    assert store.records() == [record.as_dict()]
    assert store.frame()["status"].tolist() == ["done"]


def test_only_the_runs_asked_for_are_read(store):
    records = [made(seed) for seed in range(5)]
    for record in records:
        store.save(record)
    store.database._opened().execute("UPDATE records SET record = 'no JSON' WHERE run_id = ?", (records[4].run_id,))
    asked = [records[2].run_id, records[0].run_id, "never-made"]
    assert store.finished(asked) == {records[0].run_id, records[2].run_id}
    assert [record["seed"] for record in store.records(asked)] == [0, 2]
    assert set(store.frame(asked)["seed"]) == {0, 2}
    assert set(store.curves(asked)) == store.finished(asked)


def test_a_million_runs_are_no_reason_to_read_a_million(store):
    """Every read by ids goes through an index, and so does every write."""
    for query in ("SELECT run_id, status, beat FROM runs", "SELECT run_id, train_loss FROM curves", "SELECT record FROM records"):
        plan = (
            store.database._opened().execute(f"EXPLAIN QUERY PLAN {query} WHERE run_id IN (SELECT value FROM json_each('[]'))").fetchall()
        )
        assert any("SEARCH" in row[3] for row in plan), plan
        assert not any(row[3].startswith("SCAN") and "json_each" not in row[3] for row in plan), plan


def test_pandas_opens_the_table_in_one_line(store):
    store.save(made())
    frame = pd.read_sql("select * from runs", sqlite3.connect(store.path))
    assert frame["loss"].tolist() == [made().loss]
    curve = pd.read_sql("select * from learning_curves", sqlite3.connect(store.path))
    assert curve["train_loss"].tolist() == pytest.approx(made().train_loss)
    assert curve["part"].tolist() == list(range(1, 21))


@pytest.mark.parametrize("name", ["../outside", "a/b", "", ".hidden", "a\n", "x" * 65, None])
def test_an_id_that_is_no_plain_name_is_refused(store, name):
    for call in (lambda: store.claim(name, OWNER), lambda: store.fail(name, "?"), lambda: store.save(made(run_id=name))):
        with pytest.raises(InputError, match="is not a plain name"):
            call()
    assert store.states() == {}


WRITER = """
import json, sys
from scaling.store import Store
class Record:
    def __init__(self, **fields): self.as_dict = lambda: fields
path, first, count, record = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.load(sys.stdin)
with Store(path) as store:
    for seed in range(first, first + count):
        store.save(Record(**(record | {"run_id": f"{seed:016x}", "seed": seed})))
"""


def _written_by_eight(path, count):
    command = [sys.executable, "-c", WRITER, path]
    hands = [subprocess.Popen([*command, str(hand * count), str(count)], stdin=subprocess.PIPE, text=True) for hand in range(8)]
    for hand in hands:
        assert hand.stdin is not None
        hand.stdin.write(json.dumps(made().as_dict()))
        hand.stdin.close()
    assert [hand.wait() for hand in hands] == [0] * 8
    with Store(path) as store:
        assert store.finished() == {f"{seed:016x}" for seed in range(8 * count)}
        assert store.frame()["seed"].sort_values().tolist() == list(range(8 * count))
        assert len(store.curves()) == 8 * count


def test_eight_processes_write_into_one_store(tmp_path):
    _written_by_eight(tmp_path / "runs.sqlite", 25)


@pytest.mark.slow
def test_eight_processes_write_ten_thousand_records_each(tmp_path):
    _written_by_eight(tmp_path / "runs.sqlite", 10_000)


def test_two_processes_may_make_one_store_at_the_same_moment(tmp_path):
    """Whatever the first has read of the empty file when the second is done."""
    path = tmp_path / "runs.sqlite"

    class Overtaken:
        def __init__(self, connection):
            self.connection, self.reads = connection, 0

        def execute(self, *arguments):
            found = self.connection.execute(*arguments).fetchall()
            self.reads += 1
            if self.reads == 1:
                Store(path).close()
            return type("Cursor", (), {"fetchone": lambda _: found[0]})()

        def __getattr__(self, name):
            return getattr(self.connection, name)

    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        overtaken: Any = Overtaken(connection)
        schema.prepare(overtaken, path)
    with open_existing(path) as store:
        assert store.states() == {}


def test_a_run_is_claimed_by_one_of_two_sweeps(tmp_path):
    first, second = Store(tmp_path / "runs.sqlite"), Store(tmp_path / "runs.sqlite")
    ids = [made(seed).run_id for seed in range(20)]
    first.plan([planned(made(seed)) for seed in range(20)])
    taken = [
        (first.claim(run, OWNER), second.claim(run, OTHER)) if number % 2 else (second.claim(run, OTHER), first.claim(run, OWNER))
        for number, run in enumerate(ids)
    ]
    assert taken == [(True, False)] * 20
    first.close()
    second.close()


FORKED = """
import os, sys
from scaling.store import Store

store = Store(sys.argv[1])
store.plan([{"run_id": "0" * 16}])
ours = store.database._opened()
child = os.fork()
if child == 0:
    try:
        store.plan([{"run_id": "1" * 16}])
        os._exit(store.database._opened() is ours)
    except BaseException:
        os._exit(1)
assert os.waitpid(child, 0)[1] == 0
store.plan([{"run_id": "2" * 16}])
assert set(store.states()) == {"0" * 16, "1" * 16, "2" * 16}, store.states()
"""


def test_a_forked_process_does_not_use_its_parents_connection(tmp_path):
    """In a process of its own: this one may have JAX's threads, with which nothing may be forked."""
    subprocess.run([sys.executable, "-c", FORKED, str(tmp_path / "runs.sqlite")], check=True, timeout=120)


def test_a_store_of_version_1_is_brought_up_to_date(tmp_path):
    path = tmp_path / "runs.sqlite"
    records = [made(seed).as_dict() for seed in range(3)]
    failed = {"run_id": made(9).run_id, "status": "failed", "reason": "out of memory"}
    version_1(path, [*records, failed])
    with open_existing(path) as store:
        assert store.records() == [*records, failed]
        assert store.finished() == {record["run_id"] for record in records}
        assert store.curve(records[0]["run_id"]) == records[0]["train_loss"]
        assert store.frame()["loss"].tolist()[:3] == [record["loss"] for record in records]
        store.save(made(9))
        assert len(store.finished()) == 4


def test_a_migration_that_is_cut_short_leaves_the_old_store(tmp_path, monkeypatch):
    path = tmp_path / "runs.sqlite"
    version_1(path, [made(seed).as_dict() for seed in range(3)])
    from scaling.store import rows

    put = rows.put

    def cut(connection, record, ended):
        if record["seed"] == 2:
            raise KeyboardInterrupt
        return put(connection, record, ended)

    with monkeypatch.context() as patch:
        patch.setattr(rows, "put", cut)
        with pytest.raises(KeyboardInterrupt):
            open_existing(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (3,)
    with open_existing(path) as store:
        assert [record["seed"] for record in store.records()] == [0, 1, 2]


def test_a_store_of_a_newer_version_is_refused_untouched(store):
    store.save(made())
    store.close()
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute("PRAGMA user_version=99")
    before = store.path.read_bytes()
    with pytest.raises(InputError, match=r"written by a newer isoloss \(schema 99, this one reads 2\)"):
        open_existing(store.path)
    assert store.path.read_bytes() == before


FULL = """
import resource, sys
from scaling.store import Store
from scaling.store.owners import this_process
from tests.scaling.stored import made
store = Store(sys.argv[1])
store.save(made(0))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
for seed in range(1, 1000):
    store.save(made(seed))
    print(seed, flush=True)
"""


def test_a_write_that_fails_in_the_middle_loses_nothing_that_was_stored(tmp_path):
    """The system refuses to let the files grow, as a full disk does."""
    path = tmp_path / "runs.sqlite"
    run = subprocess.run([sys.executable, "-c", FULL, path], capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    said = run.stderr.strip().splitlines()[-1]
    assert said.startswith("fits.errors.InputError")
    assert "what was stored before is kept" in said
    stored = [0, *map(int, run.stdout.split())]
    assert 2 < len(stored) < 1000
    with open_existing(path) as store:
        assert {record["seed"]: record for record in store.records()} == {seed: made(seed).as_dict() for seed in stored}
        store.save(made(1000))


def test_a_full_disk_is_named(store):
    store.save(made())
    store.database._opened().execute("PRAGMA max_page_count=1")
    large = made(1, train_loss=[0.0] * 10_000)
    with pytest.raises(InputError, match="the disk is full; what was stored before is kept"):
        store.save(large)
    assert store.records() == [made().as_dict()]


@pytest.mark.parametrize("kept", [100, 5000, 20_000])
def test_a_store_that_was_cut_short_is_said_to_be(store, kept):
    for seed in range(20):
        store.save(made(seed))
    store.close()
    assert store.path.stat().st_size > kept
    os.truncate(store.path, kept)
    with pytest.raises(InputError, match=r"damaged or cut short|not a run store") as caught:
        open_existing(store.path).records()
    assert "\n" not in str(caught.value)


def test_a_store_that_is_taken_away_while_it_is_open_takes_no_more_records(store):
    store.save(made(0))
    store.path.rename(store.path.with_name("elsewhere.sqlite"))
    with pytest.raises(InputError, match="moved, removed or replaced"):
        store.save(made(1))


def test_paths_that_cannot_be_stores_are_refused(tmp_path):
    (tmp_path / "empty.sqlite").touch()
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="not a run store"):
        Store(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "x"
    with pytest.raises(InputError, match="is empty"):
        open_existing(tmp_path / "empty.sqlite")
    with pytest.raises(InputError, match="is a folder"):
        Store(tmp_path)
    with pytest.raises(InputError, match="cannot be made"):
        Store(tmp_path / "file" / "runs.sqlite")
