"""open_clip as the attribute reader: which of a few sentences fits a picture best, zero-shot.

Tried with random weights only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from .clip import OpenClip
from .descriptions import NO

MODEL = "ViT-B-32"
SENTENCES: dict[str, dict[str, str]] = {
    "gender": {"man": "a photo of a man", "woman": "a photo of a woman"},
    "age": {
        "young": "a photo of a young person",
        "middle-aged": "a photo of a middle-aged person",
        "old": "a photo of an old person",
    },
    "hair_length": {
        "short": "a photo of a person with short hair",
        "long": "a photo of a person with long hair",
        "bald": "a photo of a bald person",
    },
    "hair_color": {
        "black": "a photo of a person with black hair",
        "brown": "a photo of a person with brown hair",
        "blonde": "a photo of a person with blonde hair",
        "red": "a photo of a person with red hair",
        "grey": "a photo of a person with grey hair",
    },
    "glasses": {
        NO: "a photo of a person without glasses",
        "yes": "a photo of a person wearing glasses",
    },
    "beard": {
        NO: "a photo of a person without a beard",
        "beard": "a photo of a person with a beard",
        "moustache": "a photo of a person with a moustache",
    },
}
"""The sentence for each value of each attribute."""


class ClipAttributes:
    """An open_clip model as attribute reader."""

    def __init__(self, clip: OpenClip) -> None:
        self._clip = clip
        self._texts = {k: clip.words(list(said.values())) for k, said in SENTENCES.items()}
        self._scale = float(clip.model.logit_scale.detach().exp())

    @property
    def name(self) -> str:
        """Name for the manifest."""
        return f"open_clip {MODEL}"

    @property
    def values(self) -> Mapping[str, Sequence[str]]:
        """The attributes of SENTENCES."""
        return {attribute: tuple(said) for attribute, said in SENTENCES.items()}

    def read(self, pictures: Tensor) -> dict[str, Tensor]:
        """Softmax over each attribute's sentences, for pictures (B, 3, H, W) in [0, 1]."""
        seen = self._clip.look(pictures)
        return {k: (self._scale * seen @ texts.T).softmax(1) for k, texts in self._texts.items()}


def load_clip(path: Path, device: str = "cpu") -> ClipAttributes:
    """The model with the weights that `apl fetch` brought; AplError if the file does not fit."""
    return ClipAttributes(OpenClip(MODEL, path, device))
