"""Whose faces are called one person's: at the threshold that a recognizer's authors publish.

Ranks say who in a gallery looks most alike; these say whether anybody would be taken for the
person named at all, and how often the same threshold takes strangers for each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..readers.protocols import Faces
from ..statistics import Mean, mean


@dataclass(frozen=True, eq=False)
class GalleryFaces:
    """The faces of a gallery's pictures, whose each is, and the files."""

    faces: Faces
    names: tuple[str, ...]
    files: tuple[Path, ...]


@dataclass(frozen=True, eq=False)
class Matches:
    """For each picture the nearest gallery picture of the person named in its prompt.

    `nearest` holds places in the gallery, `distances` (B,) how far off it is (Euclidean, NaN where
    either shows no face), `faces` what was read in the pictures, which are in `files`.
    """

    faces: Faces
    names: tuple[str, ...]
    files: tuple[Path, ...]
    nearest: Tensor
    distances: Tensor

    @staticmethod
    def of(
        faces: Faces, names: Sequence[str], files: Sequence[Path], gallery: GalleryFaces
    ) -> Matches:
        """Compare pictures whose prompts name `names` with the gallery."""
        apart = faces.distances(gallery.faces).cpu()
        own = torch.tensor([[name == other for other in gallery.names] for name in names])
        found = torch.where(own & ~apart.isnan(), apart, torch.inf).min(1)
        distances = torch.where(found.values.isinf(), torch.nan, found.values)
        return Matches(faces, tuple(names), tuple(files), found.indices, distances)

    def same(self, threshold: float) -> Mean:
        """Share of pictures with a face that are called the person named, over names."""
        near = (self.distances < threshold).float()
        near = torch.where(self.distances.isnan(), torch.nan, near)
        return mean(near.numpy(), self.names)


@dataclass(frozen=True, eq=False)
class Sightings:
    """What the report shows: the gallery, and matches by condition and group.

    Faces nearer than `same` are one person; None where the recognizer's authors publish nothing.
    """

    gallery: GalleryFaces
    matches: dict[tuple[str, str], Matches]
    same: float | None


def accepted(gallery: GalleryFaces, threshold: float) -> dict[str, Mean]:
    """Shares of pairs of gallery pictures called one person: of one name, and wrongly of two."""
    apart = gallery.faces.distances(gallery.faces).cpu()
    names = torch.tensor([list(dict.fromkeys(gallery.names)).index(n) for n in gallery.names])
    own = names[:, None] == names[None]
    pairs = torch.ones_like(own).triu(1) & ~apart.isnan()
    near = apart < threshold
    found = {
        "gallery.accepted_same_name": near[pairs & own],
        "gallery.accepted_other_name": near[pairs & ~own],
    }
    return {
        key: Mean(float(v.float().mean()), math.nan, math.nan, len(v))
        for key, v in found.items()
        if len(v)
    }
