"""The readers of photographs whose packages and weights are there, and words for those missing."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from .clip import OpenClip
from .clip_attributes import MODEL
from .dlib import INSTALL, SAME, DlibFaces, lacking_dlib
from .facexlib import FacexlibFaces, load_networks
from .protocols import FaceReader
from .weights import Weight, missing, present, weight

FaceKind = Literal["dlib", "facexlib"]
FACE_KINDS: tuple[FaceKind, ...] = ("dlib", "facexlib")
"""Who may read faces; the first that is there does, unless one is asked for."""

_FACES = "identity and faces"
_TEXTS = "text fit and drift in meaning, features, FID and KID"


@dataclass(frozen=True)
class Readers:
    """Who looks at the pictures; None where weights are missing, which `lacking` tells.

    Two faces nearer than `same` (Euclidean) are one person, by what the recognizer's authors
    publish; None where they publish nothing.
    """

    faces: FaceReader | None = None
    clip: OpenClip | None = None
    lacking: tuple[str, ...] = ()
    same: float | None = None
    faces_name: str = "a face reader"


def available_readers(folder: Path, device: str, faces: FaceKind | None = None) -> Readers:
    """What can be measured with the weights in a folder; AplError if one of them does not fit.

    `faces` is who shall read them.
    """
    detection, recognition, clip = map(weight, ("face-detection", "face-recognition", "clip-b32"))
    missed: list[str] = []
    reader = texts = same = None
    kind, lost = face_kind(folder, faces)
    if lost:
        missed.append(_words(_FACES, lost))
    elif kind == "dlib":
        reader, same = DlibFaces(), SAME
    else:
        files = folder / detection.file, folder / recognition.file
        reader = FacexlibFaces(load_networks(*files, device=device))
    if lost := lacking("open_clip", "open-clip-torch", [clip], folder):
        missed.append(_words(_TEXTS, lost))
    else:
        texts = OpenClip(MODEL, folder / clip.file, device)
    return Readers(reader, texts, tuple(missed), same, reader.name if reader else "")


def face_kind(
    folder: Path, asked: FaceKind | None = None
) -> tuple[FaceKind, list[tuple[str, str]]]:
    """Who reads faces, and (found, fix) of each thing that is missing for it."""
    weights = [weight("face-detection"), weight("face-recognition")]
    lost = {"dlib": lacking_dlib(), "facexlib": lacking("facexlib", "facexlib", weights, folder)}
    kind = asked or next((kind for kind in FACE_KINDS if not lost[kind]), FACE_KINDS[0])
    return cast(FaceKind, kind), lost[kind]


def _words(what: str, lost: list[tuple[str, str]]) -> str:
    found = "; ".join(found for found, _ in lost)
    fixes = ", ".join(dict.fromkeys(fix for _, fix in lost))
    return f"{what}, for {found} ({fixes})"


def lacking(module: str, package: str, files: list[Weight], weights: Path) -> list[tuple[str, str]]:
    """(found, fix) of each thing that an optional part lacks."""
    found: list[tuple[str, str]] = []
    if importlib.util.find_spec(module) is None:
        fix = f"python -m pip install {package}" if package == "facexlib" else INSTALL
        found.append((f"{package} is not installed", fix))
    for one in files:
        if present(one, weights) is None:
            found.append((missing(one), f"`apl fetch {one.name}`"))
    return found
