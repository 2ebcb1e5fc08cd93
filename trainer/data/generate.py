"""The pictures of a dataset, drawn task by task: killed at any moment, it goes on where it was."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from apl_core.errors import RunError

from ..json_log import JsonLog, open_log, read_rows
from ..pictures import Unreadable, read_picture
from ..prompts import PromptSource
from ..readers.descriptions import OLD_ATTRIBUTES
from ..readers.protocols import AttributeReader, FaceDetector
from ..report.sheet import png, to_image
from ..sampling import AnySampler
from .plan import GenerationSettings, Task

Advance = Callable[[int], object]


@dataclass(frozen=True)
class GenerationTools:
    """What draws and looks; without a face reader every picture is kept."""

    settings: GenerationSettings
    painter: AnySampler
    book: PromptSource
    faces: FaceDetector | None
    attributes: AttributeReader | None


@dataclass(frozen=True)
class GeneratedRow:
    """One picture that was drawn: where it lies ("" if it was not kept) and what was seen in it.

    A spare one was good, but the name had enough: it is drawn again once more are wanted.
    """

    task: str
    index: int
    file: str
    sha256: str
    template: str
    seed: int | None
    votes: Mapping[str, Sequence[float]]
    embedding: str
    spare: bool = False

    def __post_init__(self) -> None:
        texts = (self.task, self.file, self.sha256, self.template, self.embedding)
        if not all(isinstance(text, str) for text in texts) or type(self.index) is not int:
            raise TypeError("a row of another version")
        path = PurePosixPath(self.file)
        if path.is_absolute() or ".." in path.parts or set(self.file) & set("\\:\0"):
            raise TypeError("its file does not lie below the folder")
        if not isinstance(self.votes, Mapping):
            raise TypeError("its votes are no table")
        votes = {OLD_ATTRIBUTES.get(key, key): shares for key, shares in self.votes.items()}
        object.__setattr__(self, "votes", votes)

    @property
    def vector(self) -> np.ndarray | None:
        """The face's embedding (D,), float32."""
        if not self.embedding:
            return None
        return np.frombuffer(base64.b64decode(self.embedding), np.float16).astype(np.float32)


class GeneratedIndex:
    """What is known of the pictures of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[tuple[str, int], GeneratedRow] = {}
        for raw in read_rows(folder):
            try:
                row = GeneratedRow(**raw)
            except TypeError:  # a row of another version: made anew
                continue
            self.rows[row.task, row.index] = row

    def of(self, task: Task) -> tuple[list[GeneratedRow], int | None]:
        """(the pictures to use so far, the first place that has to be drawn or None)."""
        kept: list[GeneratedRow] = []
        for index in range(task.tries):
            row = self.rows.get((task.key, index))
            if len(kept) == task.wanted:
                break
            if row is None or row.spare:
                return kept, index
            kept += [row] if row.file else []
        return kept, None

    def check(self, tasks: Iterable[Task]) -> None:
        """Forget the rows whose picture is gone or was changed, so that it is drawn again."""
        keys = {task.key for task in tasks}
        for place, row in list(self.rows.items()):
            if row.task in keys and row.file and sha256_of(self.folder / row.file) != row.sha256:
                del self.rows[place]


def make(
    tools: GenerationTools,
    tasks: Sequence[Task],
    folder: Path,
    rank: int = 0,
    of: int = 1,
    advance: Advance | None = None,
) -> GeneratedIndex:
    """Draw all that is missing of this rank's share of the tasks; RunError if the disk is full.

    A picture depends on its task alone, not on ranks, kills or other tasks: pictures are drawn in
    the same groups every time.
    """
    mine = tasks[rank::of]
    tell = advance or (lambda count: None)
    with open_log(folder, rank) as log:
        generated = GeneratedIndex(folder)
        generated.check(mine)
        for task in mine:
            before, place = 0, 0
            while place is not None:
                kept, place = generated.of(task)
                tell(len(kept) - before)
                before = len(kept)
                if place is not None:
                    _round(tools, task, place - place % tools.settings.batch, generated, log)
            tell(task.wanted - before)
    return GeneratedIndex(folder)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, "" if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError):  # ValueError: half a character in its name
        return ""


def _round(
    tools: GenerationTools, task: Task, start: int, generated: GeneratedIndex, log: JsonLog
) -> None:
    """Draw one group of pictures, all of them, and add the rows that are not there yet."""
    places = range(start, min(start + tools.settings.batch, task.tries))
    pictures = _drawn(tools, task, places)
    good = torch.ones(len(pictures), dtype=torch.bool)
    vectors: Tensor | None = None
    votes: Mapping[str, Tensor] = {}
    if task.kind == "identity" and tools.faces is not None:
        seen = tools.faces.look(pictures)
        good, vectors = torch.tensor(seen.counts) == 1, seen.embeddings
    if task.kind == "identity" and tools.attributes is not None and bool(good.any()):
        votes = tools.attributes.read(pictures)
    rows = generated.rows
    kept = sum(bool(row.file) for i in range(start) if (row := rows.get((task.key, i))))
    for at, index in enumerate(places):
        use = bool(good[at]) and kept < task.wanted
        kept += use
        there = rows.get((task.key, index))
        if there is not None and (there.file or not use):
            continue
        file = task.file(index) if use else ""
        row = GeneratedRow(
            task.key,
            index,
            file,
            _printed(pictures[at], generated.folder / file) if use else "",
            task.template(tools.settings, tools.book, index),
            None if task.source else task.seed(tools.settings, index),
            {k: [round(float(p), 4) for p in v[at]] for k, v in votes.items()} if use else {},
            _packed(vectors[at]) if use and vectors is not None else "",
            bool(good[at]) and not use,
        )
        log.add(vars(row))
        rows[task.key, index] = row


def _drawn(tools: GenerationTools, task: Task, places: Sequence[int]) -> Tensor:
    if task.source is not None:
        try:
            return read_picture(task.source, tools.settings.size)[None]
        except Unreadable as error:
            fix = "repair it or take it out of the folder"
            raise RunError("take a general picture", str(error), fix) from error
    requests = [task.request(tools.settings, tools.book, index) for index in places]
    asked = f"draw {len(requests)} pictures with {tools.settings.model}"
    try:
        pictures = tools.painter.draw(requests, None).float().cpu()
    except torch.cuda.OutOfMemoryError as error:
        raise RunError(
            asked,
            "the memory of the device is full",
            "give --half, a smaller --size or a smaller --batch, with another --out folder",
        ) from error
    if not pictures.isfinite().all():
        found = "they hold values that are not numbers"
        raise RunError(asked, found, "leave --half out, and check the checkpoint")
    return pictures


def _printed(picture: Tensor, path: Path) -> str:
    return hashlib.sha256(png(to_image(picture), path)).hexdigest()


def _packed(vector: Tensor) -> str:
    return base64.b64encode(vector.detach().cpu().numpy().astype(np.float16).tobytes()).decode()
