"""facexlib as a dataset's face reader: how many faces a picture shows, and whose they are like.

The networks and the embedding are those of the evaluation. Tried with random weights only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .facexlib import FacexlibFaces, load_networks
from .protocols import DetectedFaces

LEAST_HEIGHT = 0.05
"""Share of the picture's height below which a face is part of the background."""


class FaceCounter(FacexlibFaces):
    """RetinaFace and ArcFace, which see faces in the background as well but do not count them."""

    @torch.no_grad()
    def look(self, pictures: Tensor) -> DetectedFaces:
        """Faces in pictures (B, 3, H, W) in [0, 1]; the embedding (512) is the largest one's."""
        counts: list[int] = []
        for part in pictures.split(self.batch):
            frames = (part.float() * 255).flip(1).permute(0, 2, 3, 1).contiguous()  # BGR
            boxes, _ = self.detector.batched_detect_faces(frames, self.threshold)
            counts += [_large(found, part.shape[2]) for found in boxes]
        return DetectedFaces(tuple(counts), self.faces(pictures).embedding)


def load_face_counter(detector: Path, recognizer: Path, device: str = "cpu") -> FaceCounter:
    """Both networks with the weights that `apl fetch` brought; AplError if a file does not fit."""
    return FaceCounter(load_networks(detector, recognizer, device=device))


def _large(boxes: np.ndarray, height: int) -> int:
    """How many of the boxes (N, 5: x, y, x, y, score) are no mere background."""
    rows = np.asarray(boxes).reshape(-1, 5)
    return int((rows[:, 3] - rows[:, 1] >= LEAST_HEIGHT * height).sum())
