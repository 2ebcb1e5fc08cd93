"""Examples of the pocket world for learning a prefix, and the names kept apart for choosing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import torch

from apl_core.example_kinds import Kind, Target
from apl_core.objective import Example
from apl_core.training.lessons import ANOTHER, NameLessons
from apl_core.training.people import ListedPerson

from ..word_swap import other_gender
from .captions import (
    anonymous_subject,
    describe,
    dress,
    extras_of,
    filler,
    some_fillers,
    things_words,
)
from .model import WorldModel
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

_TWO = 0.6  # scenes of two things, the harder ones; of the model's captions it is a third


def training_people(people: Sequence[Person]) -> tuple[list[Person], list[Person]]:
    """People in two: who the prefix learns from, and the eighth that decides which step is kept."""
    kept = max(len(people) // 8, 1)
    return list(people[kept:]), list(people[:kept])


class PocketSource:
    """Draws pictures of train people, of nobody in particular, and of things.

    Names are varied by the core's `NameLessons`, as on every model; this world brings pictures, and
    captions in the words that its model knows. Name-free examples bring their prompt with another
    gender or another thing, mostly one that looks like it.
    """

    def __init__(
        self, model: WorldModel, people: Sequence[Person], target: Target, vectors: int
    ) -> None:
        listed = [ListedPerson(person.name, describe(person)) for person in people]
        self.lessons = NameLessons.of(listed, target, model.encoder, vectors)
        self._person = dict(zip(listed, people, strict=True))

    def draw(self, kind: Kind, count: int, random: torch.Generator) -> list[Example]:
        """Some examples of a kind, decided by the generator's state alone."""
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=random)))
        if kind == "things":
            return self._things(count, rng)
        return self._faces(kind, count, rng)

    def _things(self, count: int, rng: np.random.Generator) -> list[Example]:
        things, shown = random_things(rng, count, _TWO), random_things(rng, count, _TWO)
        shown = shown.where(rng.random(count) < ANOTHER["things"], things)
        latents = _latents(draw_things(shown, rng))
        others = _one_changed(things, rng)
        examples: list[Example] = []
        for i in range(count):
            words = [things_words(t, i) for t in (things, others)]
            template = self.lessons.after(some_fillers(rng), dress("{}", rng), words)
            text, swapped = (template.format(word) for word in words)
            examples.append(Example("things", latents[i], text, text, swapped))
        return examples

    def _faces(self, kind: Kind, count: int, rng: np.random.Generator) -> list[Example]:
        scene = random_scene(rng, count)
        look, offsets = random_looks(rng, count)
        shown = look.copy()
        other = rng.random(count) < ANOTHER[kind]
        shown[other], offsets[other] = random_looks(rng, int(other.sum()))
        random = Random(int(rng.integers(2**62)))
        texts: list[tuple[str, str, str]] = []
        for i in range(count):
            frame = dress("{}", rng) + extras_of(scene, i, rng).phrase()
            if kind == "people":
                words = anonymous_subject(look[i], rng)
                text = self.lessons.after(some_fillers(rng), frame, [words]).format(words)
                swapped = text.replace(words, other_gender(words))
                texts.append((text, text, swapped if swapped != text else ""))
                continue
            subject = self.lessons.subject(random)
            person = self._person[subject.person]
            if not other[i]:
                shown[i], offsets[i] = person.look, person.offsets
            placed = self.lessons.place(frame, subject, lambda: filler(rng), random)
            texts.append((*placed, ""))
        latents = _latents(draw_faces(shown, offsets, scene))
        return [Example(kind, latents[i], *texts[i]) for i in range(count)]


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
