"""Thumbnails of the faces that were compared, so that a person can look."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from apl_core.metadata import printable

from ..report.sheet import TITLES, save_sheet
from .gallery import read_picture
from .matches import GalleryFaces, Matches, Sightings

LABELS = ("nearest in the gallery", "without prefix", "with prefix")
_PEOPLE = 8
_SIDE = 112
_AROUND = 0.3


def save_faces(path: Path, seen: Sightings) -> bool:
    """Write the faces of the people most alike with the prefix; False if there are none.

    Of each person it is the picture that comes nearest to the gallery, the same prompt and seed
    without the prefix above it, and on top the gallery's picture.
    """
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    heads: list[str] = []
    groups: list[tuple[str, int]] = []
    for group in ("trained", "heldout"):
        if ("prefix", group) not in seen.matches:
            continue
        plain, learned = seen.matches["none", group], seen.matches["prefix", group]
        places = _nearest(learned)
        for i in places:
            top = _thumbnail(seen.gallery, int(learned.nearest[i]))
            columns.append((top, _thumbnail(plain, i), _thumbnail(learned, i)))
            without, with_it = (_said(m.distances[i], seen.same) for m in (plain, learned))
            name = printable(learned.names[i], 60)
            heads.append(f"{name}: {without} without, {with_it} with prefix")
        groups.append((TITLES[group], len(places)))
    if not columns:
        return False
    rows = [torch.stack(row) for row in zip(*columns, strict=True)]
    save_sheet(rows, path, LABELS, heads, 1, groups)
    return True


def _nearest(matches: Matches) -> list[int]:
    """The place of each person's likeliest picture, the likeliest people first."""
    best: dict[str, int] = {}
    distances = matches.distances.tolist()
    for i in sorted(range(len(distances)), key=lambda i: distances[i]):
        if not math.isnan(distances[i]):
            best.setdefault(matches.names[i], i)
    return list(best.values())[:_PEOPLE]


def _said(distance: Tensor, same: float | None) -> str:
    if distance.isnan():
        return "no face"
    told = f"{float(distance):.2f}"
    if same is None:
        return told
    return f"{told} ({'same' if float(distance) < same else 'other'})"


def _thumbnail(seen: Matches | GalleryFaces, place: int) -> Tensor:
    """A face with a margin, or the whole picture where none is known: (3, side, side)."""
    picture = read_picture(seen.files[place])
    box = None if seen.faces.boxes is None else seen.faces.boxes[place]
    if box is not None and bool((box[2:] > box[:2]).all()):
        height, width = picture.shape[-2:]
        size = torch.tensor([width, height, width, height])
        left, top, right, bottom = (box.cpu() * size).tolist()
        margin = _AROUND * max(right - left, bottom - top)
        rows = slice(max(int(top - margin), 0), max(int(bottom + margin), 1))
        picture = picture[:, rows, max(int(left - margin), 0) : max(int(right + margin), 1)]
    return F.interpolate(picture[None], (_SIDE, _SIDE), mode="bilinear", antialias=True)[0]
