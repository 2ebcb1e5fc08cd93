"""Prompts that name nobody, by a grammar of this project's own: things, people, a word swapped.

They are the same for every model. What a prefix must leave alone is learned and measured on them,
and a prompt with one word swapped tells whether a word still means what it means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from math import prod
from random import Random
from typing import NamedTuple, TypeVar

from ..captions import Names
from ..errors import ConfigError
from .grammar_words import FRAMES, MINOR, PLURALS, RULES, WORDS

__all__ = ["FRAMES", "FreePrompt", "Grammar", "count"]

_TRIES = 1000
_WITHIN = 0.8  # the share of swaps among words that look alike; the others are among all of a place
_PLACE = re.compile(r"<([a-z]+)(:s)?>")
_ARTICLE = re.compile(r"\ban? (?=(\w+))")
_VOWEL = re.compile(r"[aeio]|u(?!k|ni|se)|hour")
_T = TypeVar("_T")


@dataclass(frozen=True)
class FreePrompt:
    """A prompt without a name, and the same prompt with one word swapped ("" if there is none)."""

    text: str
    contrast: str = ""


class _Piece(NamedTuple):
    """Part of a text; `place` is a key of WORDS if it can be swapped."""

    words: str
    place: str = ""
    plural: bool = False


class Grammar:
    """Draws name-free prompts: the same texts for the same generator on every version of Python.

    No text holds one of `names`; ConfigError where names leave nothing to say.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = Names(names)

    def things(self, random: Random) -> FreePrompt:
        """Animals, food, vehicles, objects, buildings, landscapes, rooms, streets; nobody."""
        return self._drawn("things", random)

    def people(self, random: Random) -> FreePrompt:
        """A person mostly, sometimes two or more; three in ten say hardly more than "a person"."""
        return self._drawn("people", random)

    def filler(self, random: Random) -> str:
        """Words about a picture that say nothing of its subject."""
        return self._drawn("filler", random).text

    def _drawn(self, rule: str, random: Random) -> FreePrompt:
        for _ in range(_TRIES):
            pieces = list(_pieces(f"<{rule}>", random))
            swappable = [piece for piece in pieces if piece.place]
            prompt = FreePrompt(_text(pieces), _contrast(pieces, random))
            double = len(set(swappable)) < len(swappable)  # "a red box and a red ball", "a cat ..."
            if not double and not any(map(self._names.find, (prompt.text, prompt.contrast))):
                return prompt
        raise ConfigError(
            f"make prompts of {rule} without a name",
            "the names are words of nearly all of them",
            "take names that are everyday words out of the list",
        )


def count() -> tuple[int, int]:
    """How many prompts of things and of people the rules make, without their swaps."""

    @cache
    def made(place: str) -> int:
        found = dict.fromkeys(_choices(place))
        return sum(prod(made(name) for name, _ in _PLACE.findall(line)) for line in found)

    return made("things"), made("people")


@cache
def _groups(place: str) -> tuple[tuple[str, ...], ...]:
    """The words of a place that can be swapped, those that look alike together."""
    return tuple(tuple(group.split(", ")) for group in _parted(WORDS[place]))


@cache
def _choices(place: str) -> tuple[str, ...]:
    """What may stand in a place, the likelier more than once."""
    if place in WORDS:
        return tuple(word for group in _groups(place) for word in group)
    if place in ("bare", "framed"):
        own = "<anyone>" if place == "bare" else "<looks>"
        return tuple(
            frame.replace("{}", "<short>" if own == "<looks>" and "{}'s" in frame else own)
            for frame in FRAMES
        )
    found: list[str] = []
    for line in _parted(RULES[place]):
        times, many, rest = line.partition("x ")
        found += [rest] * int(times) if many and times.isdecimal() else [line]
    return tuple(found)


def _parted(text: str) -> list[str]:
    return [part.strip() for part in text.split("|")]


def _pick(words: tuple[_T, ...], random: Random) -> _T:
    return words[int(random.random() * len(words))]


def _pieces(pattern: str, random: Random) -> Iterator[_Piece]:
    """A pattern with something in each of its places."""
    end = 0
    for at in _PLACE.finditer(pattern):
        yield _Piece(pattern[end : at.start()])
        place, end = at[1], at.end()
        chosen = _pick(_choices(place), random)
        if place in WORDS:
            yield _Piece(chosen, place, at[2] is not None)
        else:
            yield from _pieces(chosen, random)
    yield _Piece(pattern[end:])


def _contrast(pieces: list[_Piece], random: Random) -> str:
    """The text with another word in one place, one that looks alike more often than not."""
    places = tuple(
        i
        for i, piece in enumerate(pieces)
        for _ in range(0 if not piece.place else 1 if piece.place in MINOR else 3)
    )
    if not places:
        return ""
    at = _pick(places, random)
    words, place, _ = pieces[at]
    group = next(group for group in _groups(place) if words in group)
    near = random.random() < _WITHIN and len(group) > 1
    others = tuple(word for word in (group if near else _choices(place)) if word != words)
    swapped = pieces[at]._replace(words=_pick(others, random))
    return _text([*pieces[:at], swapped, *pieces[at + 1 :]])


def _text(pieces: list[_Piece]) -> str:
    """The pieces as one text, with "an" in front of vowels."""
    text = "".join(_plural(piece.words) if piece.plural else piece.words for piece in pieces)
    return _ARTICLE.sub(lambda at: "an " if _VOWEL.match(at[1]) else "a ", text)


def _plural(word: str) -> str:
    if word in PLURALS or word.endswith("fish"):
        return PLURALS.get(word, word)
    if word.endswith("man"):
        return f"{word[:-2]}en"
    if word.endswith("y") and word[-2] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith(("s", "x", "z", "ch", "sh")) else f"{word}s"
