"""What looks at the pictures of a data set: Protocols that facexlib, open_clip or a toy fulfil."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from apl_core.prefix import Rows

from ..sampling import Request


class Painter(Protocol):
    """Draws pictures of prompts; a Sampler is one."""

    def draw(self, requests: Sequence[Request], rows: Rows | None) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1]; the same requests give the same pictures."""
        ...


@dataclass(frozen=True)
class Seen:
    """Faces in pictures: how many (B,), and the largest one's embedding (B, D), 0 without one."""

    counts: tuple[int, ...]
    embeddings: Tensor | None = None


class FaceReader(Protocol):
    """Counts faces and says whose they are like."""

    @property
    def name(self) -> str:
        """What it is, for the manifest."""
        ...

    def look(self, pictures: Tensor) -> Seen:
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
