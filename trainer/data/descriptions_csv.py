"""`descriptions.csv`: what is said of each name, with a column `override` for a person's own words.

The program writes every column anew but that one, and what stands there wins.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apl_core.atomic import reason, write_bytes
from apl_core.captions import Names, alike
from apl_core.errors import ConfigError, RunError
from apl_core.example_kinds import PERSON
from apl_core.metadata import printable
from apl_core.texts import read_text

from ..json_log import PARTS
from ..metadata_jsonl import Split
from ..readers.descriptions import ATTRIBUTES, OLD_ATTRIBUTES
from ..settings import parse_json

FILE = "descriptions.csv"
COLUMNS = ("name", "split", "override", "description", *ATTRIBUTES, "pictures", "known")
_VOTES = "voted.json"
_MAX = 400
_SEPARATOR = re.compile(r'"?sep=([,;\t|])"?[,;\t|]*', re.IGNORECASE)
"""What Excel writes into a first line of its own."""


@dataclass(frozen=True)
class DescriptionRow:
    """What is said of one name: `override` if there is one, or the `description` voted.

    `known` tells how surely the model knows the name (0.5: not).
    """

    name: str
    split: Split
    description: str
    values: Mapping[str, str]
    pictures: int
    known: float | None
    override: str = ""

    @property
    def said(self) -> str:
        """What stands for the name."""
        return self.override or self.description

    def cells(self) -> dict[str, str]:
        """The line as it stands in the table."""
        known = "" if self.known is None else f"{self.known:.2f}"
        fixed = {"name": self.name, "split": self.split, "pictures": str(self.pictures)}
        words = {"override": self.override, "description": self.description, "known": known}
        return fixed | words | {a: self.values.get(a, "") for a in ATTRIBUTES}


def update(folder: Path, voted: list[DescriptionRow]) -> list[DescriptionRow]:
    """Write the table with what was voted, each line with the override that stands there.

    Lines of names that are not in this run stay at the end. ConfigError tells all bad lines.
    """
    theirs = _read(folder)
    rows = {alike(v.name): theirs.pop(alike(v.name), {}) for v in voted}
    lines = [replace(v, override=rows[alike(v.name)].get("override", "")) for v in voted]
    _check(folder / FILE, {line.name: line.said for line in lines})
    _write(folder, [*(line.cells() for line in lines), *theirs.values()])
    return lines


def read_descriptions(folder: Path) -> dict[str, str]:
    """What is said of each name in a folder's table, in its order; ConfigError if it is broken."""
    return {row["name"]: row["override"] or row["description"] for row in _read(folder).values()}


def write_descriptions(folder: Path, wanted: Mapping[str, str]) -> None:
    """Write overrides for names, as somebody would in the table; ConfigError, RunError.

    They count once the dataset is finished again. An empty text, and the one that was voted, take
    an override away.
    """
    path, rows = folder / FILE, _read(folder)
    if unknown := [name for name in wanted if alike(name) not in rows]:
        asked = f"read the descriptions for {printable(str(path))}"
        found = f"{printable(unknown[0], 80)!r} is not one of its names"
        raise ConfigError(asked, found, "keep every name as it stands there")
    _check(path, wanted)
    for name, text in wanted.items():
        row = rows[alike(name)]
        row["override"] = "" if text == row["description"] else text
    _write(folder, rows.values())


def _write(folder: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Write the table; the votes that an older version kept beside it are needed no more."""
    path, stream = folder / FILE, io.StringIO(newline="")
    writer = csv.DictWriter(stream, list[str](COLUMNS), extrasaction="ignore", restval="")
    writer.writeheader()
    writer.writerows(rows)
    try:
        write_bytes(path, stream.getvalue().encode("utf-8"))
        (folder / PARTS / _VOTES).unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"write {printable(str(path))}", *reason(error)) from error


def _check(path: Path, said: Mapping[str, str]) -> None:
    problems: list[ConfigError] = []
    for name, text in said.items():
        asked = f"read {printable(str(path))}, {printable(name, 80)}"
        if Names([name]).find(text):
            fix = f"describe what many people look like, or write {PERSON!r}"
            problems.append(ConfigError(asked, "the description holds the name", fix))
        elif len(text) > _MAX or _unprintable(text):
            found = f"the description is longer than {_MAX} characters or not printable"
            problems.append(ConfigError(asked, found, "write it again"))
    if problems:
        raise ConfigError.of(f"read {printable(str(path))}", problems)


def _unprintable(text: str) -> bool:
    return any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") for c in text)


def _read(folder: Path) -> dict[str, dict[str, str]]:
    """The table's lines by what the spellings of their names have in common.

    Without a column `override` its descriptions are somebody's own words, but for those voted.
    """
    path = folder / FILE
    asked = f"read {printable(str(path))}"
    try:
        text = read_text(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        fix = "save the table as UTF-8 (in Excel: CSV UTF-8)"
        raise ConfigError(asked, printable(str(error), 120), fix) from error
    try:
        heads, *rows = _cells(text) or [[]]
    except csv.Error as error:
        fix = "repair that line, or save the table again as CSV"
        raise ConfigError(asked, f"it is not a table ({printable(str(error), 80)})", fix) from error
    heads = [head.strip().casefold() for head in heads]
    heads = [OLD_ATTRIBUTES.get(head, head) for head in heads]
    missing = {"name", "description"} - set(heads)
    if missing or len(set(heads) - {""}) < sum(map(bool, heads)):
        lacking = f"the column {', '.join(sorted(missing))} is missing"
        found = lacking if missing else "a column is there twice"
        fix = f"give its first line as {','.join(COLUMNS)}; your words below stay"
        raise ConfigError(asked, found, fix)
    found, twice = {}, []
    for row in rows:
        told = {head: cell.strip() for head, cell in zip(heads, row, strict=False) if head}
        told["name"] = unicodedata.normalize("NFC", told.get("name", ""))
        if key := alike(told["name"]):
            twice += [told["name"]] if key in found else []
            found[key] = dict.fromkeys(COLUMNS, "") | told
    if twice:
        there = f"{printable(min(twice), 80)} stands there more than once"
        raise ConfigError(asked, there, "keep one of the lines")
    if "override" not in heads:
        votes = _old_votes(folder)
        for row in found.values():
            own = row["description"] not in votes.get(row["name"], ())
            row["override"] = row["description"] if own else ""
    return found


def _cells(text: str) -> list[list[str]]:
    """Rows that say something, separated as the program that saved them says or does it."""
    lines = text.splitlines(keepends=True)
    told = _SEPARATOR.fullmatch(lines[0].strip("\n")) if lines else None
    body = "".join(lines[1:] if told else lines)
    head = next((line for line in body.split("\n") if line.strip(',;\t "')), "")
    split = told[1] if told else max(",;\t|", key=head.count)
    rows = csv.reader(io.StringIO(body, newline=""), delimiter=split, strict=True)
    return [row for row in rows if any(cell.strip() for cell in row)]


def _old_votes(folder: Path) -> dict[str, list[str]]:
    """The descriptions that a version without overrides voted for each name."""
    try:
        found: Any = parse_json((folder / PARTS / _VOTES).read_text(encoding="utf-8"))
        return {
            str(name): [str(cells["description"]) for cells in several]
            for name, several in found.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return {}
