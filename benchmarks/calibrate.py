"""Fits the constants of the training-time estimate to a table of reported runs, and prints the fit and its cross-validation.

    python benchmarks/calibrate.py --data FOLDER [--seeds 3] [--out scaling/hardware/constants.json]

FOLDER holds training-runs.csv (or ISOLOSS_HARDWARE names it). The table itself is not part of the project; the constants are.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import os
import time
from pathlib import Path

import numpy as np

from scaling.hardware import bands, memory, time_law
from scaling.hardware.calibration import CrossValidated, Fitter, Table, calibrate, cross_validate, read_table
from scaling.hardware.memory_calibration import fit_memory, median_error, read_peaks
from scaling.hardware.scores import baselines, scores
from scaling.output import note, say, table


def main() -> None:
    """Reads, cross-validates, fits, writes, reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("ISOLOSS_HARDWARE", ".")), help="folder of training-runs.csv")
    parser.add_argument("--seeds", type=int, default=3, help="ways to split the groups into folds")
    parser.add_argument("--out", type=Path, default=None, help="file for the constants; none is written without it")
    arguments = parser.parse_args()
    path = arguments.data / "training-runs.csv"
    if not path.is_file():
        parser.error(f"{path}: no such file")
    scales = report_memory(path)
    runs = read_table(path, scales)
    report_exclusions(runs)
    started = time.perf_counter()
    fitter = Fitter(runs)
    results = []
    for seed in range(arguments.seeds):
        results.append(cross_validate(runs, fitter, seed))
        note(f"split {seed}: {time.perf_counter() - started:.0f} s")
    report_scores(results)
    about = {
        "rows": len(runs.ids),
        "groups": len({*runs.groups}),
        "excluded": len(runs.excluded),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "cross_validated": {key: round(value, 4) for key, value in scores(results[0])["all"].items()},
        "objective": "log-huber by fits.solve, pseudo-rows for priors; effects by ridge regression",
    }
    fitted = calibrate(runs, fitter, results, scales, about)
    report_constants(fitted.law)
    report_residuals(results[0])
    if arguments.out:
        fitted.save(arguments.out)
        say(f"wrote {arguments.out}")


def report_exclusions(runs: Table) -> None:
    """Which rows are left out, by reason."""
    reasons = collections.Counter(reason.split(":")[0] for reason in runs.excluded.values())
    rows = [{"reason": reason, "rows": count} for reason, count in reasons.most_common()]
    table(rows, f"{len(runs.ids)} rows of {len({*runs.groups})} groups are used; {len(runs.excluded)} are left out")


def report_scores(results: list[CrossValidated]) -> None:
    """The cross-validation beside two baselines, averaged over the splits."""
    rows = []
    for part in scores(results[0]):
        row: dict[str, object] = {"rows of": part, "n": int(scores(results[0])[part]["rows"])}
        for key, label in (
            ("median", "median error"),
            ("within15", "within 15%"),
            ("coverage", "in the 80% band"),
            ("width", "band's width"),
        ):
            row[label] = float(np.mean([scores(each)[part][key] for each in results]))
        for name in ("chip's median MFU", "efficiency 0.5"):
            row[name] = float(np.mean([baselines(each)[name][part] for each in results]))
        rows.append(row)
    table(rows, f"five folds by group, groups counting once, {len(results)} splits; baselines: median error")


def report_memory(path: Path) -> dict[str, float]:
    """The scales of the memory model; its cross-validated error is printed."""
    peaks = read_peaks(path)
    scales, ratio = fit_memory(peaks)
    everything = np.ones(len(ratio), bool)
    rows = [
        {"rows": label, "n": int(chosen.sum()), "groups": len({*peaks.groups[chosen]}), "median error": median_error(peaks, ratio, chosen)}
        for label, chosen in (("peaks that hold the activations", peaks.whole), ("all that report a peak", everything))
    ]
    table(rows, "peak memory, cross-validated, groups counting once")
    table(
        [{"scale": name, "value": value, "prior": memory.PRIORS[name][0]} for name, value in scales.items()], "scales of the memory model"
    )
    return scales


def report_constants(law: dict[str, float]) -> None:
    """Every constant beside its prior."""
    rows = [
        {"constant": name, "value": law[name], "prior": prior, "in spreads": float(np.log(law[name] / prior) / spread)}
        for name, (prior, spread) in time_law.PRIORS.items()
    ]
    table(rows, "constants of the time law")


def report_residuals(result: CrossValidated) -> None:
    """Cross-validated errors by stack and kind of chip."""
    found = collections.defaultdict(list)
    for work, error, weight in zip(result.table.works, result.errors, result.table.group_weights, strict=True):
        kind = "MoE" if work.architecture.moe_layers else "dense"
        found[work.software.stack or "unknown", work.device.generation, kind].append((error, weight))
    rows = []
    for (stack, generation, kind), pairs in sorted(found.items()):
        errors, weights = np.array(pairs).T
        spread = bands.quantile(np.abs(errors), weights, 0.5)
        rows.append(
            {
                "stack": stack,
                "generation": generation,
                "kind": kind,
                "rows": len(pairs),
                "median": float(np.median(errors)),
                "median size": spread,
            }
        )
    table(rows, "log(actual / estimate), cross-validated")


if __name__ == "__main__":
    main()
