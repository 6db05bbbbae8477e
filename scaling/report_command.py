"""`isoloss report`: stores, curves, scenarios and demo folders as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scaling import output
from scaling.output import Json


def report(
    sources: Annotated[
        list[Path], typer.Argument(metavar="DIR|FILE ...", help="Run stores (.sqlite), curves (.json), scenarios (.toml), folders.")
    ],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
    as_json: Json = False,
) -> None:
    """One self-contained HTML file with figures, tables, provenance and warnings."""
    from scaling import report as reports
    from scaling.errors import InputError

    if out.is_dir():
        raise InputError(f"report: --out {out} is a folder; name a file, such as {out / 'report.html'}")
    found = reports.sections(sources)
    title = found[0].title if len(found) == 1 else "Isoloss report"
    reports.write(out, title, found)
    if as_json:
        return output.emit({"out": str(out), "sections": [section.as_dict() for section in found]})
    for section in found:
        output.say(f"{section.title} ({section.source}): figures: {len(section.figures)}, tables: {len(section.tables)}")
        for text in section.warnings:
            output.note(f"warning: {text}")
    output.say(f"report: {out}")
