"""Generation tools of a pocket model: its own captions, and its recognizer as the readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from apl_core.fit import fingerprint

from ..data.generate import GenerationTools
from ..data.plan import GenerationSettings
from ..prompts import SLOT, General
from ..readers.descriptions import NO
from ..readers.protocols import DetectedFaces
from .captions import anonymous_subject, dress, extras_of, things_words
from .model import PocketModel
from .recognizer import Reading
from .render import SIZE, random_scene, random_things
from .world import ATTRIBUTES, random_looks

_UNSAID = ""
_WORDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "gender": ("gender", ATTRIBUTES["gender"]),
    "hair_length": ("style", ("short", "short", "long", _UNSAID, _UNSAID, _UNSAID)),
    "hair_color": ("hair", ATTRIBUTES["hair"]),
    "glasses": ("glasses", (NO, "yes", "yes")),
    "beard": ("beard", (NO, "moustache", "beard", "beard")),
}
"""Which of the recognizer's heads tells an attribute, and the word for each of its classes."""


@dataclass(frozen=True)
class PocketPrompts:
    """Prompts as the pocket model learned them."""

    negative: str = ""
    digest: str = "pocket captions 1"

    def named(self, random: np.random.Generator) -> str:
        """A template, with a hat, shirt or background as captions have them."""
        extras = extras_of(random_scene(random, 1), 0, random)
        return dress(SLOT, random) + extras.phrase()

    def general(self, kind: General, random: np.random.Generator) -> str:
        """Things, or nameless people with what surrounds them."""
        if kind == "things":
            return dress(things_words(random_things(random, 1), 0), random)
        look = random_looks(random, 1)[0][0]
        subject = dress(anonymous_subject(look, random), random)
        return subject + extras_of(random_scene(random, 1), 0, random).phrase()


@dataclass(frozen=True)
class PocketReaders:
    """The recognizer as face reader and attribute reader."""

    model: PocketModel

    @property
    def name(self) -> str:
        """Name for the manifest."""
        return f"recognizer of {self.model.name}"

    @property
    def values(self) -> Mapping[str, Sequence[str]]:
        """Words for what the recognizer tells apart, each once."""
        return {a: tuple(dict.fromkeys(words)) for a, (_, words) in _WORDS.items()}

    def look(self, pictures: Tensor) -> DetectedFaces:
        """One face where the recognizer sees an intact one."""
        reading = self._read(pictures)
        return DetectedFaces(tuple(int(face) for face in reading.is_face()), reading.embedding)

    def read(self, pictures: Tensor) -> dict[str, Tensor]:
        """Probabilities of the words: those of all classes with the same word, added."""
        reading, found = self._read(pictures), {}
        for attribute, (head, words) in _WORDS.items():
            shares = reading.scores[head].softmax(1)
            columns = [
                shares[:, [i for i, w in enumerate(words) if w == word]].sum(1)
                for word in self.values[attribute]
            ]
            found[attribute] = torch.stack(columns, 1)
        return found

    @torch.no_grad()
    def _read(self, pictures: Tensor) -> Reading:
        return self.model.recognizer(pictures)


def pocket_tools(
    model: PocketModel,
    seed: int,
    steps: int,
    guidance: float,
    batch: int,
    face_filter: bool = True,
    voted: bool = True,
    negative: str = "",
) -> GenerationTools:
    """Everything that makes a dataset on a pocket model."""
    readers = PocketReaders(model)
    book = PocketPrompts(negative)
    table = model.encoder.token_embedding("pocket")
    settings = GenerationSettings(
        model.name,
        {"pocket": fingerprint(table)},
        book.digest,
        readers.name if face_filter else "",
        readers.name if voted else "",
        book.negative,
        seed,
        steps,
        guidance,
        SIZE,
        batch,
    )
    return GenerationTools(
        settings,
        model.sampler(steps, guidance),
        book,
        readers if face_filter else None,
        readers if voted else None,
    )
