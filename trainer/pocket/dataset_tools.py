"""A pocket model as the maker of a data set: its own captions, and its recogniser as the eyes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from apl_core.fit import fingerprint

from ..data.generate import Tools
from ..data.plan import Maker
from ..prompts import SLOT, General
from ..readers.dataset_readers import Seen
from ..readers.descriptions import NO
from .captions import anonymous_subject, dress, extras_of, things_words
from .model import PocketModel
from .recognizer import Reading
from .render import SIZE, random_scene, random_things
from .world import ATTRIBUTES, random_looks

_UNSAID = ""
_WORDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "gender": ("gender", ATTRIBUTES["gender"]),
    "hair_length": ("style", ("short", "short", "long", _UNSAID, _UNSAID, _UNSAID)),
    "hair_colour": ("hair", ATTRIBUTES["hair"]),
    "glasses": ("glasses", (NO, "yes", "yes")),
    "beard": ("beard", (NO, "moustache", "beard", "beard")),
}
"""Which of the recogniser's heads tells an attribute, and the word for each of its classes."""


@dataclass(frozen=True)
class PocketBook:
    """Prompts as the pocket model learnt them."""

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
class PocketEyes:
    """The recogniser as face reader and attribute reader."""

    model: PocketModel

    @property
    def name(self) -> str:
        """Name for the manifest."""
        return f"recogniser of {self.model.name}"

    @property
    def values(self) -> Mapping[str, Sequence[str]]:
        """Words for what the recogniser tells apart, each once."""
        return {a: tuple(dict.fromkeys(words)) for a, (_, words) in _WORDS.items()}

    def look(self, pictures: Tensor) -> Seen:
        """One face where the recogniser sees an intact one."""
        reading = self._read(pictures)
        return Seen(tuple(int(face) for face in reading.is_face()), reading.embedding)

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
        return self.model.recogniser(pictures)


def pocket_tools(
    model: PocketModel,
    seed: int,
    steps: int,
    guidance: float,
    batch: int,
    face_filter: bool = True,
    voted: bool = True,
    negative: str = "",
) -> Tools:
    """Everything that makes a data set on a pocket model."""
    eyes = PocketEyes(model)
    book = PocketBook(negative)
    table = model.encoder.token_embedding("pocket")
    maker = Maker(
        model.name,
        {"pocket": fingerprint(table)},
        book.digest,
        eyes.name if face_filter else "",
        eyes.name if voted else "",
        book.negative,
        seed,
        steps,
        guidance,
        SIZE,
        batch,
    )
    return Tools(
        maker,
        model.sampler(steps, guidance),
        book,
        eyes if face_filter else None,
        eyes if voted else None,
    )
