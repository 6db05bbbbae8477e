"""The command: strict JSON, one line for bad input, and a working folder that must not matter."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fits
from scaling import InputError, compute_penalty
from scaling.cli import main
from scaling.comparability import check_same_text
from tests.fits.planted import TRUTH, planted

ISOLOSS = Path(sys.executable).with_name("isoloss")


def isoloss(*arguments, cwd=None):
    """The command as a process of its own."""
    return subprocess.run([ISOLOSS, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, env=os.environ, timeout=300)


def called(*arguments, cwd=None):
    """The same in this process, which has imported its libraries already."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["isoloss", *map(str, arguments)])
        patch.chdir(cwd or Path.cwd())
        with pytest.raises(SystemExit) as ended:
            main()
    assert isinstance(ended.value.code, int)
    return subprocess.CompletedProcess(arguments, ended.value.code, out.getvalue(), err.getvalue())


def answer(*arguments, cwd=None, run=called):
    def refuse(word):
        raise AssertionError(f"{word} is not strict JSON")

    run = run(*arguments, "--json", cwd=cwd)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout, parse_constant=refuse)


@pytest.fixture
def table(tmp_path):
    planted(36, 1e-3).rename(columns={"params": "Model Size", "loss": "Final loss"}).to_csv(tmp_path / "runs.csv", index=False)
    return tmp_path / "runs.csv"


def test_help_is_quick_because_nothing_heavy_is_imported():
    code = "import sys; sys.argv = ['isoloss', '--help']\nfrom scaling.cli import main\ntry:\n main()\nexcept SystemExit: pass\n"
    code += "heavy = {'jax', 'flax', 'orbax', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules); assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    subprocess.run([sys.executable, "-c", "import fits, sys; assert not {'jax', 'flax', 'pandas'} & set(sys.modules)"], check=True)


def test_the_version_is_the_package_s():
    from importlib.metadata import version

    told = called("--version")
    assert (told.returncode, told.stdout) == (0, f"isoloss {version('isoloss')}\n")


def test_fit_from_a_table_and_from_a_job_agree(table, tmp_path):
    columns = ["--columns", "params=Model Size", "--columns", "loss=Final loss"]
    direct = answer(
        "fit", table, "--law", "chinchilla", *columns, "--where", "Final loss < 9", "--bootstrap", 50, "--out", tmp_path / "direct.json"
    )
    assert set(direct) >= {"law", "constants", "interval", "certificate", "rows", "range", "seconds"}
    assert direct["constants"]["alpha"] == pytest.approx(TRUTH["alpha"], rel=0.05)
    low, high = direct["interval"]["alpha"]
    assert low < direct["constants"]["alpha"] < high
    job = tmp_path / "job.toml"
    job.write_text(
        '[data]\npath = "runs.csv"\ncolumns = {params = "Model Size", loss = "Final loss"}\nwhere = "Final loss < 9"\n'
        '[fit]\nlaws = ["chinchilla"]\nobjective = "log-huber"\ndelta = 1e-3\nbootstrap = 50\nseed = 0\n'
        '[output]\ncurve = "mine.json"\nfigures = "figures/"\n'
    )
    by_job = answer("fit", job)
    assert by_job["constants"] == direct["constants"]
    assert (tmp_path / "figures" / "chinchilla-fit.png").stat().st_size > 10_000
    assert (tmp_path / "figures" / "chinchilla-residuals.png").stat().st_size > 10_000
    shown = answer("curves", tmp_path / "mine.json", "--flops", 1e22)
    assert shown["optimal"]["params"] > 0
    assert shown["decades_outside"] == 0


def test_curves_list_show_predict_and_optimum():
    names = {row["name"] for row in answer("curves")["curves"]}
    assert {"besiroglu2024", "hoffmann2022"} <= names
    shown = answer("curves", "besiroglu2024", "--params", 7e10, "--tokens", 1.4e12)
    assert shown["loss"] == pytest.approx(1.9735, rel=1e-4)
    assert answer("curves", "hoffmann2022", "--flops", 5.76e23)["optimal"]["params"] == pytest.approx(4.036e10, rel=1e-3)


def test_penalty_is_strict_json_even_where_it_is_infinite():
    found = answer("penalty", "besiroglu2024", "--flops", 1e24, "--structure", 2, "--data", 2)
    assert found["value"] == pytest.approx(4, rel=1e-9)
    assert set(found) >= {"value", "feasible", "reason", "leader", "follower", "decades_outside"}
    wall = answer("penalty", "besiroglu2024", "--flops", 1e24, "--data", 8, "--fixed", "tokens")
    assert (wall["value"], wall["feasible"]) == (None, False)
    assert wall["reason"]
    human = called("penalty", "besiroglu2024", "--flops", 1e27, "--structure", 2)
    assert "decades of compute beyond" in human.stderr


def test_penalties_have_an_interval_from_the_draws_of_the_curve():
    """At 2x structure and 2x data the size and tokens of least cost give 4x under any constants; with tokens fixed the constants matter."""
    free, limited = ["--structure", 2, "--data", 2], ["--structure", 2, "--data", 2, "--unique-tokens", 15e12]
    exact = answer("penalty", "besiroglu2024", "--loss", 2.0, *free)
    assert (exact["low"], exact["high"], exact["level"]) == pytest.approx((4, 4, 0.95), rel=1e-9)
    assert exact["leader"]["loss"] == pytest.approx(2.0, rel=1e-9)
    near, far = answer("penalty", "besiroglu2024", "--flops", 1e26, "--flops", 1e29, *limited)["penalties"]
    curve = fits.load("besiroglu2024")
    drawn = [
        dataclasses.replace(curve, constants=dict(zip(curve.law.constants, map(float, row), strict=True))) for row in curve.draws_or_error()
    ]
    values = [compute_penalty(each, flops=1e29, structure=2, data=2, unique_tokens=15e12).value for each in drawn]
    assert (far["low"], far["high"]) == pytest.approx(
        np.quantile(values, [(1 - 0.95) / 2, (1 + 0.95) / 2], method="inverted_cdf"), rel=1e-9
    )
    assert near["low"] < near["value"] < near["high"] < far["low"] < far["value"]
    alone = answer("penalty", "hoffmann2022", "--flops", 1e24, *free)
    assert alone["low"] is None
    assert "no draws" in alone["notes"][0]


def test_curves_of_other_texts_are_compared_by_force_only():
    given = ["penalty", "besiroglu2024", "--flops", 1e24, "--follower", "castro2025-base"]
    with pytest.raises(InputError, match="corpus 'MassiveText'"):
        compute_penalty(fits.load("besiroglu2024"), flops=1e24, follower=fits.load("castro2025-base"))
    assert called(*given, "--force").stderr.count("forced: curve 'besiroglu2024' is of corpus 'MassiveText'") == 1
    assert "the corpus of 'kumar2024' is not known" in " ".join(check_same_text(fits.load("besiroglu2024"), fits.load("kumar2024")))
    assert check_same_text(fits.load("besiroglu2024"), fits.load("hoffmann2022")) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fit", "none.csv"], "no such file"),
        (["fit", "none.toml"], "no such file"),
        (["fit", "runs.csv", "--law", "kaplan"], "law 'kaplan'"),
        (["fit", "runs.csv", "--columns", "params"], "NAME=COLUMN"),
        (["fit", "runs.csv", "--delta", "-1"], "delta"),
        (["fit", "runs.csv", "--seed", "-1"], "seed"),
        (["fit", "runs.csv", "--fixed", "alpha=small"], "alpha needs a number"),
        (["fit", "runs.csv", "--bounds", "E=1"], "write E=LOW:HIGH"),
        (["fit", "runs.csv", "--units", "params=parsecs", "--columns", "params=Model Size"], "parsecs"),
        (["fit", "runs.csv", "--fixed", "alpha=0.3", "beta=0.3"], "belongs to no option"),
        (["fit", "--dataset", "chinchila"], "there are chinchilla-epoch"),
        (["fit"], "give path"),
        (["fit", "runs.csv", "--columns", "params=Model Size", "loss=Final loss", "--out", "runs.csv"], "is the table of runs itself"),
        (["curves", "ludziejewski2025", "--flops", "1e20", "--at", "experts"], "INPUT=NUMBER"),
        (["curves", "ludziejewski2025", "--flops", "1e20"], "experts is missing"),
        (["fit", "runs.csv", "--out", "."], "is a folder"),
        (["fit", "runs.csv", "--columns", "params=Model Size", "loss=Final loss", "--out", "runs.csv/curve.json"], "runs.csv"),
        (["penalty", "besiroglu2024", "--flops", "1e24", "--unique-tokens", "0"], "unique_tokens must be positive"),
        (["demo", "--out", "runs.csv/demo"], "runs.csv"),
        (["fit", "runs.csv", "--columns", "params=Model Size"], "no column 'loss'"),
        (["curves", "besiroglu"], "did you mean 'besiroglu2024'"),
        (["curves", "besiroglu2024", "--params", "1e9"], "go together"),
        (["curves", "besiroglu2024", "--flops", "-1"], "flops must be positive"),
        (["penalty", "besiroglu2024", "--flops", "nan"], "flops must be positive"),
        (["penalty", "besiroglu2024"], "--flops"),
        (["penalty", "besiroglu2024", "--loss", "1.8"], "a loss of 1.8 is not above its irreducible loss 1.81686"),
        (["penalty", "besiroglu2024", "--loss", "2", "--flops", "1e22"], "not both"),
        (["penalty", "besiroglu2024", "--loss", "2", "--overtraining", "3"], "compute-optimal frontier"),
        (["penalty", "besiroglu2024", "--flops", "1e24", "--follower", "castro2025-base"], "not comparable"),
        (
            ["penalty", "busbridge2025-supervised", "--flops", "1e24", "--follower", "castro2025-base"],
            "of tokenizer 'vocabulary of 32,168'",
        ),
        (["penalty", "besiroglu2024", "--flops", "1e24", "--fixed", "tokens", "--allocation-error", "2"], "neither with fixed"),
        (["sweep", "none.toml", "--store", "s.sqlite"], "no such file"),
        (["runs", "none.sqlite"], "no such store"),
        (["demo", "--out", "runs.csv"], "is a file"),
        (["data", "inspect", "none.txt"], "neither"),
        (["frobnicate"], "No such command"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(table, tmp_path, arguments, says):
    before = sorted(tmp_path.rglob("*"))
    run = called(*arguments, cwd=tmp_path)
    assert run.returncode == 2, run.stderr
    assert len(run.stderr.strip().splitlines()) == 1, run.stderr
    assert says in run.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_unknown_keys_of_a_job_are_named(table, tmp_path):
    (tmp_path / "job.toml").write_text('[data]\npath = "runs.csv"\n[fit]\nbootstraps = 3\n')
    run = isoloss("fit", "job.toml", cwd=tmp_path)
    assert run.returncode == 2
    assert "unknown key 'fit.bootstraps'" in run.stderr


def test_works_in_a_folder_that_has_a_models_of_its_own(text_folder, tmp_path):
    """The package's import names are generic: a user's own models/, fits.py or scaling/ must not be taken for them."""
    for name in ("models", "scaling"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the wrong package was imported')\n")
    (tmp_path / "fits.py").write_text("raise RuntimeError('the wrong module was imported')\n")
    (tmp_path / "plan.toml").write_text(
        f'corpus = "{text_folder}"\n[ladder]\nwidths = [16]\ncontext = 32\n[budgets]\nflops = [1.5e9]\n[train]\nvalidation_tokens = 1024\n'
    )
    runs = answer("sweep", "plan.toml", "--store", "runs.sqlite", cwd=tmp_path, run=isoloss)["runs"]
    assert [run["status"] for run in runs] == ["done"]
    assert answer("runs", "runs.sqlite", cwd=tmp_path, run=isoloss)["runs"][0]["loss"] == runs[0]["loss"]
    assert answer("runs", "runs.sqlite", "--where", "loss > 99", cwd=tmp_path)["runs"] == []
