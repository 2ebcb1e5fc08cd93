"""The pocket world's recognizer as the readers that measuring asks for."""

from __future__ import annotations

import torch
from torch import Tensor

from ..evaluation.identity import Gallery
from ..readers.protocols import Faces
from .model import WorldModel
from .recognizer import Reading


def faces_of(reading: Reading) -> Faces:
    """Who is seen, from what the recognizer has read already."""
    return Faces.of(reading.embedding, reading.is_face())


class PocketReader:
    """A FaceReader and FeatureReader over a pocket model's recognizer."""

    def __init__(self, model: WorldModel) -> None:
        self.recognizer = model.recognizer
        self._names = tuple(p.name for p in model.world.people)

    @property
    def gallery(self) -> Gallery:
        """Everybody of the world as the recognizer has learned them, from renders."""
        return Gallery(
            self._names, torch.nn.functional.normalize(self.recognizer.identity.weight, dim=1)
        )

    @torch.no_grad()
    def faces(self, pictures: Tensor) -> Faces:
        """Who is in pictures (B, 3, 32, 32)."""
        return faces_of(self.recognizer(pictures))

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """The recognizer's last features (B, 256), scaled to the length 16 = 256 ** 0.5."""
        found = self.recognizer.body(pictures * 2 - 1)
        return torch.nn.functional.normalize(found, dim=1) * found.shape[1] ** 0.5

    @torch.no_grad()
    def maps(self, pictures: Tensor) -> list[Tensor]:
        """What comes out of the recognizer's blocks, from 16 x 16 places down to 2 x 2."""
        return self.recognizer.maps(pictures)
