"""`metadata.jsonl`: one line per picture, as a training reads it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
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
_TOLD = 20
_BREAKS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
"""Line ends in some programs' readers, which JSON leaves as they are."""


@dataclass(frozen=True)
class MetadataRow:
    """A picture: its file below the dataset's folder, its prompt, the prompt that names nobody.

    `name` is empty but for identity pictures; `neutral` is `prompt` for all others. `seed` is the
    seed that drew it, None for a picture that was given.
    """

    file: str
    kind: Kind
    prompt: str
    name: str
    neutral: str
    seed: int | None
    split: Split

    def __post_init__(self) -> None:
        if fault := _fault(self):
            raise ValueError(fault)


_FIELDS = {field.name for field in fields(MetadataRow)}


def write_metadata(folder: Path, entries: Iterable[MetadataRow]) -> Path:
    """Write `metadata.jsonl` in one move; RunError if the disk does not take it."""
    lines = [json.dumps(asdict(entry), ensure_ascii=False).translate(_BREAKS) for entry in entries]
    path = folder / FILE
    try:
        atomic.write_text(path, "".join(line + "\n" for line in lines))
    except OSError as error:
        raise RunError(f"write {printable(str(path))}", *atomic.reason(error)) from error
    return path


def read_metadata(folder: Path) -> tuple[MetadataRow, ...]:
    """All lines of a dataset's `metadata.jsonl`; one ConfigError tells everything wrong with it.

    Unknown fields are ignored. Whether the pictures exist is not looked at.
    """
    path = folder / FILE
    asked = f"read {printable(str(path))}"
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        found = "it cannot be read" if isinstance(error, OSError) else "it is not UTF-8"
        fix = "give the folder that `apl dataset --out` made"
        raise ConfigError(asked, f"{found} ({printable(str(error), 120)})", fix) from error
    problems: list[ConfigError] = []
    entries: list[MetadataRow] = []
    seen: set[str] = set()
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = _entry(json.loads(line, object_pairs_hook=unique_keys))
            if entry.file in seen:
                raise ValueError(f"{printable(entry.file, 80)!r} stands there twice")
            seen.add(entry.file)
            entries.append(entry)
        except (ValueError, TypeError, RecursionError) as error:
            fix = "run `apl dataset` again"
            problems.append(ConfigError(f"line {number}", printable(str(error), 160), fix))
    if problems:
        raise ConfigError.of(asked, problems[:_TOLD])
    if not entries:
        raise ConfigError(asked, "there is no picture in it", "run `apl dataset` to its end")
    return tuple(entries)


def descriptions_in(entries: Iterable[MetadataRow]) -> dict[str, str]:
    """What stands for each name in its neutral prompts."""
    found: dict[str, str] = {}
    for entry in (e for e in entries if e.name):
        for at in Names([entry.name]).find(entry.prompt)[:1]:
            before, after = entry.prompt[: at.start], entry.prompt[at.end :]
            if entry.neutral.startswith(before) and entry.neutral.endswith(after):
                end = len(entry.neutral) - len(after)
                found.setdefault(entry.name, entry.neutral[len(before) : end])
    return found


def _entry(raw: Any) -> MetadataRow:
    if not isinstance(raw, dict):
        raise ValueError("it is not a table")
    given = {k: v for k, v in cast("dict[str, Any]", raw).items() if k in _FIELDS}
    if missing := sorted(_FIELDS - given.keys()):
        raise ValueError(f"{', '.join(missing)} is missing")
    return MetadataRow(**given)


def _fault(entry: MetadataRow) -> str:
    texts = (entry.file, entry.kind, entry.prompt, entry.name, entry.neutral, entry.split)
    if not all(isinstance(text, str) for text in texts):
        return "a field that should be text is not"
    if entry.seed is not None and (isinstance(entry.seed, bool) or not isinstance(entry.seed, int)):
        return "the seed is not a whole number"
    path = PurePosixPath(entry.file)
    if not path.parts or path.is_absolute() or ".." in path.parts or set(entry.file) & set("\\:\0"):
        return f"{printable(entry.file, 80)!r} is not a file below the folder"
    if entry.kind not in KINDS:
        return f"the kind is {printable(entry.kind, 40)!r}, not one of {', '.join(KINDS)}"
    if entry.split not in SPLITS:
        return f"the split is {printable(entry.split, 40)!r}, not one of {', '.join(SPLITS)}"
    if bool(entry.name) != (entry.kind == "identity"):
        return "identity pictures have a name, and no others"
    if entry.kind != "identity" and entry.neutral != entry.prompt:
        return "the neutral prompt of a picture of nobody is its prompt"
    return ""
