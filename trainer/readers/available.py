"""The readers of photographs whose packages and weights are there, and words for those missing."""

from __future__ import annotations

from pathlib import Path

from ..data.checkpoint_tools import lacking
from ..evaluation.checkpoint_eval import Eyes
from .clip import OpenClip
from .clip_attributes import MODEL
from .facexlib import FacexlibFaces, load_networks
from .weights import weight

_FACES = "identity and faces"
_TEXTS = "text fit and drift in meaning, features, FID and KID"


def eyes_for(folder: Path, device: str) -> Eyes:
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
    return Eyes(faces, texts, tuple(missed))


def _words(what: str, lost: list[tuple[str, str]]) -> str:
    found = "; ".join(found for found, _ in lost)
    fixes = ", ".join(dict.fromkeys(fix for _, fix in lost))
    return f"{what}, for {found} ({fixes})"
