"""Every reader of what a user writes, on thousands of broken inputs: a value or the documented error in one line, and never for ever."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import signal
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fits
from fits.selection import select
from models.config import ConfigError
from scaling import InputError, curves_command, output
from scaling.diffusion.actors import build as build_cast
from scaling.diffusion.actors import curve_of
from scaling.diffusion.monte_carlo import model as prepare_worlds
from scaling.diffusion.scenario import read_scenario
from scaling.jobs import FitJob, read_job
from scaling.ledger.scenario import Scenario
from scaling.ledger.scenario import read_scenario as read_ledger
from scaling.plan import read_plan
from scaling.store import Store, open_existing
from scaling.store.exchange import read_entries
from scaling.store.integrity import check
from scaling.toml_files import validated
from tests.fuzz.inputs import WOUNDS, altered, edited, either, wounded
from tests.scaling.stored import OWNER, made, planned

QUICK, THOROUGH = 150, 10_000
HANGS_AFTER = 60  # seconds for one input: far more than any takes on a busy machine

PLAN = b"""corpus = "python-source"
[ladder]
widths = [32, 48]
[budgets]
flops = [1e10, 3e10]
holdout = [1e11]
[[arms]]
name = "dense"
[[arms]]
name = "moe8"
experts = 8
experts_per_token = 2
[train]
precision = "fp32"
schedule = "wsd"
seeds = [0, 1]
"""
JOB = b"""[data]
path = "runs.csv"
columns = {params = "N", flops = "C"}
units = {params = "billions", loss = 0.5}
where = "loss < 3.43"
[fit]
laws = ["chinchilla"]
objective = "log-huber"
delta = 1e-3
bootstrap = 4000
bounds = {E = [1, 3]}
seed = 0
[compare]
holdout = "flops > 1e20"
[output]
curve = "mine.json"
"""
SCENARIO = b"""name = "mine"
start = 2023.0
end = 2032.0
curve = "besiroglu2024"
[trends]
price_performance = 1.37
algorithms = 3.0
[[actors]]
name = "leader"
budget_usd = 1e9
budget_growth = 2.4
[[controls]]
rule = "2023-10-17"
applies_to = ["leader"]
[[capabilities]]
name = "GPT-4 level"
effective_flops = 2e25
"""
LEDGER = b"""name = "mine"
[baseline]
chip = "H100"
chips = 64
network_gbps = [50, 100, 200]
zero = 0
[[steps]]
change = "chip"
to = "H20"
[[steps]]
change = "architecture"
model = "mixtral-8x7b"
tokens = 1e12
laws = ["ludziejewski2025"]
beside = "moe-8-experts"
[[steps]]
change = "format"
to = "fp8"
assumed = [0.9, 1.0]
[[steps]]
change = "rdma"
gbps = 400
[prices]
H20 = [9000, 12000, 15000]
"""
TABLE = b"""run_id,arm,params,tokens,loss,status
a1,dense,1e9,2e10,2.5,done
a2,dense,2e9,4e10,2.31,done
a3,"moe, 8",4e9,8e10,2.2,diverged
a4,dense,8000000000,1.6e11,2.1,
"""
ROWS = output.plain(pd.read_csv(io.BytesIO(TABLE)))
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CURVE = {
    "format": 1,
    "law": "chinchilla",
    "name": "mine",
    "constants": {"E": 1.8, "A": 450.0, "B": 2000.0, "alpha": 0.35, "beta": 0.37},
    "draws": [[1.8, 450.0, 2000.0, 0.35, 0.37], [1.81, 440.0, 2100.0, 0.34, 0.38]],
    "residual_sd": 0.01,
    "flops_per_param_token": 6.0,
    "range": {"params": [1e7, 1e10], "flops": [1e18, None]},
    "certificate": {"certified": True},
    "about": {"objective": "log-huber", "source": "arXiv 2203.15556", "intervals": None},
}
WHERE = 'loss < 2.4 and arm = "dense" and params >= 1e9 and status != "failed"'


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def _odd_parquet(rows: Any) -> bytes:
    try:
        return _parquet(rows)
    except (pyarrow.ArrowException, OverflowError, UnicodeError, ValueError, TypeError, AttributeError, KeyError):
        return _parquet(ROWS)  # no table that could be written


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


def _lines(rows: Any) -> bytes:
    return b"".join(_json_bytes(row) + b"\n" for row in rows) if isinstance(rows, list) else _json_bytes(rows)


def _store_bytes(folder: Path) -> bytes:
    path = folder / "valid.sqlite"
    with Store(path) as store:
        for seed in range(3):
            store.save(made(seed, train_loss=[3.0, 2.0]))
        store.plan([planned(made(5))])
        store.claim(made(6).run_id, OWNER)
        store.fail(made(7).run_id, "out of memory")
    return path.read_bytes()


def _show_curve(path: Path) -> None:
    curve = fits.load(path)
    json.dumps(output.strict(curves_command.about(curve)), allow_nan=False)


def _read_store(path: Path) -> None:
    with open_existing(path) as store:
        for read in (store.states, store.frame, store.records, store.curves, lambda: list(store.entries()), lambda: check(store)):
            with contextlib.suppress(InputError):
                read()


def _runs_of_plan(source: Any) -> None:
    read_plan(source).jobs()


def _cast_of(source: Any) -> None:
    scenario = read_scenario(source)
    prepare_worlds(scenario, build_cast(scenario), curve_of(scenario))


@dataclasses.dataclass(frozen=True)
class Reader:
    """A strategy of inputs, and what reads them. Bytes are written to a file of this ending first."""

    inputs: st.SearchStrategy[Any]
    read: Callable[[Any], Any]
    ending: str | None = None


FRAME = pd.DataFrame(ROWS)
READERS = {
    "plan file": Reader(either(PLAN), _runs_of_plan, ".toml"),
    "plan": Reader(altered(tomllib.loads(PLAN.decode())).filter(lambda value: isinstance(value, dict)), _runs_of_plan),
    "job file": Reader(either(JOB), read_job, ".toml"),
    "job": Reader(altered(tomllib.loads(JOB.decode())), lambda fields: validated(FitJob, fields, "job")),
    "scenario file": Reader(either(SCENARIO), _cast_of, ".toml"),
    "scenario": Reader(altered(tomllib.loads(SCENARIO.decode())).filter(lambda value: isinstance(value, dict)), _cast_of),
    "ledger file": Reader(either(LEDGER), read_ledger, ".toml"),
    "ledger": Reader(altered(tomllib.loads(LEDGER.decode())), lambda fields: validated(Scenario, fields, "scenario")),
    "csv": Reader(either(TABLE), fits.read_runs, ".csv"),
    "jsonl": Reader(st.one_of(either(LINES), altered(ROWS).map(_lines)), fits.read_runs, ".jsonl"),
    "parquet": Reader(st.one_of(edited(_parquet(ROWS)), altered(ROWS).map(_odd_parquet)), fits.read_runs, ".parquet"),
    "curve": Reader(st.one_of(either(_json_bytes(CURVE)), altered(CURVE).map(_json_bytes)), _show_curve, ".json"),
    "filter": Reader(
        st.one_of(either(WHERE.encode()).map(lambda text: text.decode(errors="replace")), st.text(max_size=30)),
        lambda text: select(FRAME, text),
    ),
    "import jsonl": Reader(
        st.one_of(either(LINES), altered([made().as_dict()]).map(_lines)), lambda path: list(read_entries(path)), ".jsonl"
    ),
    "import json": Reader(
        altered({"runs": [made().as_dict(), planned(made(1)) | {"status": "planned"}]}).map(_json_bytes),
        lambda path: list(read_entries(path)),
        ".json",
    ),
    "import csv": Reader(either(TABLE), lambda path: list(read_entries(path)), ".csv"),
}


def _said(reader: Reader, folder: Path, value: Any) -> str:
    """What the reader has to say against the input: nothing where it takes it. Any other error is one of the reader's own."""
    if reader.ending is not None:
        path = folder / f"input{reader.ending}"
        path.write_bytes(value)
        value = path
    signal.alarm(HANGS_AFTER)
    try:
        reader.read(value)
    except (InputError, ConfigError) as error:
        return str(error) or "?"
    finally:
        signal.alarm(0)
    return ""


def _hangs(signum: int, frame: object) -> None:
    raise AssertionError(f"still reading after {HANGS_AFTER} s")


def _try(reader: Reader, folder: Path, examples: int) -> None:
    chosen = settings(
        max_examples=examples,
        deadline=None,  # the alarm finds what hangs; how long an input takes is not a test's business
        database=None,
        derandomize=examples == QUICK,  # every run of the suite tries the same inputs
        suppress_health_check=list(HealthCheck),
    )

    def tried(value: Any) -> None:
        assert _said(reader, folder, value) != "?", "an error without a word"

    before = signal.signal(signal.SIGALRM, _hangs)
    try:
        chosen(given(reader.inputs)(tried))()
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", READERS)
def test_broken_input_is_a_value_or_an_error_that_says_so(name, tmp_path):
    _try(READERS[name], tmp_path, QUICK)


BEYOND = [
    ("plan file", b"seeds = " + b"[" * 3000, "within one another too often"),
    ("plan file", b"seeds = " + b"9" * 5000, "cannot be read as TOML"),
    ("plan file", b"corpus = 0x" + b"f" * 9000, "beyond all bounds"),
    ("scenario file", SCENARIO.replace(b"besiroglu2024", b"[" * 5000), "curve cannot be read"),
    ("job file", b'[data]\npath = "\xff"', "not UTF-8 text"),
    ("jsonl", b'{"tokens": 1, "loss": 2, "params": 1' + b"0" * 400 + b"}", "is not a positive finite number"),
    ("jsonl", b'{"loss": ' + b"9" * 5000 + b"}", "not a JSON object"),
    ("curve", b"[" * 100_000, "not a curve file"),
    ("import jsonl", b'{"run_id": "a", "status": "done", "loss": ' + b"9" * 400 + b"}", "column 'loss'"),
    ("import json", b"[" * 100_000, "cannot be read as JSON"),
]


@pytest.mark.parametrize(("name", "value", "says"), BEYOND)
def test_inputs_beyond_what_python_itself_reads_are_refused(name, value, says, tmp_path):
    assert says in _said(READERS[name], tmp_path, value)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_ten_thousand_broken_inputs(name, tmp_path):
    _try(READERS[name], tmp_path, THOROUGH)


def _store_reader(folder: Path) -> Reader:
    valid = _store_bytes(folder)
    path = folder / "input.sqlite"

    def read(wounds: Any) -> None:
        path.write_bytes(wounded(valid, wounds))
        _read_store(path)

    return Reader(WOUNDS, read)


def test_a_broken_store_is_read_or_refused(tmp_path):
    _try(_store_reader(tmp_path), tmp_path, QUICK)


@pytest.mark.slow
def test_ten_thousand_broken_stores(tmp_path):
    _try(_store_reader(tmp_path), tmp_path, THOROUGH)
