"""`metadata.jsonl`: pictures and their captions, in the columns of Hugging Face's imagefolder.

A line is a JSON object: `file_name` (a picture below the folder, or a .safetensors with a tensor
`latent`), `text` (its caption), and columns of this project: `kind`, `name`, `neutral`, `seed`,
`split`. Older folders call the first two `file` and `prompt`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, cast

from apl_core import atomic
from apl_core.captions import Names
from apl_core.errors import ConfigError, RunError
from apl_core.example_kinds import KINDS, Kind
from apl_core.metadata import printable, unique_keys
from apl_core.texts import read_text

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")
FILE = "metadata.jsonl"
COLUMNS = ("file_name", "text", "kind", "name", "neutral", "seed", "split")
_OLD = {"file_name": "file", "text": "prompt"}
_TOLD = 12
_BREAKS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
"""Line ends in some programs' readers, which JSON leaves as they are."""


@dataclass(frozen=True)
class CaptionedPicture:
    """A picture and its caption; ValueError if they do not fit together.

    `file_name` lies below the dataset's folder. `name` is who stands in an identity picture's text,
    `neutral` that text with the name described away; for pictures of nobody it is the text. `seed`
    drew it, None for a picture that was given. `nameless` is no column: the text without any name
    of the dataset, once a training has read it.
    """

    file_name: str
    text: str
    kind: Kind
    name: str = ""
    neutral: str = ""
    seed: int | None = None
    split: Split = "train"
    nameless: str = ""

    def __post_init__(self) -> None:
        for column in ("file_name", "text", "kind", "name", "neutral", "split"):
            if not isinstance(getattr(self, column), str):
                raise ValueError(f"{column} is not text")
        if self.seed is not None and type(self.seed) is not int:
            raise ValueError("seed is not a whole number")
        if _outside(self.file_name):
            told = printable(self.file_name, 80)
            raise ValueError(f"file_name {told!r} is not a file below the folder")
        if self.kind not in KINDS:
            raise ValueError(f"kind is {printable(self.kind, 40)!r}, not one of {', '.join(KINDS)}")
        if self.split not in SPLITS:
            told = f"{printable(self.split, 40)!r}, not one of {', '.join(SPLITS)}"
            raise ValueError(f"split is {told}")
        if not self.text:
            raise ValueError("text, the picture's caption, is missing")
        if self.kind != "identity":
            if self.name:
                raise ValueError("a name stands where only identity pictures have one")
            object.__setattr__(self, "neutral", self.text)

    @property
    def texts(self) -> tuple[str, str]:
        """What is said about the picture, with the name and without."""
        return self.text, self.neutral


def write_metadata(folder: Path, rows: Iterable[CaptionedPicture]) -> Path:
    """Write `metadata.jsonl` in one move; RunError if the disk does not take it."""
    objects = ({column: getattr(row, column) for column in COLUMNS} for row in rows)
    lines = [json.dumps(told, ensure_ascii=False).translate(_BREAKS) + "\n" for told in objects]
    path = folder / FILE
    try:
        atomic.write_text(path, "".join(lines))
    except OSError as error:
        raise RunError(f"write {printable(str(path))}", *atomic.reason(error)) from error
    return path


def read_metadata(folder: Path) -> tuple[CaptionedPicture, ...]:
    """All pictures of a folder's `metadata.jsonl`; one ConfigError tells all that is wrong.

    Whether the files exist is not looked at.
    """
    rows = numbered_rows(folder)
    if not rows:
        asked = f"read {printable(str(folder / FILE))}"
        raise ConfigError(asked, "there is no picture in it", "run `apl dataset` to its end")
    return tuple(rows.values())


def numbered_rows(folder: Path) -> dict[int, CaptionedPicture]:
    """As `read_metadata`, by line numbers from 1; there may be none."""
    asked = f"read the data in {printable(str(folder))}"
    try:
        text = read_text(folder / FILE)
    except (OSError, ValueError) as error:
        found = f"{FILE} is missing or unreadable ({printable(str(error), 80)})"
        fix = f"give a folder with pictures and a {FILE}, as `apl dataset` makes it"
        raise ConfigError(asked, found, fix) from error
    rows: dict[int, CaptionedPicture] = {}
    faults: dict[int, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows[number] = _row(json.loads(line, object_pairs_hook=unique_keys))
            except json.JSONDecodeError:
                faults[number] = "it is not JSON"
            except RecursionError:
                faults[number] = "it is nested too deeply"
            except ValueError as error:
                faults[number] = printable(str(error), 160)
    refuse_lines(asked, faults)
    return rows


def refuse_lines(asked: str, faults: dict[int, str]) -> None:
    """Raise one ConfigError for the faults of all lines, the first dozen of them in words."""
    refuse_all(asked, [f"line {number} of {FILE}: {fault}" for number, fault in faults.items()])


def refuse_all(asked: str, faults: list[str]) -> None:
    """Raise one ConfigError for all faults, the first dozen of them in words."""
    told = [ConfigError(asked, fault, f"correct it in {FILE}") for fault in faults[:_TOLD]]
    if more := len(faults) - len(told):
        told.append(ConfigError(asked, f"and {more} more like these", "correct these first"))
    if told:
        raise ConfigError.of(asked, told)


def descriptions_in(rows: Iterable[CaptionedPicture]) -> dict[str, str]:
    """What stands for each name in its neutral texts."""
    found: dict[str, str] = {}
    for row in (row for row in rows if row.name):
        for at in Names([row.name]).find(row.text)[:1]:
            before, after = row.text[: at.start], row.text[at.end :]
            if row.neutral.startswith(before) and row.neutral.endswith(after):
                end = len(row.neutral) - len(after)
                found.setdefault(row.name, row.neutral[len(before) : end])
    return found


def _row(raw: Any) -> CaptionedPicture:
    """A row; a column that is null or missing is empty, others than ours are passed over."""
    if not isinstance(raw, dict):
        raise ValueError("it is not a JSON object")
    told = cast("dict[str, Any]", raw)
    given: dict[str, Any] = {}
    for column in COLUMNS:
        value = told.get(column, told.get(_OLD.get(column, "")))
        if column != "seed":
            value = "" if value is None else value
        if column in ("text", "name", "neutral") and isinstance(value, str):
            value = value.strip()
        given[column] = value
    given["split"] = given["split"] or "train"
    return CaptionedPicture(**given)


def _outside(name: str) -> bool:
    """Whether a name may lead out of a folder, on this system or another."""
    paths = PurePosixPath(name), PureWindowsPath(name)
    return "\0" in name or any(not p.parts or p.anchor or ".." in p.parts for p in paths)
