"""A report as one HTML file: pictures inside, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from apl_core.atomic import write_text

from .templates import data_url, template

_KINDS = {".png": "image/png", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Table:
    """A table with a heading, a sentence about it, column titles and rows of words."""

    title: str
    about: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """The table for a terminal."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        shown = (
            "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in lines
        )
        return "\n".join(line.rstrip() for line in shown)


@dataclass(frozen=True)
class Picture:
    """A PNG or SVG file with a caption."""

    path: Path
    caption: str

    @property
    def source(self) -> str:
        """The file as a data URL."""
        return data_url(self.path.read_bytes(), _KINDS[self.path.suffix])


def write_page(
    path: Path,
    title: str,
    lead: str,
    pictures: Sequence[Picture],
    tables: Sequence[Table],
    facts: Mapping[str, str],
    notes: Sequence[str],
) -> None:
    """Write the report; everything that goes in is escaped."""
    page = template("report/page.html").render(
        title=title, lead=lead, pictures=pictures, tables=tables, facts=facts, notes=notes
    )
    write_text(path, page)
