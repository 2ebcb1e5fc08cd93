"""How alike the faces of two pictures are, by the trainer's reader of photographs (facexlib)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apl_core.errors import HostError

from .opaque import opaque

DETECTORS = {
    "resnet50": "detection_Resnet50_Final.safetensors",
    "mobile0.25": "detection_mobilenet0.25_Final.safetensors",
}
"""RetinaFace's kinds and their weight files; the first that is there is used."""

RECOGNIZER = "recognition_arcface_ir_se50.safetensors"


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


def face_reader(folder: Path) -> Any:
    """The reader with weights from a folder; HostError if facexlib or a weight file is missing."""
    module = _trainer_reader()
    kinds = [kind for kind, file in DETECTORS.items() if (folder / file).exists()]
    missing = [] if kinds else [" or ".join(DETECTORS.values())]
    missing += [] if (folder / RECOGNIZER).exists() else [RECOGNIZER]
    try:
        if missing:
            module.new_networks("mobile0.25")  # whether the package is there is said first
            raise HostError(
                "compare two faces",
                f"in {folder} there is no {' and no '.join(missing)}",
                "put facexlib's weights there as safetensors; nothing is downloaded automatically",
            )
        paths = folder / DETECTORS[kinds[0]], folder / RECOGNIZER
        return module.FacexlibFaces(module.load_networks(*paths, kinds[0]))
    except module.MissingPackage as error:
        raise HostError(
            "compare two faces",
            "the Python package facexlib is not installed in ComfyUI's environment",
            "install it there (`pip install facexlib`) and restart ComfyUI",
        ) from error


def compare(reader: Any, one: Tensor, other: Tensor) -> Comparison:
    """Compare two pictures (H, W, 3) in [0, 1]; transparent ones on white."""
    seen = [reader.read(opaque(picture).movedim(-1, 0)[None].cpu()) for picture in (one, other)]
    (first, found), (second, found_other) = seen
    counts = (found[0], found_other[0])
    if not all(counts):
        return Comparison(math.nan, counts)
    cosine = torch.cosine_similarity(first.embedding[0], second.embedding[0], dim=0)
    return Comparison(float(cosine), counts)


def _trainer_reader() -> Any:
    """The trainer's module, from this clone, loaded when it is used first."""
    from apl_hosting import load

    load(Path(__file__).resolve().parents[1] / "trainer", "apl_trainer")

    from apl_trainer.readers import facexlib

    return facexlib
