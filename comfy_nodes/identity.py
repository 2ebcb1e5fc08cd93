"""How alike the faces of two pictures are: facexlib's networks with weights from safetensors.

Alignment: the similarity transform that takes five landmarks to ArcFace's places in a square of
112 pixels, by least squares (Umeyama 1991).
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from apl_core.errors import HostError

DETECTOR = "detection_Resnet50_Final.safetensors"
EMBEDDER = "recognition_arcface_ir_se50.safetensors"
SIDE = 112
PLACES = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655),
          (70.7299, 92.2041))  # fmt: skip
"""Eyes, nose and mouth corners in ArcFace's square (x, y)."""


@dataclass(frozen=True)
class Comparison:
    """Cosine of the largest faces (NaN without a face in both) and faces found in each picture."""

    similarity: float
    faces: tuple[int, int]

    @property
    def text(self) -> str:
        """One sentence."""
        found = f"{self.faces[0]} and {self.faces[1]} faces found"
        if math.isnan(self.similarity):
            return f"{found}: without a face in both pictures nothing can be compared."
        return f"{found}; similarity of the largest two {self.similarity:.3f}."


class FaceReader:
    """Detector and embedder, on the CPU; HostError if the package or a weight file is missing."""

    def __init__(self, folder: Path) -> None:
        if importlib.util.find_spec("facexlib") is None:
            raise HostError(
                "compare two faces",
                "the Python package facexlib is not installed in ComfyUI's environment",
                "install it there (`pip install facexlib`) and restart ComfyUI",
            )
        detection: Any = importlib.import_module("facexlib.detection.retinaface")
        recognition: Any = importlib.import_module("facexlib.recognition.arcface_arch")
        cpu = torch.device("cpu")
        detector = detection.RetinaFace(network_name="resnet50", device=cpu)
        embedder = recognition.Backbone(num_layers=50, drop_ratio=0.6, mode="ir_se")
        self.detector = _loaded(detector, folder / DETECTOR)
        self.embedder = _loaded(embedder, folder / EMBEDDER)

    @torch.no_grad()
    def compare(self, one: Tensor, other: Tensor) -> Comparison:
        """Compare two pictures (H, W, 3) in [0, 1]."""
        found = [self._faces(picture) for picture in (one, other)]
        counts = (len(found[0]), len(found[1]))
        if not all(counts):
            return Comparison(math.nan, counts)
        vectors = [
            self._embedding(picture, faces[0])
            for picture, faces in zip((one, other), found, strict=True)
        ]
        return Comparison(float(torch.cosine_similarity(*vectors, dim=0)), counts)

    def _faces(self, picture: Tensor) -> list[Tensor]:
        """Landmarks (5, 2) of every face, the largest first."""
        blue_first = (picture[..., :3].flip(-1) * 255).round().to(torch.uint8).cpu().numpy()
        found = torch.as_tensor(self.detector.detect_faces(blue_first))
        if found.numel() == 0:
            return []
        area = (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
        return [found[i, 5:15].reshape(5, 2).float() for i in area.argsort(descending=True)]

    def _embedding(self, picture: Tensor, landmarks: Tensor) -> Tensor:
        face = aligned(picture[..., :3].float().cpu(), landmarks)
        return self.embedder(face.movedim(-1, 0)[None] * 2 - 1)[0]


def aligned(picture: Tensor, landmarks: Tensor) -> Tensor:
    """The face (112, 112, 3) whose landmarks (5, 2), x and y in pixels, are at ArcFace's places."""
    back = similarity(torch.tensor(PLACES), landmarks)
    axis = torch.arange(SIDE, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], -1) @ back.T
    size = torch.tensor([picture.shape[1], picture.shape[0]], dtype=torch.float32)
    grid = (2 * places + 1) / size - 1
    sampled = torch.nn.functional.grid_sample(
        picture.movedim(-1, 0)[None], grid[None], align_corners=False
    )
    return sampled[0].movedim(0, -1)


def similarity(source: Tensor, target: Tensor) -> Tensor:
    """Rotation, scale and shift (2, 3) that take points (N, 2) to others best in least squares."""
    x, y = source.T
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    # u = a x - b y + c and v = b x + a y + d
    rows = torch.cat([torch.stack([x, -y, one, zero], 1), torch.stack([y, x, zero, one], 1)])
    a, b, c, d = torch.linalg.lstsq(rows, target.T.reshape(-1, 1)).solution.flatten()
    return torch.stack([torch.stack([a, -b, c]), torch.stack([b, a, d])])


def _loaded(network: Any, path: Path) -> Any:
    """The network with weights from a file; HostError unless every name and shape fits."""
    try:
        weights = load_file(str(path))
        network.load_state_dict({k.removeprefix("module."): v for k, v in weights.items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        why = "is not there" if not path.exists() else f"does not fit: {str(error)[:200]}"
        raise HostError(
            "compare two faces",
            f"the weight file {path} {why}",
            "put facexlib's weights there as safetensors; nothing is downloaded by itself",
        ) from error
    return network.eval()
