"""Examples of the pocket world for learning a prefix, and the names kept apart for choosing."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from apl_core.example_kinds import PERSON, Kind, Target
from apl_core.objective import Example
from apl_core.tokens import room

from ..word_swap import other_gender
from .captions import (
    anonymous_subject,
    describe,
    dress,
    extras_of,
    fillers,
    some_fillers,
    things_words,
    twice,
)
from .model import PocketModel
from .networks import to_latents
from .render import (
    THINGS,
    Things,
    draw_faces,
    draw_things,
    random_scene,
    random_things,
    thing_distances,
)
from .world import Person, random_looks

_MIXED = 0.3
_TWICE, _PAIR = 0.1, 0.1  # identity prompts that say the name again, and that name two people
_FILLED, _MOST = 0.7, 19  # identity prompts that begin with filler words, and the most of them
_LAST = 0.5  # of those, prompts with nothing behind the name
_TWO = 0.6  # scenes of two things, the harder ones; of the model's captions it is a third
_ANOTHER = {"identity": 0.5, "things": 0.75, "people": 1.0}  # where only the words say what it is


def training_people(people: Sequence[Person]) -> tuple[list[Person], list[Person]]:
    """People in two: who the prefix learns from, and the eighth that decides which step is kept."""
    kept = max(len(people) // 8, 1)
    return list(people[kept:]), list(people[:kept])


class PocketSource:
    """Draws pictures of train people, of nobody in particular, and of things.

    Half of the identity latents show another face than the name's, as they do while a picture is
    sampled under the prefix; three quarters of those of things another scene than the caption's and
    all of people another face, so that the words alone say what to draw. Name-free examples bring
    their prompt with another gender or another thing, mostly one that looks like it. Six in ten
    identity prompts bear names mixed from two people's, by words or by parts of words, so that
    names nobody listed count too; one in ten says the name twice, one in ten names two people; what
    they are drawn to names one person once, as a picture of this world shows one. Seven identity
    prompts in ten begin with filler words, up to the end of the chunk, and half of those end with
    the name: the later a name stands, the harder it is to cover. Of the others it is four, as in
    the model's captions.
    """

    def __init__(
        self, model: PocketModel, people: list[Person], target: Target, vectors: int
    ) -> None:
        self.model, self.people, self.target = model, people, target
        self._room = room(vectors)

    def draw(self, kind: Kind, count: int, random: torch.Generator) -> list[Example]:
        """Some examples of a kind, decided by the generator's state alone."""
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=random)))
        if kind == "things":
            return self._things(count, rng)
        return self._faces(kind, count, rng)

    def _things(self, count: int, rng: np.random.Generator) -> list[Example]:
        things, shown = random_things(rng, count, _TWO), random_things(rng, count, _TWO)
        shown = shown.where(rng.random(count) < _ANOTHER["things"], things)
        latents = _latents(draw_things(shown, rng))
        others = _one_changed(things, rng)
        examples: list[Example] = []
        for i in range(count):
            words = [things_words(t, i) for t in (things, others)]
            template = self._after(some_fillers(rng), dress("{}", rng), words)
            text, swapped = (template.format(word) for word in words)
            examples.append(Example("things", latents[i], text, text, swapped))
        return examples

    def _faces(self, kind: Kind, count: int, rng: np.random.Generator) -> list[Example]:
        scene = random_scene(rng, count)
        look, offsets = random_looks(rng, count)
        shown = look.copy()
        other = rng.random(count) < _ANOTHER[kind]
        shown[other], offsets[other] = random_looks(rng, int(other.sum()))
        texts: list[tuple[str, str, str]] = []
        for i in range(count):
            extras = extras_of(scene, i, rng).phrase()
            template = dress("{}", rng)
            if kind == "people":
                subject = neutral = anonymous_subject(look[i], rng)
            else:
                person = self.people[rng.integers(len(self.people))]
                subject, neutral = self._subject(person, rng)
                if not other[i]:
                    shown[i], offsets[i] = person.look, person.offsets
            before = _many_fillers(rng) if kind == "identity" else some_fillers(rng)
            if kind == "identity" and before and rng.random() < _LAST:
                extras = ""
            text = self._after(before, template + extras, [subject, neutral])
            empty = kind == "identity" and self.target == "empty"
            target = "" if empty else text.format(neutral)
            contrast = text.format(other_gender(neutral)) if kind == "people" else ""
            texts.append((text.format(subject), target, contrast if contrast != target else ""))
        latents = _latents(draw_faces(shown, offsets, scene))
        return [Example(kind, latents[i], *texts[i]) for i in range(count)]

    def _subject(self, person: Person, rng: np.random.Generator) -> tuple[str, str]:
        name, neutral = self._named(person, rng)
        roll = rng.random()
        if roll < _TWICE:
            return twice(name), neutral
        if roll < _TWICE + _PAIR:
            other = self._named(self.people[rng.integers(len(self.people))], rng)
            return f"{name} and {other[0]}", neutral
        return name, neutral

    def _named(self, person: Person, rng: np.random.Generator) -> tuple[str, str]:
        other = self.people[rng.integers(len(self.people))]
        words = list(zip(person.name.split(), other.name.split(), strict=True))
        roll = rng.random()
        if roll < _MIXED:
            name = f"{words[0][0]} {words[1][1]}"
        elif roll < 2 * _MIXED:
            name = " ".join(a[: len(a) // 2] + b[len(b) // 2 :] for a, b in words)
        else:
            name = person.name
        return name, describe(person) if self.target == "description" else PERSON

    def _after(self, before: list[str], text: str, words: Sequence[str]) -> str:
        """The text after as many fillers as one chunk holds with each of `words` in its braces."""
        tower = self.model.encoder.towers[0]

        def whole(dropped: int) -> str:
            return ", ".join([*before[dropped:], text])

        def fits(dropped: int) -> bool:
            template = whole(dropped)
            longest = max(len(tower.tokenize(template.format(word))) for word in {*words})
            return longest <= self._room

        return whole(bisect_left(range(len(before)), True, key=fits))


def _many_fillers(rng: np.random.Generator) -> list[str]:
    return fillers(int(rng.integers(1, _MOST + 1)) if rng.random() < _FILLED else 0, rng)


def _one_changed(things: Things, rng: np.random.Generator) -> Things:
    """The same scenes, one thing of each turned into another: mostly one that looks like it.

    Those are taken for each other (a square for a circle, a flower for a tree), and what tells
    them apart is few pixels. Odds go by the inverse square of the difference.
    """
    kinds = things.kind.copy()
    for row in kinds:
        place = int(rng.integers(2)) if row[1] >= 0 else 0
        others = np.setdiff1d(range(len(THINGS)), row)
        odds = thing_distances()[row[place], others] ** -2
        row[place] = rng.choice(others, p=odds / odds.sum())
    return replace(things, kind=kinds)


def _latents(pictures: np.ndarray) -> torch.Tensor:
    return to_latents(torch.from_numpy(pictures).permute(0, 3, 1, 2))
