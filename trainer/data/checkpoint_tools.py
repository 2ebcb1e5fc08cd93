"""A real checkpoint as the maker of a data set; its eyes are optional parts, or left out."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

from apl_core.errors import AplError
from apl_core.fit import fingerprint

from ..checkpoints.load import CheckpointModel
from ..prompts import ListBook
from ..readers.clip_attributes import load_clip
from ..readers.dataset_readers import AttributeReader, FaceReader
from ..readers.face_filter import load_eyes
from ..readers.weights import Weight, missing, present, weight
from .generate import Tools
from .plan import Maker

WITHOUT = "go on without it: --no-face-filter --descriptions person"


@dataclass(frozen=True)
class Choices:
    """What a user decides about the pictures of a real checkpoint."""

    seed: int
    steps: int
    guidance: float
    size: int
    batch: int
    negative: str
    face_filter: bool
    voted: bool
    weights: Path
    device: str


def optional_eyes(choices: Choices) -> tuple[FaceReader | None, AttributeReader | None]:
    """The readers that are wanted; one AplError says what is missing and how to go on without.

    Call it before the checkpoint is loaded: that takes longer.
    """
    detection, recognition, clip = map(weight, ("face-detection", "face-recognition", "clip-b32"))
    place = choices.weights
    missed: list[tuple[str, str]] = []
    if choices.face_filter:
        missed += lacking("facexlib", "facexlib", [detection, recognition], place)
    if choices.voted:
        missed += lacking("open_clip", "open-clip-torch", [clip], place)
    if missed:
        raise AplError(
            "make a data set",
            "; ".join(found for found, _ in missed),
            f"{' and '.join(dict.fromkeys(fix for _, fix in missed))}, or {WITHOUT}",
        )
    here = {one.name: choices.weights / one.file for one in (detection, recognition, clip)}
    faces = attributes = None
    if choices.face_filter:
        files = here["face-detection"], here["face-recognition"]
        faces = load_eyes(*files, choices.device)
    if choices.voted:
        attributes = load_clip(here["clip-b32"], choices.device)
    return faces, attributes


def eyes_here(choices: Choices) -> tuple[Choices, str]:
    """The choices without what is not installed or fetched, and a sentence on that ("" if all)."""
    detection, recognition, clip = map(weight, ("face-detection", "face-recognition", "clip-b32"))
    faces = not lacking("facexlib", "facexlib", [detection, recognition], choices.weights)
    words = not lacking("open_clip", "open-clip-torch", [clip], choices.weights)
    missed = [
        text
        for here, text in ((faces, "no face was looked for"), (words, "nobody was described"))
        if not here
    ]
    told = f"{' and '.join(missed)} (`apl fetch` lists what that needs)" if missed else ""
    return replace(choices, face_filter=faces, voted=words), told[:1].upper() + told[1:]


def real_tools(
    model: CheckpointModel,
    book: ListBook,
    choices: Choices,
    faces: FaceReader | None,
    attributes: AttributeReader | None,
    reading: str = "",
) -> Tools:
    """Everything that makes a data set on a loaded checkpoint; `reading` says how it was read."""
    keys = model.encoder.widths
    maker = Maker(
        model.name,
        {key: fingerprint(model.encoder.token_embedding(key)) for key in keys},
        book.digest,
        faces.name if faces else "",
        attributes.name if attributes else "",
        choices.negative,
        choices.seed,
        choices.steps,
        choices.guidance,
        choices.size,
        choices.batch,
        reading,
    )
    sampler = model.sampler(choices.steps, choices.guidance, choices.size, choices.batch)
    return Tools(maker, sampler, book, faces, attributes)


def lacking(module: str, package: str, files: list[Weight], weights: Path) -> list[tuple[str, str]]:
    """(found, fix) of each thing that an optional part lacks."""
    found: list[tuple[str, str]] = []
    if importlib.util.find_spec(module) is None:
        found.append(
            (f"{package} is not installed", 'python -m pip install "apl-prefix[evaluate]"')
        )
    for one in files:
        if present(one, weights) is None:
            found.append((missing(one), f"`apl fetch {one.name}`"))
    return found
