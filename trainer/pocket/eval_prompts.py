"""Fixed prompts of the pocket world, and what the recognizer must see in their pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..evaluation.conditions import EvalPrompt
from .captions import TEMPLATES, Extras, describe, things_words
from .recognizer import Reading
from .render import BACKGROUNDS, COLORS, HATS, SHIRTS, THINGS, random_things
from .world import ATTRIBUTES, Person, World

UNKNOWN = -100
"""Label of what a picture does not have; the index that cross-entropy ignores."""


def identity_prompts(
    world: World, people: Sequence[Person], seeds: int, first: int = 0
) -> list[EvalPrompt]:
    """Portraits of people: every other one asks for a shirt, hat or background as well."""
    rng = np.random.default_rng([world.seed, 11, first])
    index = {p.name: i for i, p in enumerate(world.people)}
    questions: list[EvalPrompt] = []
    for person in people:
        for seed in range(seeds):
            words, asked = _surroundings(rng) if seed % 2 else ("", {})
            template = TEMPLATES[seed % len(TEMPLATES)] + words
            asked = asked | {"identity": index[person.name]}
            number = first + len(questions)
            questions.append(EvalPrompt(template, person.name, number, asked, describe(person)))
    return questions


def people_prompts(world: World, count: int, first: int = 50_000) -> list[EvalPrompt]:
    """Name-free people: gender, hair color and background as asked."""
    rng = np.random.default_rng([world.seed, 12, first])
    questions: list[EvalPrompt] = []
    for i in range(count):
        gender, hair = int(rng.integers(2)), int(rng.integers(len(ATTRIBUTES["hair"])))
        background = int(rng.integers(len(BACKGROUNDS)))
        subject = f"a {ATTRIBUTES['gender'][gender]} with {ATTRIBUTES['hair'][hair]} hair"
        words = Extras(background=BACKGROUNDS[background]).phrase()
        asked = {"gender": gender, "hair": hair, "background": background}
        template = str(rng.choice(TEMPLATES[:4])) + words
        questions.append(EvalPrompt(template, subject, first + i, asked))
    return questions


def things_prompts(world: World, count: int, first: int = 70_000) -> list[EvalPrompt]:
    """Scenes of things: each thing, its color and the background as asked."""
    rng = np.random.default_rng([world.seed, 13, first])
    things = random_things(rng, count)
    questions: list[EvalPrompt] = []
    for i in range(count):
        second = things.kind[i, 1] >= 0
        asked = {
            "thing0": int(things.kind[i, 0]),
            "colour0": int(things.color[i, 0]),
            "thing1": int(things.kind[i, 1]) if second else len(THINGS),
            "colour1": int(things.color[i, 1]) if second else len(COLORS),
            "background": int(things.background[i]),
        }
        template = str(rng.choice(TEMPLATES[:2]))
        questions.append(EvalPrompt(template, things_words(things, i), first + i, asked))
    return questions


def _surroundings(rng: np.random.Generator) -> tuple[str, dict[str, int]]:
    hat, shirt = int(rng.integers(1, len(HATS))), int(rng.integers(len(SHIRTS)))
    background = int(rng.integers(len(BACKGROUNDS)))
    way = rng.integers(3)
    if way == 0:
        return Extras(hat=HATS[hat]).phrase(), {"hat": hat}
    if way == 1:
        return Extras(shirt=SHIRTS[shirt]).phrase(), {"shirt": shirt}
    return Extras(background=BACKGROUNDS[background]).phrase(), {"background": background}


def correct(reading: Reading, questions: Sequence[EvalPrompt], heads: Sequence[str]) -> Tensor:
    """Which of the asked classes were drawn: (B, heads) of 0, 1, or NaN where nothing was asked."""
    columns: list[Tensor] = []
    for head in heads:
        asked = torch.tensor([q.asked.get(head, UNKNOWN) for q in questions])
        right = (reading.top(head) == asked).float()
        columns.append(torch.where(asked == UNKNOWN, torch.nan, right))
    return torch.stack(columns, 1)
