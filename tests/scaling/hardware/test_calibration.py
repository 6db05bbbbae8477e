"""The calibration: recovery of planted constants and effects, honest folds and bands, and the figures on the shared table of runs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from scaling.hardware import bands, effects
from scaling.hardware.bands import quantile
from scaling.hardware.calibration import FOLDS, Fitter, cross_validate, folds, read_table
from scaling.hardware.memory_calibration import fit_memory, median_error, read_peaks
from scaling.hardware.scores import baselines, scores
from scaling.hardware.solver import Solver


@pytest.fixture(scope="module")
def runs_path() -> Path:
    """The shared table of runs: ISOLOSS_HARDWARE names its folder, or it lies in `reference` beside ISOLOSS_DATA."""
    named = os.environ.get("ISOLOSS_HARDWARE")
    folder = Path(named) if named else Path(os.environ.get("ISOLOSS_DATA", "missing")).parent / "reference"
    path = folder / "training-runs.csv"
    if not path.is_file():
        pytest.skip("no training-runs.csv: ISOLOSS_HARDWARE does not name its folder")
    return path


def test_solver_recovers_planted_constants_and_keeps_to_firm_priors():
    rng = np.random.Generator(np.random.Philox(key=1))
    x = {name: rng.uniform(0.5, 2, 200) for name in "abc"}

    def law(c, row):
        return 1 / (c["slow"] * row["a"] + c["rest"] * row["b"] + c["held"] * row["c"])

    start = {"slow": 1.0, "rest": 1.0, "held": 1.0}
    solver = Solver(law, {"slow": (1.0, 3.0), "rest": (1.0, 3.0), "held": (1.0, 1e-4)}, list("abc"), noise=0.1, robust=1.5)
    found = solver.fit(x, law({"slow": 0.7, "rest": 2.5, "held": 1.0}, x), np.full(200, 100.0), start)
    assert found == {"slow": pytest.approx(0.7, rel=1e-3), "rest": pytest.approx(2.5, rel=1e-3), "held": pytest.approx(1.0, rel=1e-3)}
    assert solver.fit(x, law({"slow": 0.7, "rest": 2.5, "held": 0.8}, x), np.ones(200), start)["held"] == pytest.approx(1.0, abs=0.01)


def test_effects_are_found_and_shrunken():
    rng = np.random.Generator(np.random.Philox(key=2))
    matrix = np.zeros((300, 3))
    matrix[:200, 0], matrix[200:298, 1], matrix[298:, 2] = 1, 1, 1
    residual = matrix @ [0.3, -0.2, 0.3] + rng.normal(0, 0.05, 300)
    found = effects.solve(matrix, np.full(3, 0.15), residual, np.ones(300))
    assert found[:2] == pytest.approx([0.3, -0.2], abs=0.02)
    assert 0.1 < found[2] < 0.29  # two rows are not believed in full


def test_no_group_is_split():
    groups = np.array([f"g{i % 37}" for i in range(500)])
    fold = folds(groups, seed=3)
    assert {len({*fold[groups == group]}) for group in groups} == {1}
    assert {*fold} == {*range(FOLDS)}
    assert (folds(groups, seed=4) != fold).any()


def test_band_covers_what_it_says_and_widens_where_errors_are_larger():
    rng = np.random.Generator(np.random.Philox(key=4))
    traits = np.zeros((4000, len(bands.TRAITS)))
    traits[:, 0], traits[:, 1] = 1.0, rng.integers(0, 2, 4000)
    errors = rng.normal(0, np.where(traits[:, 1] == 1, 0.3, 0.1))
    half = np.arange(4000) < 2000
    weights, low, high = bands.ends(traits[half], errors[half], np.ones(2000))
    scale = bands.scales(traits[~half], weights)
    inside = (low * scale <= errors[~half]) & (errors[~half] <= high * scale)
    for trait in (0, 1):
        assert inside[traits[~half][:, 1] == trait].mean() == pytest.approx(0.8, abs=0.05)
    assert np.median(scale[traits[~half][:, 1] == 1]) > 2 * np.median(scale[traits[~half][:, 1] == 0])


def test_weighted_quantile():
    assert quantile(np.array([3.0, 1.0, 2.0]), np.array([1.0, 1.0, 8.0]), 0.5) == 2.0


def test_memory_on_reported_peaks(runs_path):
    """Median error at most 10%, a group counting once, on peaks that can hold the activations."""
    peaks = read_peaks(runs_path)
    _, ratio = fit_memory(peaks)
    assert peaks.whole.sum() >= 55
    assert median_error(peaks, ratio, peaks.whole) <= 0.10


def test_shipped_constants_on_the_shared_table(runs_path):
    """Not a validation (the constants saw these rows): the file that ships belongs to this code."""
    from scaling.hardware.constants import load, speeds

    table = read_table(runs_path)
    assert len(table.ids) > 590
    estimate = speeds(load(), table.works, [each.inferred for each in table.described])
    assert quantile(np.abs(estimate / table.speed - 1), table.group_weights, 0.5) < 0.08


@pytest.mark.slow
def test_cross_validation(runs_path):
    """Five folds by group: the project's promise, and both baselines far behind."""
    table = read_table(runs_path)
    fitter = Fitter(table)
    results = [cross_validate(table, fitter, seed) for seed in range(3)]

    def mean(part: str, figure: str) -> float:
        return float(np.mean([scores(result)[part][figure] for result in results]))

    assert mean("all", "median") <= 0.10
    assert mean("dense, datacentre", "median") <= 0.08
    assert mean("MoE", "median") <= 0.18
    assert mean("all", "within15") >= 0.65
    assert 0.75 <= mean("all", "coverage") <= 0.85
    for guess in baselines(results[0]).values():
        assert guess["all"] > 1.5 * mean("all", "median")
