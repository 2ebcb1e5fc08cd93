"""The pocket world: made-up people with known looks, and how they are split into groups."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from apl_core.texts import read_text

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "gender": ("man", "woman"),
    "skin": ("pale", "light", "tan", "brown", "dark"),
    "hair": ("black", "brown", "blonde", "red", "grey", "blue"),
    "style": ("short", "spiky", "long", "bob", "bun", "curly"),
    "face": ("round", "oval", "square", "narrow"),
    "eyes": ("brown", "blue", "green", "grey"),
    "spacing": ("close", "medium", "wide"),
    "brow": ("flat", "arched", "thick", "slanted"),
    "mouth": ("smiling", "straight", "open", "small"),
    "nose": ("dot", "line", "wide", "pointed"),
    "glasses": ("none", "round", "square"),
    "beard": ("none", "moustache", "full", "goatee"),
}
"""Discrete traits of a face and their values, in the order in which `Person.look` lists them."""

OFFSETS = 4
"""Continuous traits in [-1, 1]: eye size, eye height, mouth height, head width."""

SPLITS = {"train": 128, "heldout": 64, "personal": 16}
"""People per group: the prefix learns from `train`; the pocket model never saw `personal`."""

_MIN_DIFFERENCE = 4
_COLUMNS = list(ATTRIBUTES)
_GENDER, _BEARD = _COLUMNS.index("gender"), _COLUMNS.index("beard")


@dataclass(frozen=True)
class Person:
    """One made-up person: a two-word name, an index per attribute and four offsets."""

    name: str
    look: tuple[int, ...]
    offsets: tuple[float, ...]
    split: str

    def trait(self, attribute: str) -> str:
        """Word for one attribute of this person, such as `trait("hair") == "red"`."""
        return ATTRIBUTES[attribute][self.look[_COLUMNS.index(attribute)]]


@dataclass(frozen=True)
class World:
    """All people of one world, in a fixed order; the seed that made them names the world."""

    seed: int
    people: tuple[Person, ...]

    def group(self, split: str) -> tuple[Person, ...]:
        """People of one split: `train`, `heldout` or `personal`."""
        return tuple(p for p in self.people if p.split == split)

    def save(self, path: Path) -> None:
        """Write the world as JSON."""
        rows = [[p.name, p.split, list(p.look), list(p.offsets)] for p in self.people]
        lines = ",\n".join(json.dumps(row) for row in rows)
        path.write_text(f'{{"seed": {self.seed}, "people": [\n{lines}\n]}}\n', encoding="utf-8")

    @staticmethod
    def load(path: Path) -> World:
        """Read a world that `save` wrote."""
        raw = json.loads(read_text(path))
        people = (Person(n, tuple(k), tuple(o), s) for n, s, k, o in raw["people"])
        return World(int(raw["seed"]), tuple(people))


def random_looks(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw `count` looks: integer traits (count, 12) and offsets (count, 4) in [-1, 1]."""
    sizes = [len(v) for v in ATTRIBUTES.values()]
    look = np.stack([rng.integers(0, n, count) for n in sizes], axis=1)
    look[look[:, _GENDER] == 1, _BEARD] = 0
    return look, rng.uniform(-1, 1, (count, OFFSETS)).astype(np.float32)


def make_world(seed: int, splits: dict[str, int] | None = None) -> World:
    """Invent a world: people who differ pairwise in at least four traits, with unique names."""
    splits = SPLITS if splits is None else splits
    rng = np.random.default_rng([seed, 1])
    total = sum(splits.values())
    looks: list[np.ndarray] = []
    while len(looks) < total:
        look = random_looks(rng, 1)[0][0]
        if all((look != other).sum() >= _MIN_DIFFERENCE for other in looks):
            looks.append(look)
    offsets = random_looks(rng, total)[1].round(3)
    names = _names(rng, total)
    groups = [split for split, n in splits.items() for _ in range(n)]
    people = (
        Person(name, tuple(int(i) for i in look), tuple(float(o) for o in off), split)
        for name, look, off, split in zip(names, looks, offsets, groups, strict=True)
    )
    return World(seed, tuple(people))


_ONSETS = [
    "b",
    "br",
    "d",
    "dr",
    "f",
    "g",
    "gl",
    "h",
    "j",
    "k",
    "kr",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "z",
]
_VOWELS = ["a", "e", "i", "o", "u", "ai", "ei", "ou"]
_CODAS = ["n", "l", "r", "s", "m", "x", "th", "nd", "rk", "lt"]
_ENDINGS = ["a", "o", "en", "is", "ar", "el", "in", "us"]


def _words(rng: np.random.Generator, count: int, taken: set[str], surname: bool) -> list[str]:
    def pick(options: Sequence[str]) -> str:
        return str(rng.choice(list(options)))

    words: list[str] = []
    while len(words) < count:
        word = pick(_ONSETS) + pick(_VOWELS) + pick(_ONSETS)
        word += pick(_VOWELS) + pick(_CODAS) if surname else pick(_ENDINGS)
        if word not in taken and len(word) >= 4:
            taken.add(word)
            words.append(word.capitalize())
    return words


def invented_names(seed: int, count: int) -> list[str]:
    """More made-up names than anybody bears, so that a vocabulary does not memorise the world's."""
    return _names(np.random.default_rng([seed, 9]), count)


def _names(rng: np.random.Generator, count: int) -> list[str]:
    taken: set[str] = set()
    first = _words(rng, count // 2, taken, surname=False)
    last = _words(rng, count, taken, surname=True)
    return [f"{first[rng.integers(len(first))]} {surname}" for surname in last]
