"""`isoloss multiplier`: the compute multiplier between two sets of runs, from two tables or two arms of one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling import output
from scaling.output import Json, Where

if TYPE_CHECKING:
    import pandas as pd

    from scaling.measured import Band, Measurement

Numbers = list[float] | None


def multiplier(
    runs: Annotated[
        Path, typer.Argument(metavar="BASELINE|RUNS", help="Runs of the baseline, or of both as arms: CSV, Parquet, JSONL or a run store.")
    ],
    other: Annotated[Path | None, typer.Argument(metavar="[VARIANT]", help="Runs of the variant.")] = None,
    baseline: Annotated[str | None, typer.Option(help="The arm that is the baseline, where one table holds both.")] = None,
    variant: Annotated[str | None, typer.Option(help="The arm that is the variant.")] = None,
    columns: Annotated[list[str] | None, typer.Option(help='A file\'s name of a column: params="Model Size". May be repeated.')] = None,
    where: Where = None,
    pairs: Annotated[
        bool, typer.Option("--pairs/--joint", help="Compare runs of equal width, budget and seed, or fit both sets jointly.")
    ] = False,
    at_loss: Annotated[Numbers, typer.Option(help="A further loss to answer at, nats/token. May be repeated.")] = None,
    flops: Annotated[Numbers, typer.Option(help="... or the loss of the baseline's frontier at this compute. May be repeated.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The joint model in place of the chosen one: two factors, scale-dependent, own laws, 'two factors, outer exponent', ..."
        ),
    ] = None,
    size: Annotated[str, typer.Option(help="The count that plays N: flops_per_token, params, active_params, ...")] = "flops_per_token",
    cluster: Annotated[str, typer.Option(help="What counts as one independent error: cell (size and tokens) or run.")] = "cell",
    interval: Annotated[str, typer.Option(help="bootstrap (wild, of cells) or profile.")] = "bootstrap",
    level: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.95,
    bootstrap: Annotated[int, typer.Option(help="Resamples behind the intervals, 100 at least.")] = 1000,
    seed: int = 0,
    force: Annotated[bool, typer.Option("--force", help="Compare runs of different corpora or tokenizers all the same.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw iso-loss curves of both sets into this PNG file.")] = None,
    as_json: Json = False,
) -> None:
    """The compute multiplier of a variant over a baseline at equal loss, from their runs."""
    from scaling.measurement import measure_multiplier
    from scaling.multipliers import count_pairs
    from scaling.paths import use_compilation_cache

    use_compilation_cache()
    both = _tables(runs, other, baseline, variant, columns, where)
    found = measure_multiplier(
        *both,
        pairs=pairs,
        size=size,
        model=model,
        cluster=cluster,
        interval=interval,
        at_loss=at_loss or (),
        flops=flops or (),
        level=level,
        draws=bootstrap,
        seed=seed,
        force=force,
    )
    for note in found.notes:
        output.note(f"note: {note}")
    if not pairs and (count := count_pairs(*both)):
        output.note(f"note: {count} pairs of equal runs; --pairs compares them one by one, which is more precise")
    if plot:
        from scaling import plots
        from scaling.multiplier_plots import isoloss_figure, pairs_figure

        output.note(f"wrote {plots.save(pairs_figure(found) if pairs else isoloss_figure(found), plot)}")
    if as_json:
        return output.emit(_answer(found))
    _print(found)


def _tables(
    runs: Path, other: Path | None, baseline: str | None, variant: str | None, columns: list[str] | None, where: str | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two tables."""
    from scaling.errors import InputError

    if other is not None and (baseline or variant):
        raise InputError("multiplier: give either two tables, or one with --baseline ARM --variant ARM")
    if other is not None:
        return _read(runs, columns, where), _read(other, columns, where)
    if not (baseline and variant):
        raise InputError(f"multiplier: one table needs --baseline ARM and --variant ARM; or give the variant's runs after {runs}")
    table = _read(runs, columns, where)
    if "arm" not in table:
        raise InputError(f"{runs}: no column 'arm' to tell baseline and variant apart; there are {', '.join(map(str, table.columns))}")
    arms = table["arm"].astype(str)
    for name in (baseline, variant):
        if not (arms == name).any():
            raise InputError(f"{runs}: no finished run of arm {name!r}; there are {', '.join(sorted(arms.unique()))}")
    return table[arms == baseline], table[arms == variant]


def _read(path: Path, columns: list[str] | None, where: str | None) -> pd.DataFrame:
    import fits
    from fits.runs import complete, named
    from scaling.fit_command import _pairs
    from scaling.store import open_existing

    names = _pairs("columns", columns)
    if path.suffix not in (".sqlite", ".db"):
        return fits.read_runs(path, columns=names, where=where)
    with open_existing(path) as opened:
        return complete(named(opened.frame(), str(path), names, where), str(path))


def _answer(found: Measurement) -> dict[str, Any]:
    """What --json prints."""

    def band(each: Band) -> dict[str, Any]:
        return {**each._asdict(), "level": found.level}

    answer: dict[str, Any] = {"method": found.method, "model": found.model}
    answer |= {name: band(getattr(found, name)) for name in ("multiplier", "penalty", "structure", "data")}
    answer |= {"scale": {**band(found.scale), "p": found.scale_p, "unit": "ln multiplier per decade of compute"}}
    answer |= {"loss": found.loss, "overlap": found.overlap, "runs": {"baseline": found.runs[0], "variant": found.runs[1]}}
    answer |= {name: output.plain(getattr(found, name)) for name in ("levels", "tests", "pairs")}
    if found.fit:
        answer["runs"]["cells"] = len(found.fit.cells.size)
        answer["curves"] = {curve.name: curve.constants for curve in found.fit.curves}
    return answer | {"notes": found.notes}


def _print(found: Measurement) -> None:
    from scaling.measurement import SURE

    text = "{:.4g}  [{:.4g}, {:.4g}]"
    rows = [
        ("compute multiplier", text.format(*found.multiplier)),
        ("compute penalty, its inverse", text.format(*found.penalty)),
    ]
    if found.method == "joint":
        known = found.structure.value == found.structure.value
        rows += [(f"... of it {name}", text.format(*band) if known else "not told apart") for name, band in _handicaps(found)]
        rows += [("at a loss of", f"{found.loss:.4g}; both sets reach {_range(found.overlap)}")]
    rows += [("per decade of compute, ln multiplier changes by", f"{text.format(*found.scale)}, p = {found.scale_p:.2g}")]
    rows += [("from", f"{found.runs[0]} and {found.runs[1]} runs; {found.model}")]
    output.table([{"what": label, f"found [{found.level:.0%} interval]": value} for label, value in rows], "Compute at equal loss")
    levels = found.levels.drop(columns=["asked", "feasible", "reason"], errors="ignore")
    if "sloped_low" in levels:  # infinite or absurd where the runs leave the slope open
        levels = levels.rename(columns={"sloped_low": "low if it depends on scale", "sloped_high": "high if it does"})
    output.table(output.plain(levels), "by loss")
    for reason in found.levels["reason"][found.levels["reason"] != ""] if "reason" in found.levels else ():
        output.note(f"note: {reason}")
    if len(found.tests):
        output.table(output.plain(found.tests), f"nested models (a larger one, or another form, is taken where p < {SURE:g})")


def _handicaps(found: Measurement) -> list[tuple[str, Band]]:
    return [("structure: the variant's N counts 1 / m", found.structure), ("data: its D counts 1 / k", found.data)]


def _range(overlap: tuple[float, float] | None) -> str:
    return "none" if overlap is None else f"{overlap[0]:.4g} to {overlap[1]:.4g}"
