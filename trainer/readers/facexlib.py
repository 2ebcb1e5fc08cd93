"""Faces of photographs: RetinaFace finds them, ArcFace tells whose they are (facexlib).

An optional package, which some hosts have. facexlib's own `init_*` helpers choose CUDA and
download unhashed weights, so only its networks are used; weights are files that the user gives.
Tried with random weights only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from apl_core.errors import AplError

from .protocols import Faces

Detector = Literal["resnet50", "mobile0.25"]
_SIZE = 112  # of ArcFace's pictures
_MISSING = "python -m pip install facexlib"


class MissingPackage(AplError):
    """facexlib is not installed."""


def new_networks(kind: Detector = "resnet50", device: str = "cpu") -> tuple[nn.Module, nn.Module]:
    """RetinaFace and ArcFace with random weights; AplError without facexlib."""
    try:
        from facexlib.detection.retinaface import RetinaFace  # pyright: ignore[reportMissingImports]
        from facexlib.recognition.arcface_arch import Backbone  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        found = f"facexlib is not installed ({error})"
        raise MissingPackage("find faces", found, _MISSING) from error
    detector: nn.Module = RetinaFace(network_name=kind, device=torch.device(device))
    recognizer: nn.Module = Backbone(num_layers=50, drop_ratio=0.6, mode="ir_se")
    return detector.eval(), recognizer.eval().to(device)


def load_networks(
    detector: Path, recognizer: Path, kind: Detector = "resnet50", device: str = "cpu"
) -> tuple[nn.Module, nn.Module]:
    """Both networks with weights from safetensors files; AplError if those do not fit."""
    networks = new_networks(kind, device)
    for network, path in zip(networks, (detector, recognizer), strict=True):
        try:
            weights = {k.removeprefix("module."): v for k, v in load_file(path).items()}
            network.load_state_dict(weights)
        except Exception as error:  # a broken file raises anything, and none of it is for a user
            raise AplError(
                f"load {path}",
                f"it does not hold the weights of {type(network).__name__}: "
                f"{str(error).splitlines()[0]}",
                "give detection_Resnet50_Final and recognition_arcface_ir_se50 as safetensors",
            ) from error
    return networks


class FacexlibFaces:
    """A FaceReader for photographs; of several faces in a picture the largest counts."""

    name = "facexlib RetinaFace ResNet-50 and ArcFace IR-SE50"

    def __init__(
        self, networks: tuple[nn.Module, nn.Module], threshold: float = 0.8, batch: int = 8
    ) -> None:
        self.detector: Any = networks[0]
        self.recognizer: Any = networks[1]
        self.threshold, self.batch = threshold, batch

    @torch.no_grad()
    def faces(self, pictures: Tensor) -> Faces:
        """Who is in pictures (B, 3, H, W); embeddings (B, 512)."""
        parts = [self.read(part)[0] for part in pictures.split(self.batch)]
        return Faces.join(parts)

    @torch.no_grad()
    def read(self, pictures: Tensor) -> tuple[Faces, list[int]]:
        """The largest faces of pictures (B, 3, H, W), and how many are found in each picture."""
        frames = (pictures.float() * 255).flip(1).permute(0, 2, 3, 1).contiguous()  # BGR
        boxes, points = self.detector.batched_detect_faces(frames, self.threshold)
        found = torch.tensor([len(b) > 0 for b in boxes])
        embedding, places = torch.zeros(len(pictures), 512), torch.zeros(len(pictures), 4)
        if found.any():
            crops: list[Tensor] = []
            size = torch.tensor(frames.shape[2:0:-1]).repeat(2)
            for i in found.nonzero()[:, 0].tolist():
                box, five = _largest(boxes[i], points[i])
                places[i] = torch.as_tensor(box[:4]).float() / size
                crops.append(self._crop(frames[i], five))
            device = next(self.recognizer.parameters()).device
            embedding[found] = self.recognizer(torch.stack(crops).to(device)).float().cpu()
        return Faces.of(embedding, found, places), [len(b) for b in boxes]

    def _crop(self, frame: Tensor, points: np.ndarray) -> Tensor:
        """The face moved to ArcFace's five reference points: RGB (3, 112, 112) in [-1, 1]."""
        from facexlib.detection.align_trans import warp_and_crop_face  # pyright: ignore[reportMissingImports]

        five = [[float(points[2 * j]), float(points[2 * j + 1])] for j in range(5)]
        picture = frame.cpu().numpy()
        size = (_SIZE, _SIZE)
        warped: np.ndarray = warp_and_crop_face(picture, five, self.detector.reference, size)
        rgb = torch.from_numpy(np.ascontiguousarray(warped[..., ::-1], np.float32))
        return rgb.permute(2, 0, 1) / 127.5 - 1


def _largest(boxes: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sizes = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    best = int(sizes.argmax())
    return boxes[best], points[best]


def weights_of(network: nn.Module) -> Mapping[str, Tensor]:
    """A network's weights, ready for safetensors."""
    return {k: v.detach().clone().contiguous() for k, v in network.state_dict().items()}
