"""Prompts that people really type: names misspelled, doubled, far back, in other letters."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from apl_core.tokens import CHUNK, room
from apl_core.training.lessons import twice
from apl_trainer.pocket.captions import FILLERS
from apl_trainer.pocket.world import Person
from apl_trainer.sampling import Request

Tokenize = Callable[[str], Sequence[int]]

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


def far_back(subject: str, tokenize: Tokenize) -> str:
    """A prompt of filler words that is so long that the subject stands in the second chunk.

    More tokens stand before it than one chunk holds, with or without a prefix.
    """
    before = (", ".join([*_fillers(n), ""]) for n in itertools.count())
    return _behind(next(n for n, text in enumerate(before) if len(tokenize(text)) > CHUNK), subject)


def late(subject: str, tokenize: Tokenize, vectors: int) -> str:
    """A prompt that ends in the subject, as late in the first chunk as there is room for it.

    Of the chunk's 75 places `vectors` are the prefix's.
    """
    most = room(vectors)
    longer = (_behind(n, subject) for n in itertools.count(1))
    return _behind(next(n for n, text in enumerate(longer) if len(tokenize(text)) > most), subject)


def _behind(count: int, subject: str) -> str:
    return ", ".join([*_fillers(count), f"a portrait of {subject}"])


def _fillers(count: int) -> list[str]:
    return [FILLERS[i % len(FILLERS)] for i in range(count)]


VARIATIONS = (
    "portrait",
    "scene",
    "lower case",
    "typo",
    "accents",
    "twice",
    "weights",
    "late",
    "far back",
    "two people",
    "cyrillic",
)


def variation(
    kind: str, people: Sequence[Person], seeds: int, first: int, tokenize: Tokenize, vectors: int
) -> list[Named]:
    """One kind of prompt about everybody of a group, `seeds` pictures each from seed `first` on.

    `vectors` are those of the prefix that the prompts are for, with or without it.
    """
    rng = np.random.default_rng([len(kind), first])
    found: list[Named] = []
    for i, person in enumerate(people):
        name = person.name
        other = people[(i + 1) % len(people)].name
        text = _prompt(kind, name, other, rng, tokenize, vectors)
        second = other if kind == "two people" else None
        for seed in range(seeds):
            found.append(Named(text, first + len(people) * seed + i, name, second))
    return found


def _prompt(
    kind: str, name: str, other: str, rng: np.random.Generator, tokenize: Tokenize, vectors: int
) -> str:
    make: dict[str, Callable[[], str]] = {
        "portrait": lambda: f"a close-up portrait of {name}",
        "scene": lambda: f"{name} wearing a red hat in front of a blue background",
        "lower case": lambda: name.lower(),
        "typo": lambda: f"a photo of {typo(name, rng)}",
        "accents": lambda: f"a photo of {name.translate(_ACCENTS)}",
        "twice": lambda: twice(name),
        "weights": lambda: f"a photo of ({name}:1.3), (sharp focus:1.1)",
        "late": lambda: late(name, tokenize, vectors),
        "far back": lambda: far_back(name, tokenize),
        "two people": lambda: f"a photo of {name} and {other}",
        "cyrillic": lambda: f"a photo of {cyrillic(name)}",
    }
    return make[kind]()
