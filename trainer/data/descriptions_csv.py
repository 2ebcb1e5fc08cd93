"""`descriptions.csv`: what is said of each name, for a person to read and change; changes win."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apl_core.atomic import reason, write_bytes, write_text
from apl_core.captions import Names, alike
from apl_core.errors import ConfigError, RunError
from apl_core.metadata import printable
from apl_core.texts import read_text

from ..json_log import PARTS
from ..metadata_jsonl import Split
from ..readers.descriptions import ATTRIBUTES, PERSON, phrase
from ..settings import parse_json

FILE = "descriptions.csv"
_VOTED = "voted.json"
_DERIVED = "derived"
_EDITABLE = ("description", *ATTRIBUTES)
COLUMNS = ("name", "split", *_EDITABLE, "pictures", "known", "by")
_MAX = 400
_SEPARATOR = re.compile(r'"?sep=([,;\t|])"?[,;\t|]*', re.IGNORECASE)
"""What Excel writes into a first line of its own."""


@dataclass(frozen=True)
class DescriptionRow:
    """What is said of one name; `known` tells how surely the model knows the name (0.5: not)."""

    name: str
    split: Split
    description: str
    values: Mapping[str, str]
    pictures: int
    known: float | None
    by: str = "voted"

    def cells(self) -> dict[str, str]:
        """The line as it stands in the table."""
        known = "" if self.known is None else f"{self.known:.2f}"
        values = {a: self.values.get(a, "") for a in ATTRIBUTES}
        fixed = {"name": self.name, "split": self.split, "description": self.description}
        return fixed | values | {"pictures": str(self.pictures), "known": known, "by": self.by}


def update(folder: Path, voted: list[DescriptionRow], gender: bool) -> list[DescriptionRow]:
    """Write the table with what was voted, but leave every cell that somebody changed by hand.

    A changed attribute makes a new description, unless the description was changed as well.
    Lines of names that are not in this run stay at the end. ConfigError tells all bad lines.
    """
    path = folder / FILE
    theirs, ours = _read(path), _remembered(folder)
    lines = [_merged(v, theirs.get(alike(v.name)), ours.get(v.name, []), gender) for v in voted]
    _check(path, lines)
    here = {alike(v.name) for v in voted}
    extra = [cells for name, cells in theirs.items() if name not in here]
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list[str](COLUMNS), extrasaction="ignore", restval="")
    writer.writeheader()
    writer.writerows([line.cells() for line in lines])
    writer.writerows(extra)
    now = {
        line.name: [line.cells() | _derived(done, gender)]
        for line, done in zip(voted, lines, strict=True)
    }
    both = {name: [*ours.get(name, []), *cells] for name, cells in now.items()}
    try:  # killed in between, neither the old nor the new votes are taken for hand edits
        _remember(folder, ours | both)
        write_bytes(path, stream.getvalue().encode("utf-8"))
        _remember(folder, ours | now)
    except OSError as error:
        raise RunError(f"write {printable(str(path))}", *reason(error)) from error
    return lines


def read_descriptions(folder: Path) -> dict[str, str]:
    """What is said of each name in a folder's table, in its order; ConfigError if it is broken."""
    return {cells["name"]: cells["description"] for cells in _read(folder / FILE).values()}


def write_descriptions(folder: Path, wanted: Mapping[str, str]) -> None:
    """Change what is said of names, as somebody would in the table; ConfigError, RunError.

    It counts once the dataset is finished again. An empty description is made anew from the
    attributes.
    """
    path = folder / FILE
    rows = _read(path)
    asked = f"read the descriptions for {printable(str(path))}"
    said = {alike(name): text for name, text in wanted.items()}
    if unknown := [name for name in wanted if alike(name) not in rows]:
        found = f"{printable(unknown[0], 80)!r} is not one of its names"
        raise ConfigError(asked, found, "keep every name as it stands there")
    lines = [DescriptionRow(name, "train", text, {}, 0, None) for name, text in wanted.items()]
    _check(path, lines)
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list[str](COLUMNS), extrasaction="ignore", restval="")
    writer.writeheader()
    writer.writerows(
        row | ({"description": said[name]} if name in said else {}) for name, row in rows.items()
    )
    try:
        write_bytes(path, stream.getvalue().encode("utf-8"))
    except OSError as error:
        raise RunError(f"write {printable(str(path))}", *reason(error)) from error


def _merged(
    line: DescriptionRow, theirs: Mapping[str, str] | None, ours: list[dict[str, str]], gender: bool
) -> DescriptionRow:
    if theirs is None:
        return line
    before = ours or [dict.fromkeys(_EDITABLE, "")]
    ours_or_derived = {k: {b.get(k, "") for b in before} for k in _EDITABLE}
    ours_or_derived["description"] |= {b[_DERIVED] for b in before if _DERIVED in b}
    edited = {k: theirs[k] for k in _EDITABLE if theirs[k] not in ours_or_derived[k]}
    if not edited:
        return line
    values = dict(line.values) | {k: v for k, v in edited.items() if k in ATTRIBUTES}
    description = edited.get("description") or (
        phrase(values, gender) if edited.keys() & set(ATTRIBUTES) else line.description
    )
    by = "voted" if description == line.description and values == line.values else "hand"
    return DescriptionRow(line.name, line.split, description, values, line.pictures, line.known, by)


def _derived(line: DescriptionRow, gender: bool) -> dict[str, str]:
    """A description that followed from attributes: no hand edit when it is read back."""
    follows = line.description == phrase(line.values, gender)
    return {_DERIVED: line.description} if follows else {}


def _check(path: Path, lines: list[DescriptionRow]) -> None:
    problems: list[ConfigError] = []
    for line in lines:
        asked, text = f"read {printable(str(path))}, {printable(line.name, 80)}", line.description
        if Names([line.name]).find(text):
            fix = f"describe what many people look like, or write {PERSON!r}"
            problems.append(ConfigError(asked, "the description holds the name", fix))
        elif len(text) > _MAX or _odd(text):
            found = f"the description is longer than {_MAX} characters or not printable"
            problems.append(ConfigError(asked, found, "write it again"))
    if problems:
        raise ConfigError.of(f"read {printable(str(path))}", problems)


def _odd(text: str) -> bool:
    return any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") for c in text)


def _read(path: Path) -> dict[str, dict[str, str]]:
    """The table's lines by what the spellings of their names have in common."""
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
    missing = {"name", "description"} - set(heads)
    if missing or len(set(heads) - {""}) < sum(map(bool, heads)):
        lacking = f"the column {', '.join(sorted(missing))} is missing"
        found = lacking if missing else "a column is there twice"
        fix = f"give its first line as {','.join(COLUMNS)}; your changes below stay"
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


def _remembered(folder: Path) -> dict[str, list[dict[str, str]]]:
    """What was voted when the table was last written, to tell hand edits from it."""
    try:
        found: Any = parse_json((folder / PARTS / _VOTED).read_text(encoding="utf-8"))
        return {
            str(name): [{str(k): str(v) for k, v in cells.items()} for cells in several]
            for name, several in found.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _remember(folder: Path, cells: Mapping[str, list[dict[str, str]]]) -> None:
    text = json.dumps(cells, ensure_ascii=False, indent=1, sort_keys=True)
    write_text(folder / PARTS / _VOTED, text + "\n")
