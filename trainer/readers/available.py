"""The readers of photographs whose packages and weights are there, and words for those missing."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from .clip import OpenClip
from .clip_attributes import MODEL
from .facexlib import FacexlibFaces, load_networks
from .protocols import FaceReader
from .weights import Weight, missing, present, weight

_FACES = "identity and faces"
_TEXTS = "text fit and drift in meaning, features, FID and KID"


@dataclass(frozen=True)
class Readers:
    """Who looks at the pictures; None where weights are missing, which `lacking` tells."""

    faces: FaceReader | None = None
    clip: OpenClip | None = None
    lacking: tuple[str, ...] = ()


def available_readers(folder: Path, device: str) -> Readers:
    """What can be measured with the weights in a folder; AplError if one of them does not fit."""
    detection, recognition, clip = map(weight, ("face-detection", "face-recognition", "clip-b32"))
    missed: list[str] = []
    faces = texts = None
    if lost := lacking("facexlib", "facexlib", [detection, recognition], folder):
        missed.append(_words(_FACES, lost))
    else:
        files = folder / detection.file, folder / recognition.file
        faces = FacexlibFaces(load_networks(*files, device=device))
    if lost := lacking("open_clip", "open-clip-torch", [clip], folder):
        missed.append(_words(_TEXTS, lost))
    else:
        texts = OpenClip(MODEL, folder / clip.file, device)
    return Readers(faces, texts, tuple(missed))


def _words(what: str, lost: list[tuple[str, str]]) -> str:
    found = "; ".join(found for found, _ in lost)
    fixes = ", ".join(dict.fromkeys(fix for _, fix in lost))
    return f"{what}, for {found} ({fixes})"


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
