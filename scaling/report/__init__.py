"""Reports: one self-contained HTML file from stores of runs, fitted curves, scenarios and demo folders.

page.py the file's parts, one module a kind of source, sources.py which file is which.
"""

from __future__ import annotations

from scaling.report.page import Section, write
from scaling.report.sources import sections

__all__ = ["Section", "sections", "write"]
