"""Faces of photographs by dlib, all of it from the package index: the default reader.

An optional extra (`apl-prefix[evaluate]`): the package `dlib-bin`, and dlib's own weights (CC0) in
`face-recognition-models`. That package cannot be imported where `pkg_resources` is gone, so its
files are found and nothing of it runs.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apl_core.errors import AplError

from .protocols import DetectedFaces, Faces

INSTALL = 'python -m pip install "apl-prefix[evaluate]"'
"""The command that brings package and weights."""

SAME = 0.6
"""Two descriptors nearer than this (Euclidean) are one person, as dlib's own example says.

Source: python_examples/face_recognition.py of dlib. At it 99.13 % of the pairs of Labeled Faces in
the Wild are told rightly, it says, by one look at each face, as here (99.38 % by a hundred).
"""

_WEIGHTS = "face_recognition_models"
_DETECTOR = "mmod_human_face_detector.dat"
_LANDMARKS = "shape_predictor_5_face_landmarks.dat"
_RECOGNIZER = "dlib_face_recognition_resnet_model_v1.dat"
_SIDES = (512, 1024)
"""Longest side in pixels of what the detector sees, which finds faces of about 75 pixels and more.

The second one is looked at if the first shows no face of `_SURE` pixels: others may be too small.
"""

_SURE = 90
_NUMBERS = 128


def weights_here() -> Path | None:
    """The folder of dlib's weights in the installed package, which is not imported."""
    spec = importlib.util.find_spec(_WEIGHTS)
    for place in (spec and spec.submodule_search_locations) or ():
        folder = Path(place) / "models"
        if all((folder / file).is_file() for file in (_DETECTOR, _LANDMARKS, _RECOGNIZER)):
            return folder
    return None


def lacking_dlib() -> list[tuple[str, str]]:
    """(found, fix) of each package that is missing."""
    found: list[tuple[str, str]] = []
    if importlib.util.find_spec("dlib") is None:
        found.append(("dlib-bin is not installed", INSTALL))
    if weights_here() is None:
        found.append(("face-recognition-models (dlib's weights) is not installed", INSTALL))
    return found


class DlibFaces:
    """A FaceReader and FaceDetector on the CPU; of several faces in a picture the largest counts.

    dlib's CNN detector, five landmarks, and its ResNet, whose descriptors have 128 numbers.
    """

    name = "dlib CNN detector and ResNet"

    def __init__(self) -> None:
        """Load the weights of the installed packages; AplError without them."""
        asked, folder = "find faces", weights_here()
        if missing := lacking_dlib():
            raise AplError(asked, "; ".join(found for found, _ in missing), INSTALL)
        assert folder is not None
        try:
            import dlib  # pyright: ignore[reportMissingImports]

            at: Any = dlib
            self._box: Any = at.rectangle
            self._detector: Any = at.cnn_face_detection_model_v1(str(folder / _DETECTOR))
            self._landmarks: Any = at.shape_predictor(str(folder / _LANDMARKS))
            self._recognizer: Any = at.face_recognition_model_v1(str(folder / _RECOGNIZER))
        except (ImportError, RuntimeError) as error:  # a broken build, a broken file
            fix = "python -m pip install --force-reinstall dlib-bin face-recognition-models"
            raise AplError(asked, f"dlib does not load: {error}", fix) from error

    def faces(self, pictures: Tensor) -> Faces:
        """Who is in pictures (B, 3, H, W); embeddings (B, 128)."""
        return self._seen(pictures)[0]

    def look(self, pictures: Tensor) -> DetectedFaces:
        """Faces in pictures (B, 3, H, W) in [0, 1].

        Beside a large face those lower than a seventh of the picture's longest side are taken for
        background and not counted.
        """
        faces, counts = self._seen(pictures)
        return DetectedFaces(tuple(counts), faces.embedding)

    def _seen(self, pictures: Tensor) -> tuple[Faces, list[int]]:
        counts, found = [0] * len(pictures), torch.zeros(len(pictures)).bool()
        embedding, boxes = torch.zeros(len(pictures), _NUMBERS), torch.zeros(len(pictures), 4)
        for i, picture in enumerate(pictures):
            places = self._places(picture)
            counts[i] = len(places)
            if places:
                found[i], boxes[i] = True, max(places, key=_area)
                embedding[i] = self._descriptor(picture, boxes[i])
        return Faces.of(embedding, found, boxes), counts

    def _places(self, picture: Tensor) -> list[Tensor]:
        """Faces (left, top, right, bottom) as shares of width and height."""
        places: list[Tensor] = []
        for side in _SIDES:
            height, width = (
                max(round(n * side / max(picture.shape)), 1) for n in picture.shape[1:]
            )
            small = torch.nn.functional.interpolate(
                picture[None].float(), (height, width), mode="bilinear", antialias=True
            )[0]
            found = [seen.rect for seen in self._detector(_frame(small), 0)]
            size = torch.tensor([width, height, width, height])
            places = [
                torch.tensor([r.left(), r.top(), r.right(), r.bottom()]) / size for r in found
            ] or places
            if any(r.width() >= _SURE for r in found):
                break
        return places

    def _descriptor(self, picture: Tensor, box: Tensor) -> Tensor:
        frame = _frame(picture)
        corners = box * torch.tensor(frame.shape[1::-1]).repeat(2)
        points = self._landmarks(frame, self._box(*corners.round().int().tolist()))
        return torch.tensor(list(self._recognizer.compute_face_descriptor(frame, points)))


def _area(box: Tensor) -> float:
    return float((box[2:] - box[:2]).prod())


def _frame(picture: Tensor) -> np.ndarray:
    """A picture (3, H, W) in [0, 1] as dlib wants it: (H, W, 3) of bytes."""
    data = (picture.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    return np.ascontiguousarray(data.cpu().numpy())
