"""A report's page: sections of figures, tables and warnings, in one HTML file that refers to nothing outside itself."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
figure { margin: 2rem 0; } img { max-width: 100%; height: auto; } figcaption { color: #555; font-size: 0.92rem; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.25rem 0.9rem 0.25rem 0; border-bottom: 1px solid #ddd; vertical-align: top; overflow-wrap: anywhere; }
tbody th { min-width: 9rem; } .scroll { overflow-x: auto; } .scroll td, .scroll th { overflow-wrap: normal; }
.warnings { background: #fdf0e6; border-left: 4px solid #d55e00; padding: 0.5rem 1rem 0.5rem 2rem; }
h2 { margin-top: 3rem; border-top: 1px solid #ddd; padding-top: 1rem; } nav a { margin-right: 1rem; } summary { font-weight: bold; cursor: pointer; margin: 1rem 0; }
@media print { nav { display: none; } figure, tr { break-inside: avoid; } }
"""


LONG = 40  # rows of a table that is folded away


@dataclasses.dataclass(frozen=True)
class Section:
    """What a report says of one source. `facts` are its main numbers as label and text; figures come with their name and caption, tables with a title."""

    kind: str
    source: str
    title: str
    about: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    figures: tuple[tuple[str, Figure, str], ...] = ()
    tables: tuple[tuple[str, pd.DataFrame], ...] = ()
    provenance: tuple[tuple[str, str], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """What `isoloss report --json` prints of it."""
        return {
            "kind": self.kind,
            "source": self.source,
            "title": self.title,
            "facts": dict(self.facts),
            "warnings": list(self.warnings),
            "figures": [name for name, _, _ in self.figures],
            "provenance": dict(self.provenance),
        }


def write(path: str | Path, title: str, found: Iterable[Section]) -> None:
    """Writes the page, whole or not at all."""
    parts = list(found)
    links = "".join(f'<a href="#s{place}">{html.escape(section.title)}</a>' for place, section in enumerate(parts))
    body = [f"<h1>{html.escape(title)}</h1>", f"<nav>{links}</nav>" if len(parts) > 1 else ""]
    for place, section in enumerate(parts):
        heading = "" if section.title == title else f"<h2>{html.escape(section.title)}</h2>"
        body.append(f'<section id="s{place}">{heading}{_section(section)}</section>')
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    write_text(path, f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n')


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    path = Path(path)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def rows(values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Facts from keys and values; what is empty is left out."""
    return tuple((label.replace("_", " "), str(value)) for label, value in values.items() if value not in (None, "", [], {}))


def _section(section: Section) -> str:
    parts = [f"<p>{html.escape(section.about)}</p>" if section.about else ""]
    if section.warnings:
        parts.append(f'<ul class="warnings">{"".join(f"<li>{html.escape(text)}</li>" for text in section.warnings)}</ul>')
    parts.append(_facts(section.facts))
    parts += [_figure(figure, caption) for _, figure, caption in section.figures]
    for title, table in section.tables:
        shown = f'<div class="scroll">{_frame(table)}</div>'
        folded = len(table) > LONG
        parts.append(
            f"<details><summary>{html.escape(title)}</summary>{shown}</details>" if folded else f"<h3>{html.escape(title)}</h3>{shown}"
        )
    if section.provenance:
        parts += ["<h3>Provenance</h3>", _facts(section.provenance)]
    return "".join(parts)


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f'<tr><th scope="row">{html.escape(label)}</th><td>{html.escape(value)}</td></tr>' for label, value in facts)
    return f"<table><tbody>{cells}</tbody></table>" if cells else ""


def _frame(table: pd.DataFrame) -> str:
    return table.to_html(index=False, border=0, na_rep="", float_format=lambda value: f"{value:.4g}")


def _figure(figure: Figure, caption: str) -> str:
    from scaling.plots import DPI, settle

    buffer = io.BytesIO()
    settle(figure)
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    image = base64.b64encode(buffer.getvalue()).decode()
    text = html.escape(caption)
    return f'<figure><img src="data:image/png;base64,{image}" alt="{text}"><figcaption>{text}</figcaption></figure>'
