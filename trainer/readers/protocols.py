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

    The embedding of a picture without a face is all zero and takes part in no figure.
    """

    embedding: Tensor
    found: Tensor

    def __post_init__(self) -> None:
        if self.embedding.dim() != 2 or self.found.shape != self.embedding.shape[:1]:
            raise ValueError("faces need embeddings (B, D) and found (B,)")

    def __len__(self) -> int:
        return len(self.found)

    def pick(self, rows: Tensor) -> Faces:
        """The pictures at `rows`."""
        return Faces(self.embedding[rows], self.found[rows])

    @staticmethod
    def of(embedding: Tensor, found: Tensor) -> Faces:
        """Faces from embeddings of any length; those that were not found become zero."""
        unit = torch.nn.functional.normalize(embedding.float(), dim=1)
        return Faces(torch.where(found[:, None], unit, 0.0), found)

    @staticmethod
    def join(parts: Sequence[Faces]) -> Faces:
        """One batch out of several."""
        return Faces(torch.cat([p.embedding for p in parts]), torch.cat([p.found for p in parts]))


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
