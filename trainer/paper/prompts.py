"""Prompts that people really type: names misspelt, doubled, far back, in other letters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..pocket.captions import FILLERS
from ..pocket.world import Person
from ..sampling import Request

_CYRILLIC = dict(
    zip("abdefghiklmnoprstuvxzj", "абдефгхиклмнопрстувхзй", strict=True)
)  # letters that sound alike; the pocket's tokenizer reads them byte by byte
_ACCENTS = str.maketrans("aeiou", "áéíóú")


@dataclass(frozen=True)
class Named:
    """A prompt that names somebody, or two people, and the seed of its picture."""

    prompt: str
    seed: int
    who: str
    other: str | None = None

    def request(self) -> Request:
        """The picture to make."""
        return Request(self.prompt, self.seed)


def typo(name: str, rng: np.random.Generator) -> str:
    """The name with two letters of its surname swapped, or one left out."""
    first, last = name.split(" ", 1)
    place = int(rng.integers(1, len(last) - 1))
    if rng.random() < 0.5 or last[place] == last[place - 1]:
        return f"{first} {last[:place]}{last[place + 1 :]}"
    return f"{first} {last[: place - 1]}{last[place]}{last[place - 1]}{last[place + 1 :]}"


def cyrillic(name: str) -> str:
    """The name in Cyrillic letters, as far as they are known."""
    return "".join(_CYRILLIC.get(letter, letter) for letter in name.lower())


def far_back(subject: str, tokenise: Callable[[str], Sequence[int]], least: int = 76) -> str:
    """A prompt of filler words that is so long that the subject stands in the second chunk.

    `least` tokens stand before it: by default more than one chunk holds, with or without a prefix.
    """
    words: list[str] = []
    while len(tokenise(", ".join([*words, ""]))) < least:
        words.append(FILLERS[len(words) % len(FILLERS)])
    return ", ".join([*words, f"a portrait of {subject}"])


_LATE = 36
"""Tokens before a name that stands late in the first chunk. With more than 29 vectors beside it a
long name no longer fits and ends in the second chunk: then this kind does not test its place."""

VARIATIONS = (
    "portrait", "scene", "lower case", "typo", "accents", "twice", "weights", "late", "far back",
    "two people", "cyrillic",
)  # fmt: skip


def variation(kind: str, people: Sequence[Person], seeds: int, first: int,
              tokenise: Callable[[str], Sequence[int]]) -> list[Named]:  # fmt: skip
    """One kind of prompt about everybody of a group, `seeds` pictures each from seed `first` on."""
    rng = np.random.default_rng([len(kind), first])
    found: list[Named] = []
    for i, person in enumerate(people):
        name = person.name
        other = people[(i + 1) % len(people)].name
        text = {
            "portrait": f"a close-up portrait of {name}",
            "scene": f"{name} wearing a red hat in front of a blue background",
            "lower case": name.lower(),
            "typo": f"a photo of {typo(name, rng)}",
            "accents": f"a photo of {name.translate(_ACCENTS)}",
            "twice": f"{name}, a photo of {name}",
            "weights": f"a photo of ({name}:1.3), (sharp focus:1.1)",
            "late": far_back(name, tokenise, _LATE),
            "far back": far_back(name, tokenise),
            "two people": f"a photo of {name} and {other}",
            "cyrillic": f"a photo of {cyrillic(name)}",
        }[kind]
        second = other if kind == "two people" else None
        for seed in range(seeds):
            found.append(Named(text, first + len(people) * seed + i, name, second))
    return found
