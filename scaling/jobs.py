"""Fit jobs: a TOML file that names the data, the fits and what to leave behind; the result follows from it alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pydantic

import fits
from fits.curve import Curve
from scaling.errors import InputError
from scaling.toml_files import PositiveFloat, Strict, read_toml, validated

PROFILE_ROWS = 20_000  # with more rows an interval is only given where it is asked for

Pair = tuple[float, float]


class Data(Strict):
    """A table of runs, a file (path) or a public one (dataset), and how it becomes the rows of the fit; see `fits.read_runs`."""

    path: str | None = None
    dataset: str | None = None
    recipe: bool = False  # of a dataset: the rows that its authors fitted
    columns: dict[str, str] = pydantic.Field(default={})
    units: dict[str, str | float] = pydantic.Field(default={})
    where: str | None = None
    best: list[str] | None = None
    aggregate: list[str] | None = None

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> Data:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give path, the file of a table, or dataset, the name of a public one")
        if self.recipe and self.dataset is None:
            raise ValueError("recipe goes with dataset")
        return self


class Fit(Strict):
    """What `fits.fit` is asked for."""

    laws: list[str] = pydantic.Field(default=["chinchilla"], min_length=1)
    objective: str = "log-huber"
    delta: PositiveFloat = 1e-3
    over: PositiveFloat = 10.0
    fixed: dict[str, float] = pydantic.Field(default={})
    bounds: dict[str, Pair] = pydantic.Field(default={})
    weights: str | None = None
    bootstrap: int = pydantic.Field(default=0, ge=0)
    resample: str = "rows"
    cluster: list[str] | None = None
    seed: int = pydantic.Field(default=0, ge=0, lt=2**63)
    interval: Literal["auto", "profile", "bootstrap", "none"] = "auto"
    level: float = pydantic.Field(default=0.95, gt=0, lt=1)


class Compare(Strict):
    """Rows to hold out when laws are compared; rolling extrapolation as well if it is asked for."""

    holdout: str | None = None
    rolling: bool = False


class Output(Strict):
    """Where results go; paths are relative to the job file, and `{law}` in one stands for the law's name."""

    curve: str | None = None
    figures: str | None = None
    comparison: str | None = None


class FitJob(Strict):
    data: Data
    fit: Fit = Fit()
    compare: Compare | None = None
    output: Output = Output()


@dataclasses.dataclass(frozen=True)
class FitResult:
    """The curve of each law of a job, the interval of its constants (None if there is none), what was compared, and the files that were written."""

    curves: dict[str, Curve]
    intervals: dict[str, dict[str, Any] | None]
    comparison: pd.DataFrame | None
    rolling: pd.DataFrame | None
    written: list[Path]


Progress = Callable[[str, int, int], None]


def read_job(path: str | Path) -> FitJob:
    """The job of a TOML file; InputError names file and key."""
    return validated(FitJob, read_toml(path), str(path))


def run_job(job: FitJob, folder: str | Path = ".", progress: Progress | None = None) -> FitResult:
    """Does the job; its paths are relative to `folder`. Nothing is written unless every fit succeeds. `progress(what, done, total)`."""
    from fits import laws

    folder = Path(folder)
    found = [laws.law(name) for name in job.fit.laws]
    _check_output(job, folder)
    needs, output = found[0].inputs, found[0].output
    runs = read_data(job.data, folder, None if set(needs) == {"params", "tokens"} else needs, output)
    settings: dict[str, Any] = job.fit.model_dump(exclude={"laws", "interval", "level"})
    curves, intervals = {}, {}
    for law in found:
        report = None if progress is None else lambda done, total, name=law.name: progress(f"{name}: bootstrap", done, total)
        curve = fits.fit(law, runs, **settings, progress=report)
        intervals[law.name], curves[law.name] = _interval(curve, job.fit)
    comparison = _compare(job, runs) if job.compare is not None else None
    rolling = None
    if job.compare is not None and job.compare.rolling:
        report = None if progress is None else lambda done, total: progress("rolling extrapolation", done, total)
        rolling = fits.rolling_extrapolation(runs, job.fit.laws, objective=job.fit.objective, delta=job.fit.delta, progress=report)
    return FitResult(curves, intervals, comparison, rolling, _write(job, folder, curves, comparison, rolling))


def read_data(data: Data, folder: Path, needs: tuple[str, ...] | None = None, output: str = "loss") -> pd.DataFrame:
    """The rows that a job fits."""
    if data.path is not None:
        given = data.model_dump(include={"columns", "units", "where", "best", "aggregate"})
        return fits.read_runs(folder / data.path, **given, needs=needs, output=output)
    from fits import preparation
    from fits.runs import named

    assert data.dataset is not None
    frame = fits.dataset(data.dataset, recipe=data.recipe)
    frame = named(frame, data.dataset, data.columns, data.where, data.units)
    frame = fits.complete(frame, data.dataset, needs=needs, output=output)
    if data.best is not None:
        frame, _ = preparation.best(frame, data.best, output, data.dataset)
    if data.aggregate is not None:
        frame, _ = preparation.average(frame, data.aggregate, list(needs or ("params", "tokens", "flops")), output, data.dataset)
    return frame


def _check_output(job: FitJob, folder: Path) -> None:
    target = job.output.curve
    if target and len(job.fit.laws) > 1 and "{law}" not in target:
        raise InputError("output.curve: one file holds one curve; give one law, or put {law} into the name")
    if target and (folder / target).is_dir():
        raise InputError(f"output.curve: {folder / target} is a folder; name a file")
    if target and job.data.path is not None and (folder / target).resolve() == (folder / job.data.path).resolve():
        raise InputError(f"output.curve: {folder / target} is the table of runs itself; name another file")
    if job.output.comparison and job.compare is None:
        raise InputError("output.comparison: there is no comparison; add [compare]")


def _interval(curve: Curve, asked: Fit) -> tuple[dict[str, Any] | None, Curve]:
    """The interval of the constants, and the curve with it in what it says of itself, so that a saved one keeps it."""
    rows = curve.about["rows"]
    unasked = curve.draws is None and (rows > PROFILE_ROWS or curve.about["over"] is not None)
    if asked.interval == "none" or (asked.interval == "auto" and unasked):
        return None, curve
    method = None if asked.interval == "auto" else asked.interval
    about = curve.interval_record(asked.level, method)
    return about, dataclasses.replace(curve, about=curve.about | {"intervals": about})


def _compare(job: FitJob, runs: pd.DataFrame) -> pd.DataFrame:
    from fits.comparison import compare

    assert job.compare is not None
    return compare(runs, job.fit.laws, holdout=job.compare.holdout, objective=job.fit.objective, delta=job.fit.delta)


def _write(
    job: FitJob, folder: Path, curves: dict[str, Curve], comparison: pd.DataFrame | None, rolling: pd.DataFrame | None
) -> list[Path]:
    written = []
    for name, curve in curves.items():
        if job.output.curve:
            target = folder / job.output.curve.replace("{law}", name)
            target.parent.mkdir(parents=True, exist_ok=True)
            curve.save(target)
            written.append(target)
        if job.output.figures:
            from scaling import plots

            written.append(plots.save(plots.fit_figure(curve), folder / job.output.figures / f"{name}-fit.png"))
            rows = curve.sample_or_error().frame
            if curve.law.output == "loss" and "flops" in rows:
                from scaling import fit_plots

                figure = fit_plots.residual_figure(curve, rows)
                written.append(plots.save(figure, folder / job.output.figures / f"{name}-residuals.png"))
    if comparison is not None and job.output.comparison:
        target = folder / job.output.comparison
        target.parent.mkdir(parents=True, exist_ok=True)
        comparison.to_csv(target, index=False)
        written.append(target)
    if rolling is not None and job.output.figures:
        from scaling import fit_plots, plots

        written.append(plots.save(fit_plots.extrapolation_figure(rolling), folder / job.output.figures / "rolling-extrapolation.png"))
    return written
