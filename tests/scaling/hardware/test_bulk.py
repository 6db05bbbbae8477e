"""Tables of runs: every row gets an estimate or a reason, whatever is in it."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from scaling import chip as find_chip
from scaling.cli import main
from scaling.errors import InputError
from scaling.hardware.bulk import COLUMNS, estimate_file, estimate_rows
from scaling.hardware.rows import describe
from scaling.hardware.software import software

FULL = {
    "id": "full",
    "model": "Llama-3-8B",
    "n_layers": "32",
    "d_model": "4096",
    "n_heads": "32",
    "n_kv_heads": "8",
    "head_dim": "128",
    "d_ff": "14336",
    "ffn_matrices": "3",
    "vocab": "128256",
    "attn": "gqa",
    "seq_len": "8192",
    "global_batch_seqs": "128",
    "micro_batch_seqs": "1",
    "chip": "H100-SXM-80GB",
    "n_chips": "8",
    "chips_per_node": "8",
    "tp": "1",
    "pp": "1",
    "cp": "2",
    "fsdp_dp": "4",
    "recompute": "none",
    "precision": "bf16",
    "framework": "NeMo 24.12",
}


def estimate(**changes):
    return estimate_rows([FULL | changes])[0]


def test_a_full_row_needs_no_note():
    found = estimate()
    assert found.note == ""
    # The same job was measured at 10,256 tokens a second and chip (dgxc-benchmarking v25.02).
    assert found.low < 10256 < found.high
    assert found.mfu_pct == pytest.approx(100 * found.tok_per_s_per_chip * 5.79e10 / 989.4e12, rel=0.01)


@pytest.mark.parametrize(
    ("gone", "word"),
    [
        (("micro_batch_seqs",), "micro_batch_seqs"),
        (("tp", "pp", "fsdp_dp"), "layout"),
        (("n_layers",), "n_layers"),
        (("head_dim",), "head_dim"),
        (("recompute",), "recompute"),
        (("global_batch_seqs",), "global_batch_seqs"),
        (("framework",), "software"),
        (("n_chips",), "n_chips"),
        (("seq_len",), "seq_len"),
    ],
)
def test_what_a_row_lacks_is_inferred_and_noted(gone, word):
    found = estimate(**dict.fromkeys(gone, ""), params_total_b="8.03")
    assert word in found.note
    assert found.tok_per_s_per_chip == pytest.approx(estimate().tok_per_s_per_chip, rel=0.35)


def test_layers_follow_from_parameters():
    found = describe(FULL | {"n_layers": "", "params_total_b": "8.03"}, find_chip)
    assert found.workload.architecture.layers == pytest.approx(32, abs=3)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"chip": ""}, "no chip is named"),
        ({"chip": "H1000"}, "did you mean"),
        ({"chip": "mixed A100 and H100"}, "several kinds"),
        ({"chip": "MI308X"}, "no bf16 is published"),
        ({"d_model": "", "params_total_b": ""}, "neither the model's shape"),
    ],
)
def test_no_estimate_says_why(changes, word):
    found = estimate(**changes)
    assert found.tok_per_s_per_chip is None
    assert word in found.note


def test_a_format_that_the_chip_lacks_is_estimated_in_bf16():
    found = estimate(chip="A100-SXM-80GB", precision="fp8")
    assert "has no fp8: estimated in bf16" in found.note
    assert found.tok_per_s_per_chip == estimate(chip="A100-SXM-80GB").tok_per_s_per_chip


def test_odd_rows_never_crash():
    """Random nonsense in random columns of a row: a positive figure with an ordered band, or a reason."""
    rng = np.random.Generator(np.random.Philox(key=0))
    odd = ["", "nan", "-1", "0", "1e400", "abc", "50-100", "7", "1e30", "none", "3 + offload", "0.5", None, "1000003", "mla"]
    rows = [FULL | {name: odd[rng.integers(len(odd))] for name in rng.choice(list(FULL), 4)} for _ in range(400)]
    for found in estimate_rows(rows):
        if found.tok_per_s_per_chip is None:
            assert found.note.startswith("no estimate: ")
        else:
            ordered = np.array([0, found.low, found.tok_per_s_per_chip, found.high, np.inf], float)
            assert (np.diff(ordered) > 0).all()
            assert float(found.peak_mem_gb or 0) > 0


def test_files(tmp_path):
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    with source.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(FULL))
        writer.writeheader()
        writer.writerows([FULL, FULL | {"id": "no chip", "chip": ""}])
    estimate_file(source, target)
    with target.open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["id"] for row in rows] == ["full", "no chip"]
    assert rows[1]["tok_per_s_per_chip"] == rows[1]["low"] == rows[1]["peak_mem_gb"] == ""
    assert float(rows[0]["low"]) < float(rows[0]["tok_per_s_per_chip"]) < float(rows[0]["high"])
    for bad, words in ((tmp_path / "none.csv", "no such file"), (tmp_path / "empty.csv", "no rows")):
        if "empty" in bad.name:
            bad.write_text("")
        with pytest.raises(InputError, match=words):
            estimate_file(bad, target)


@pytest.mark.parametrize(
    ("text", "stack", "year"),
    [
        ("Megatron-Bridge 25.09", "megatron-bridge", 2025 + 8.5 / 12),
        ("NeMo/Megatron-Core of 2024-01", "nemo", 2024 + 0.5 / 12),
        ("Megatron-LM 2021", "megatron-lm", 2021.5),
        ("llm-foundry/Composer (FSDP)", "llm-foundry", 2023.5),
        ("", "", 2021.0),
        ("my own stack", "", 2021.0),
    ],
)
def test_software_from_words(text, stack, year):
    found = software(text, released=2020.0)
    assert (found.stack, found.year) == (stack, pytest.approx(year))


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["isoloss", "estimate", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code, capsys.readouterr()


def test_command(monkeypatch, capsys):
    status, said = run(monkeypatch, capsys, "llama-3.1-8b", "--chip", "H100", "--chips", "8", "--tokens", "1e11", "--json")
    answer = json.loads(said.out)
    assert {"tok_per_s_per_chip", "low", "high", "mfu", "hours", "chip_hours", "usd", "memory_gb", "layout", "breakdown"} <= set(answer)
    assert status == 0
    status, said = run(monkeypatch, capsys, "llama-3.1-8b", "--chip", "H100", "--chips", "8", "--tensor", "3")
    assert status == 2
    assert len(said.err.strip().splitlines()) == 1
    assert "8 chips do not divide by tensor" in said.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["llama-3.1-8b"], "--chip and --chips are needed"),
        (["llama-3.1-8b", "--chip", "H100", "--chips", "8", "--search", "--zero", "1"], "--search finds the layout"),
        (["--chip", "H100", "--chips", "8", "--shape", "layers=4"], "a shape needs layers, width, heads and vocab"),
        (["--chip", "H100", "--chips", "8", "--shape", "depth=4"], "--shape takes NAME=NUMBER"),
        (["--runs", "no.csv"], "--runs needs --out"),
    ],
)
def test_what_the_command_asks_for(monkeypatch, capsys, arguments, words):
    status, said = run(monkeypatch, capsys, *arguments)
    assert status == 2
    assert words in said.err
