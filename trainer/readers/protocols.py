"""Protocols of those who look at pictures, which the pocket model and real readers fulfil."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Faces:
    """Who is seen in B pictures: `embedding` (B, D) of unit length, `found` (B,) bool.

    The embedding of a picture without a face is all zero and takes part in no figure. `boxes`
    (B, 4) is where the face is: left, top, right and bottom as shares of width and height.
    `length` (B,) is the embedding's before it was made 1, for `distances`.
    """

    embedding: Tensor
    found: Tensor
    boxes: Tensor | None = None
    length: Tensor | None = None

    def __post_init__(self) -> None:
        if self.embedding.dim() != 2 or self.found.shape != self.embedding.shape[:1]:
            raise ValueError("faces need embeddings (B, D) and found (B,)")

    def __len__(self) -> int:
        return len(self.found)

    def pick(self, rows: Tensor) -> Faces:
        """The pictures at `rows`."""
        rest = (None if part is None else part[rows] for part in (self.boxes, self.length))
        return Faces(self.embedding[rows], self.found[rows], *rest)

    def distances(self, others: Faces) -> Tensor:
        """Euclidean distance (B, C) of the recognizer's own vectors; NaN without two faces."""
        one, other = (
            faces.embedding * (1 if faces.length is None else faces.length[:, None])
            for faces in (self, others)
        )
        apart = torch.cdist(one, other.to(one), compute_mode="donot_use_mm_for_euclid_dist")
        return torch.where(self.found[:, None] & others.found[None], apart, torch.nan)

    @staticmethod
    def of(embedding: Tensor, found: Tensor, boxes: Tensor | None = None) -> Faces:
        """Faces from embeddings of any length; those that were not found become zero."""
        whole = torch.where(found[:, None], embedding.float(), 0.0)
        return Faces(torch.nn.functional.normalize(whole, dim=1), found, boxes, whole.norm(dim=1))

    @staticmethod
    def join(parts: Sequence[Faces]) -> Faces:
        """One batch out of several."""
        return Faces(
            torch.cat([p.embedding for p in parts]),
            torch.cat([p.found for p in parts]),
            _joined([p.boxes for p in parts]),
            _joined([p.length for p in parts]),
        )


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if len(there) == len(parts) else None


class FaceReader(Protocol):
    """Tells who is in a picture."""

    def faces(self, pictures: Tensor) -> Faces:
        """The largest or clearest face of each picture (B, 3, H, W) in [0, 1]."""
        ...


class FeatureReader(Protocol):
    """Sees pictures as features: one vector each, and maps of several depths."""

    def features(self, pictures: Tensor) -> Tensor:
        """Vectors (B, D) of pictures (B, 3, H, W) in [0, 1], for FID and KID."""
        ...

    def maps(self, pictures: Tensor) -> list[Tensor]:
        """Feature maps (B, C, h, w) of several depths, for a perceptual distance."""
        ...


class TextMatcher(Protocol):
    """Tells how well a picture fits a text."""

    def match(self, pictures: Tensor, texts: Sequence[str]) -> Tensor:
        """Cosine (B,) of each picture (B, 3, H, W) in [0, 1] with its text."""
        ...

    def look(self, pictures: Tensor) -> Tensor:
        """Picture embeddings (B, D) of unit length: their cosine is a drift in meaning."""
        ...


@dataclass(frozen=True)
class DetectedFaces:
    """Faces in pictures: how many (B,), and the largest one's embedding (B, D), 0 without one."""

    counts: tuple[int, ...]
    embeddings: Tensor | None = None


class FaceDetector(Protocol):
    """Counts faces and says whose they are like."""

    @property
    def name(self) -> str:
        """What it is, for the manifest."""
        ...

    def look(self, pictures: Tensor) -> DetectedFaces:
        """The faces in pictures (B, 3, H, W) in [0, 1]; embeddings have length 1."""
        ...


class AttributeReader(Protocol):
    """Coarse visual attributes of the person in a picture."""

    @property
    def name(self) -> str:
        """What it is, for the manifest."""
        ...

    @property
    def values(self) -> Mapping[str, Sequence[str]]:
        """Attributes and the values that it tells apart."""
        ...

    def read(self, pictures: Tensor) -> Mapping[str, Tensor]:
        """Probabilities (B, values) of each attribute in pictures (B, 3, H, W) in [0, 1]."""
        ...
