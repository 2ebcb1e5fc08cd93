"""Lessons: how name prompts are varied, the same for every model.

Names that nobody listed count as well, so names are mixed; people repeat a name to have it drawn
for certain, ask for two people, and put a name at the end of a long prompt. Evidence for each share
is in docs/recipe.md.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from ..captions import Names
from ..example_kinds import PERSON, Kind, Target
from ..ports import TextEncoderPort
from ..tokens import room
from .people import ListedPerson

MIXED_WORDS, MIXED_PIECES, MIXED_LETTERS = 0.3, 0.15, 0.15
"""Names put together from two people's: by words, and inside of words by tokens and by letters."""

TWICE, PAIR = 0.1, 0.1
"""Name prompts that say the name again, and that name two people."""

TITLED, LOWER = 0.05, 0.1
"""Names with a title in front, and names in lower case."""

FILLED, MOST_FILLERS = 0.7, 19
"""Name prompts with words of no meaning in front, and the most of them."""

LAST, SECOND_CHUNK = 0.5, 0.05
"""Of those, prompts with nothing behind the name, and prompts with the name in a second chunk."""

ANOTHER: dict[Kind, float] = {"identity": 0.5, "things": 0.75, "people": 1.0}
"""Examples whose latent shows something else than the prompt says, so that the words decide."""

TITLES = ("Dr.", "Professor", "Mr.", "Mrs.", "Sir", "President", "actor", "singer")

Pieces = Callable[[str], Sequence[str]]
"""The tokens of a text as strings."""

T = TypeVar("T")


def pick(options: Sequence[T], random: Random) -> T:
    """One of some options; the same one in every version of Python."""
    return options[int(random.random() * len(options))]


def twice(words: str) -> str:
    """A subject that is said again, as people do who want it drawn for certain."""
    return f"{words}, a photo of {words}"


@dataclass(frozen=True)
class Subject:
    """Who a prompt asks for: a listed person, the words for them, and the words they become."""

    person: ListedPerson
    words: str
    neutral: str


class NameLessons:
    """Varies the names of some people, and places them in a prompt.

    `pieces` are those of the model's first text encoder; a chunk has room for 75 tokens less
    `vectors`. No mixed name is one of `without`: names that are kept for validation.
    """

    def __init__(
        self,
        people: Sequence[ListedPerson],
        target: Target,
        pieces: Pieces,
        vectors: int,
        without: Iterable[str] = (),
    ) -> None:
        self.people, self.target = tuple(people), target
        self._pieces, self._room = pieces, room(vectors)
        self._without = Names(without)

    @staticmethod
    def of(
        people: Sequence[ListedPerson],
        target: Target,
        encoder: TextEncoderPort,
        vectors: int,
        without: Iterable[str] = (),
    ) -> NameLessons:
        """Lessons on the tokens of a model's text encoder."""
        return NameLessons(people, target, encoder.pieces, vectors, without)

    def subject(self, random: Random) -> Subject:
        """Somebody to ask for: a name, a mixed one, one said twice, or two people."""
        person = pick(self.people, random)
        words = self._name(person, random)
        neutral = person.description if self.target == "description" else PERSON
        roll = random.random()
        if roll < TWICE:
            words = twice(words)
        elif roll < TWICE + PAIR:
            words = f"{words} and {self._name(pick(self.people, random), random)}"
        return Subject(person, words, neutral)

    def _name(self, person: ListedPerson, random: Random) -> str:
        roll, name = random.random(), person.name
        if roll < MIXED_WORDS + MIXED_PIECES + MIXED_LETTERS:
            other = pick(self.people, random).name
            parts = self._parts if roll < MIXED_WORDS + MIXED_PIECES else list
            mixed = _mixed(name, other) if roll < MIXED_WORDS else _mixed_inside(name, other, parts)
            name = name if self._without.find(mixed) else mixed
        roll = random.random()
        if roll < TITLED:
            return f"{pick(TITLES, random)} {name}"
        return name.lower() if roll < TITLED + LOWER else name

    def _parts(self, word: str) -> Sequence[str]:
        """Pieces of a word, or its letters where it is one piece or none can be told apart."""
        parts = [part.strip() for part in self._pieces(word)]
        whole = "".join(parts).casefold() == word.casefold()
        return parts if len(parts) > 1 and whole else list(word)

    def place(
        self, frame: str, subject: Subject, fillers: Callable[[], str], random: Random
    ) -> tuple[str, str]:
        """(prompt, neutral prompt) of a subject in a frame with one "{}", often late in its chunk.

        Words of no meaning stand in front of most, as many as one chunk holds; some push the name
        into a second chunk. Where they do, half of the frames lose what stands behind the name.
        """
        before: list[str] = []
        if random.random() < FILLED:
            before = [fillers() for _ in range(1 + int(random.random() * MOST_FILLERS))]
            if random.random() < LAST:
                frame = frame[: frame.index("{}") + 2]
        if before and random.random() < SECOND_CHUNK:
            while len(self._pieces(", ".join(before))) <= self._room:
                before.append(fillers())
            whole = ", ".join([*before, frame])
        else:
            whole = self.after(before, frame, [subject.words, subject.neutral])
        return self.plain(whole, subject)

    def plain(self, frame: str, subject: Subject) -> tuple[str, str]:
        """(prompt, neutral prompt) of a subject in a frame as it is."""
        neutral = "" if self.target == "empty" else frame.replace("{}", subject.neutral)
        return frame.replace("{}", subject.words), neutral

    def after(self, before: Sequence[str], frame: str, words: Sequence[str]) -> str:
        """The frame after as many of the fillers as one chunk holds with each of `words` in it."""

        def whole(dropped: int) -> str:
            return ", ".join([*before[dropped:], frame])

        def fits(dropped: int) -> bool:
            longest = max(len(self._pieces(whole(dropped).replace("{}", word))) for word in words)
            return longest <= self._room

        return whole(bisect_left(range(len(before)), True, key=fits))


def _mixed(name: str, other: str) -> str:
    """The first words of one name and the last of another; halves of names of one word."""
    one, two = name.split(), other.split()
    if len(one) < 2 or len(two) < 2:
        return _halves(list(one[0]), list(two[-1]))
    return " ".join([*one[: len(one) // 2], *two[len(two) // 2 :]])


def _mixed_inside(name: str, other: str, parts: Pieces) -> str:
    """Every word begun as in the one name and ended as in the other."""
    words = zip(name.split(), other.split(), strict=False)
    return " ".join(_halves(parts(one), parts(two)) for one, two in words)


def _halves(one: Sequence[str], two: Sequence[str]) -> str:
    return "".join([*one[: -(-len(one) // 2)], *two[len(two) // 2 :]])
