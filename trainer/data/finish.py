"""What a finished dataset consists of: the table, metadata.jsonl, contact sheets, the manifest."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from apl_core.atomic import reason, write_text
from apl_core.errors import RunError
from apl_core.example_kinds import PERSON
from apl_core.metadata import printable

from .. import metadata_jsonl
from ..metadata_jsonl import CaptionedPicture, write_metadata
from ..prompts import SLOT
from ..readers.concept_known import LEAST, known
from ..readers.descriptions import phrase, vote
from ..report.sheet import png, sheet
from . import descriptions_csv
from .descriptions_csv import DescriptionRow
from .generate import GeneratedIndex, GeneratedRow, GenerationTools, sha256_of
from .plan import SETTINGS, Amounts, Task

MANIFEST = "manifest.json"
_TOLD = 12
_SHEET_ROWS, _SHEET_COLUMNS, _SHEET_SIZE = 24, 6, 96

Picked = list[tuple[Task, list[GeneratedRow]]]


@dataclass(frozen=True)
class DatasetSummary:
    """A dataset as it stands: what is missing of it, or what it holds and what is odd about it."""

    folder: Path
    unfinished: int
    entries: tuple[CaptionedPicture, ...] = ()
    unknown: tuple[str, ...] = ()
    faceless: tuple[str, ...] = ()
    short: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether metadata and manifest were written."""
        return self.unfinished == 0

    @property
    def warnings(self) -> list[str]:
        """What is odd about it, whoever made it."""
        lines: list[str] = []
        if self.unknown:
            lines.append(
                f"the model does not seem to know {listing(self.unknown)}: pictures of one name "
                "are hardly more alike than pictures of two, and a prefix learns nothing from them"
            )
        if self.faceless:
            lines.append(f"left out, no picture with exactly one face: {listing(self.faceless)}")
        return lines


def listing(names: Sequence[str]) -> str:
    """The first dozen of some names, and how many more there are."""
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return ", ".join(printable(name, 60) for name in names[:_TOLD]) + more


def finish(
    tools: GenerationTools,
    tasks: Sequence[Task],
    amounts: Amounts,
    folder: Path,
    gender: bool = True,
) -> DatasetSummary:
    """Write everything but the pictures, once all ranks have drawn theirs.

    Always from the pictures on the disk: the same pictures give the same files to the byte.
    """
    generated = GeneratedIndex(folder)
    generated.check(tasks)
    found = [(task, *generated.of(task)) for task in tasks]
    unfinished = sum(place is not None for _, _, place in found)
    if unfinished:
        return DatasetSummary(folder, unfinished)
    picked: Picked = [(task, rows) for task, rows, _ in found]
    faceless = tuple(t.label for t, rows in picked if t.kind == "identity" and not rows)
    short = tuple(
        t.label for t, rows in picked if t.kind == "identity" and 0 < len(rows) < t.wanted
    )
    if len(faceless) == sum(task.kind == "identity" for task in tasks):
        raise RunError(
            f"finish the dataset in {printable(str(folder))}",
            "no picture of any name shows exactly one face",
            "check --model and --steps, look at pictures with `apl generate`, "
            "or give --no-face-filter and another --out folder",
        )
    lines = descriptions_csv.update(folder, _voted(tools, picked, gender))
    entries = tuple(_entries(picked, {line.name: line.said for line in lines}))
    write_metadata(folder, entries)
    sheets = _sheets(picked, folder)
    _manifest(tools, amounts, entries, sheets, folder)
    _sweep(folder)
    unknown = tuple(v.name for v in lines if v.known is not None and v.known < LEAST)
    return DatasetSummary(folder, 0, entries, unknown, faceless, short)


def _voted(tools: GenerationTools, picked: Picked, gender: bool) -> list[DescriptionRow]:
    named = [(task, rows) for task, rows in picked if task.kind == "identity"]
    vectors: dict[str, list[np.ndarray]] = {}
    for task, rows in named:
        vectors[task.label] = [v for row in rows if (v := row.vector) is not None]
    knowing = known(vectors)
    lines: list[DescriptionRow] = []
    for task, rows in named:
        values: dict[str, str] = {}
        if tools.attributes is not None and rows:
            values = vote([row.votes for row in rows], tools.attributes.values)
            values |= {} if gender else {"gender": ""}
        description = phrase(values, gender) if values else PERSON
        lines.append(
            DescriptionRow(
                task.label, task.split, description, values, len(rows), knowing[task.label]
            )
        )
    return lines


def _entries(picked: Picked, descriptions: Mapping[str, str]) -> list[CaptionedPicture]:
    entries: list[CaptionedPicture] = []
    for task, rows in picked:
        for row in rows:
            name = task.label if task.kind == "identity" else ""
            text = neutral = task.caption if task.source else row.template
            if name:
                text = row.template.replace(SLOT, name)
                neutral = row.template.replace(SLOT, descriptions[name])
            entries.append(
                CaptionedPicture(row.file, text, task.kind, name, neutral, row.seed, task.split)
            )
    return entries


def _sheets(picked: Picked, folder: Path) -> list[str]:
    """Contact sheets: a row of pictures for each name, then the general ones by kind."""
    rows: list[tuple[str, list[str]]] = []
    for task, found in picked:
        if task.kind == "identity" and found:
            held = " (held out)" if task.split == "heldout" else ""
            rows.append((f"{task.label}{held}", [r.file for r in found[:_SHEET_COLUMNS]]))
    for kind in ("things", "people"):
        files = [row.file for task, found in picked if task.kind == kind for row in found]
        if files:
            step = max(len(files) // _SHEET_COLUMNS, 1)
            rows.append((kind, files[::step][:_SHEET_COLUMNS]))
    written: list[str] = []
    for start in range(0, len(rows), _SHEET_ROWS):
        page = rows[start : start + _SHEET_ROWS]
        name = f"sheet-{start // _SHEET_ROWS + 1}.png"
        pictures = [torch.stack([_small(folder / file) for file in files]) for _, files in page]
        png(sheet(pictures, [printable(label, 400) for label, _ in page], scale=1), folder / name)
        written.append(name)
    return written


def _small(path: Path) -> Tensor:
    with Image.open(path) as image:
        way = Image.Resampling.NEAREST if image.width < _SHEET_SIZE else Image.Resampling.LANCZOS
        small = image.convert("RGB").resize((_SHEET_SIZE, _SHEET_SIZE), way)
    return torch.from_numpy(np.asarray(small, np.float32) / 255).permute(2, 0, 1)


def _manifest(
    tools: GenerationTools,
    amounts: Amounts,
    entries: Sequence[CaptionedPicture],
    sheets: Sequence[str],
    folder: Path,
) -> None:
    files = [
        *(e.file_name for e in entries),
        *sheets,
        metadata_jsonl.FILE,
        descriptions_csv.FILE,
        SETTINGS,
    ]
    counts: dict[str, Any] = {}
    for entry in entries:
        kind = counts.setdefault(entry.kind, {"train": 0, "heldout": 0})
        kind[entry.split] += 1
    names = {(e.name, e.split) for e in entries if e.name}
    counts["names"] = {s: sum(split == s for _, split in names) for s in metadata_jsonl.SPLITS}
    content = {
        "format": 1,
        "model": tools.settings.model,
        "fingerprints": dict(tools.settings.fingerprints),
        "settings": asdict(tools.settings) | asdict(amounts),
        "counts": counts,
        "files": {file: sha256_of(folder / file) for file in sorted(files)},
    }
    path = folder / MANIFEST
    try:
        write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    except OSError as error:
        raise RunError(f"write {printable(str(path))}", *reason(error)) from error


def _sweep(folder: Path) -> None:
    """Remove what kills left of pictures that were being written; nobody writes any more."""
    for path in folder.glob("images/*/*/.*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()
