"""A real checkpoint as the settings of a dataset; its readers are optional parts, or left out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from apl_core.errors import AplError
from apl_core.fit import fingerprint

from ..checkpoints.loaded import CheckpointModel
from ..prompts import ListPrompts
from ..readers.available import FaceKind, face_kind, lacking
from ..readers.clip_attributes import load_clip
from ..readers.dlib import DlibFaces
from ..readers.face_filter import load_face_counter
from ..readers.protocols import AttributeReader, FaceDetector
from ..readers.weights import weight
from .generate import GenerationTools
from .plan import GenerationSettings

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
    faces: FaceKind | None = None


def required_readers(choices: Choices) -> tuple[FaceDetector | None, AttributeReader | None]:
    """The readers that are wanted; one AplError says what is missing and how to go on without.

    Call it before the checkpoint is loaded: that takes longer.
    """
    detection, recognition, clip = map(weight, ("face-detection", "face-recognition", "clip-b32"))
    place = choices.weights
    kind, lost = face_kind(place, choices.faces)
    missed = lost if choices.face_filter else []
    if choices.voted:
        missed += lacking("open_clip", "open-clip-torch", [clip], place)
    if missed:
        raise AplError(
            "make a dataset",
            "; ".join(found for found, _ in missed),
            f"{' and '.join(dict.fromkeys(fix for _, fix in missed))}, or {WITHOUT}",
        )
    here = {one.name: choices.weights / one.file for one in (detection, recognition, clip)}
    faces = attributes = None
    if choices.face_filter and kind == "dlib":
        faces = DlibFaces()
    elif choices.face_filter:
        files = here["face-detection"], here["face-recognition"]
        faces = load_face_counter(*files, choices.device)
    if choices.voted:
        attributes = load_clip(here["clip-b32"], choices.device)
    return faces, attributes


def readers_here(choices: Choices) -> tuple[Choices, str]:
    """The choices without what is not installed or fetched, and a sentence on that ("" if all)."""
    faces = not face_kind(choices.weights, choices.faces)[1]
    words = not lacking("open_clip", "open-clip-torch", [weight("clip-b32")], choices.weights)
    missed = [
        text
        for here, text in ((faces, "no face was looked for"), (words, "nobody was described"))
        if not here
    ]
    told = f"{' and '.join(missed)} (`apl fetch` lists what that needs)" if missed else ""
    return replace(choices, face_filter=faces, voted=words), told[:1].upper() + told[1:]


def real_tools(
    model: CheckpointModel,
    book: ListPrompts,
    choices: Choices,
    faces: FaceDetector | None,
    attributes: AttributeReader | None,
    reading: str = "",
) -> GenerationTools:
    """Everything that makes a dataset on a loaded checkpoint; `reading` says how it was read."""
    keys = model.encoder.widths
    settings = GenerationSettings(
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
    return GenerationTools(settings, sampler, book, faces, attributes)
