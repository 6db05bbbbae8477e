"""Fit jobs: a TOML file that names the data, the fit and what to leave behind."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pydantic

import fits
from fits.curve import Curve
from scaling.errors import InputError
from scaling.toml_files import PositiveFloat, Strict, read_toml, validated


class Data(Strict):
    """A table of runs, its columns by the package's names, and a filter."""

    path: str
    columns: dict[str, str] = pydantic.Field(default={})
    where: str | None = None


class Fit(Strict):
    """What `fits.fit` is asked for."""

    laws: list[str] = pydantic.Field(default=["chinchilla"], min_length=1)
    objective: str = "log-huber"
    delta: PositiveFloat = 1e-3
    bootstrap: int = pydantic.Field(default=0, ge=0)
    seed: int = pydantic.Field(default=0, ge=0)


class Output(Strict):
    """Where results go; paths are relative to the job file."""

    curve: str | None = None
    figures: str | None = None


class FitJob(Strict):
    data: Data
    fit: Fit = Fit()
    output: Output = Output()


@dataclasses.dataclass(frozen=True)
class FitResult:
    """The curve of each law of a job, and the files that were written."""

    curves: dict[str, Curve]
    written: list[Path]


def read_job(path: str | Path) -> FitJob:
    """The job of a TOML file; InputError names file and key."""
    return validated(FitJob, read_toml(path), str(path))


def run_job(job: FitJob, folder: str | Path = ".") -> FitResult:
    """Does the job; its paths are relative to `folder`. Nothing is written unless every fit succeeds."""
    from fits import laws

    folder = Path(folder)
    for name in job.fit.laws:
        laws.law(name)
    if job.output.curve and len(job.fit.laws) > 1:
        raise InputError("output.curve: one file holds one curve; give one law, or leave it out")
    if job.output.curve and (folder / job.output.curve).is_dir():
        raise InputError(f"output.curve: {folder / job.output.curve} is a folder; name a file")
    runs = fits.read_runs(folder / job.data.path, columns=job.data.columns, where=job.data.where)
    settings: dict[str, Any] = job.fit.model_dump(exclude={"laws"})
    curves = {name: fits.fit(name, runs, **settings) for name in job.fit.laws}
    written = []
    for name, curve in curves.items():
        if job.output.curve:
            target = folder / job.output.curve
            target.parent.mkdir(parents=True, exist_ok=True)
            curve.save(target)
            written.append(target)
        if job.output.figures:
            from scaling import plots

            figure = plots.fit_figure(curve, fits.complete(runs))
            written.append(plots.save(figure, folder / job.output.figures / f"{name}-fit.png"))
    return FitResult(curves, written)
