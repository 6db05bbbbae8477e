"""`isoloss plan`: the next runs worth making for a quantity and a budget, and how much they would help."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling import output
from scaling.output import Json, Where

if TYPE_CHECKING:
    from fits.curve import Curve
    from fits.planning import Proposal

Many = list[str] | None
TABLES = (".csv", ".gz", ".xz", ".parquet", ".jsonl")


def plan(
    source: Annotated[
        str, typer.Argument(metavar="RUNS.csv|CURVE.json|NAME", help="The runs so far; or a curve to take for the truth, with no runs yet.")
    ],
    budget: Annotated[float, typer.Option(help="FLOP to spend on the new runs, in all.")],
    more: Annotated[Many, typer.Argument(metavar="[NAME=COLUMN ...]", help="More pairs for --columns.")] = None,
    quantity: Annotated[str, typer.Option("--for", help="What to know better: loss, compute, params or exponent.")] = "loss",
    at_flops: Annotated[float | None, typer.Option(help="The training compute at which the loss or the optimal params are wanted.")] = None,
    at_loss: Annotated[float | None, typer.Option(help="The loss whose compute is wanted.")] = None,
    law: Annotated[str, typer.Option(help="The law to fit to a table.")] = "chinchilla",
    columns: Annotated[Many, typer.Option(help='The file\'s name of a column: params="Model Size". May be repeated.')] = None,
    where: Where = None,
    noise: Annotated[float | None, typer.Option(help="Standard deviation of a run's log loss; by default the fit's.")] = None,
    max_runs: Annotated[int | None, typer.Option(help="Runs at most; 20 by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the proposed runs to this CSV file.")] = None,
    as_json: Json = False,
) -> None:
    """The next runs worth making: those that most reduce the uncertainty of one quantity."""
    from fits.planning import plan_runs
    from scaling.errors import InputError

    if quantity == "multiplier":
        raise InputError("--for: a multiplier needs the runs of two arms; call fits.planning.plan_runs with baseline")
    if out is not None and out.is_dir():
        raise InputError(f"--out: {out} is a folder; name a file")
    curve = _curve(source, law, [*(columns or []), *(more or [])], where)
    found = plan_runs(curve, budget=budget, quantity=quantity, at_flops=at_flops, at_loss=at_loss, max_runs=max_runs, noise=noise)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        found.runs.to_csv(out, index=False)
        output.note(f"wrote {len(found.runs)} runs to {out}")
    if as_json:
        return output.emit(_answer(found))
    for warning in found.warnings:
        output.note(f"warning: {warning}")
    _print(found)


def _curve(source: str, law: str, pairs: list[str], where: str | None) -> Curve:
    """The fit to a table of runs, or the curve of that name or file."""
    import fits
    from scaling.errors import InputError
    from scaling.paths import use_compilation_cache

    use_compilation_cache()
    if Path(source).suffix not in TABLES:
        if pairs or where or law != "chinchilla":
            raise InputError(f"plan: {source} is a curve and has its law; --law, --columns and --where go with a table of runs")
        return fits.load(source)
    from fits.laws import law as find_law
    from scaling.fit_command import _pairs

    found = find_law(law)
    # A law of params and tokens is read as in a fit, where one of params, tokens and flops may follow from the others.
    needs = None if set(found.inputs) == {"params", "tokens"} else found.inputs
    return fits.fit(found, fits.read_runs(source, columns=_pairs("columns", pairs), where=where, needs=needs, output=found.output))


def _answer(found: Proposal) -> dict[str, Any]:
    """The answer as JSON: a standard error is of the natural logarithm for params and compute, and null where it is not determined."""
    columns = ["params", "tokens", "flops", "expected_se_after"]
    return {
        "quantity": found.quantity,
        "at": found.at,
        "value": found.value,
        "before": {"se": found.before.se, "low": found.before.low, "high": found.before.high},
        "after": {"se": found.after.se, "low": found.after.low, "high": found.after.high},
        "reduction": found.reduction,
        "grid": {"se": found.grid_se, "flops": found.grid_flops},
        "runs": found.runs[columns].to_dict(orient="records"),
        "noise": found.noise,
        "reading": found.reading,
        "warnings": found.warnings,
    }


def _print(found: Proposal) -> None:
    rows = [
        {
            "run": number,
            "params": f"{row['params']:.3g}",
            "tokens": f"{row['tokens']:.3g}",
            "flops": f"{row['flops']:.3g}",
            "repeat": int(row["repeat"]),
            "share": f"{100 * row['share']:.2g}%",
            "flops so far": f"{row['cumulative_flops']:.3g}",
            "expected error": row["expected_se_after"],
        }
        for number, row in enumerate(found.runs.to_dict(orient="records"), start=1)
    ]
    output.table(rows, f"runs to make, most gain per FLOP first; {found.quantity} now {found.value:.4g}, 95% {_range(found)}")
    output.say(found.reading)


def _range(found: Proposal) -> str:
    if found.reduction == float("inf"):
        return "not determined"
    return (
        f"{found.before.low:.4g} to {found.before.high:.4g}, then within {found.after.low:.4g} to {found.after.high:.4g} if it stays there"
    )
