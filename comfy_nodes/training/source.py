"""What a node's texts and pictures teach: names, scenes, people, and the latents that show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from apl_core.captions import Names, tells_of_people
from apl_core.errors import ConfigError
from apl_core.example_kinds import PERSON, Kind, Target
from apl_core.objective import Example
from apl_core.training.people import ListedPerson

TEMPLATES = ("{}", "a photo of {}", "a portrait of {}", "a close-up photo of {}", "{} smiling")
THINGS = """a red house by a lake
a bowl of fruit on a wooden table
a city street at night in the rain
a mountain landscape at sunrise
a cat sleeping on a sofa
a bicycle leaning on a brick wall
a cup of coffee and a book
a sailing boat on the sea
a vase of yellow flowers
an old steam train in a station"""
PEOPLE = """a photo of a woman with red hair
a photo of a man with a short beard
a portrait of an old man with grey hair
a portrait of a young woman with glasses
a smiling woman with curly black hair
a bald man in a blue shirt
a boy playing football
a girl with blonde braids
a woman in a green coat in front of a shop
a man cooking in a kitchen"""


@dataclass(frozen=True)
class CaptionedLatent:
    """A clean latent (C, H, W) with the text of its picture; `person` if it shows a named one."""

    latent: Tensor
    text: str
    person: ListedPerson | None = None


def read_lines(text: str) -> list[str]:
    """The lines that say something."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def nameless(what: str, lines: Sequence[str], people: Sequence[ListedPerson]) -> list[str]:
    """Prompts that the prefix learns to leave alone; ConfigError for those that name somebody."""
    everybody = Names(person.name for person in people)
    named = [(line, found) for line in lines for found in everybody.find(line)[:1]]
    if named:
        fix = "take the line or the name out of its list"
        raise ConfigError.of(
            f"read the prompts of {what}",
            [_fault(line, f"it names {found.name!r}", fix) for line, found in named],
        )
    return list(lines)


def person_in(text: str, people: Sequence[ListedPerson]) -> ListedPerson | None:
    """Whose name stands in the text as whole words, if anybody's; the first one's of several."""
    found = Names(person.name for person in people).find(text)
    return next((one for one in people if found and one.name == found[0].name), None)


def kind_of(text: str, people: Sequence[ListedPerson]) -> Kind:
    """What a given picture shows, by its text: one of these people, somebody, or things."""
    if person_in(text, people):
        return "identity"
    return "people" if tells_of_people(text) else "things"


def neutral(text: str, people: Sequence[ListedPerson], target: Target) -> str:
    """The text that a name prompt is drawn to: nobody of these people stands in it."""
    if target == "empty":
        return ""
    words = {one.name: one.description if target == "description" else PERSON for one in people}
    return Names(words).replaced(text, words)


class LatentSource:
    """Draws examples from latents that were made or read before.

    Half of the identity latents show somebody else, as they do while a picture is sampled under
    the prefix; so do half of the people latents.
    """

    def __init__(
        self,
        shown: Mapping[Kind, Sequence[CaptionedLatent]],
        people: Sequence[ListedPerson],
        target: Target,
    ) -> None:
        self.shown = shown
        texts = {one.text for one in shown["identity"]}
        self._neutral = {text: neutral(text, people, target) for text in texts}

    def draw(self, kind: Kind, count: int, random: torch.Generator) -> list[Example]:
        """Some examples of a kind, decided by the generator's state alone."""
        return [self._one(kind, random) for _ in range(count)]

    def _one(self, kind: Kind, random: torch.Generator) -> Example:
        own = _pick(self.shown[kind], random)
        faces = self.shown["people"]
        other = bool(torch.randint(2, (1,), generator=random))
        latent = own.latent
        if other and kind != "things" and faces:
            latent = _pick(faces, random).latent
        if own.person is None:
            return Example(kind, latent, own.text, own.text)
        return Example(kind, latent, own.text, self._neutral[own.text])


def _pick(shown: Sequence[CaptionedLatent], random: torch.Generator) -> CaptionedLatent:
    return shown[int(torch.randint(len(shown), (1,), generator=random))]


def _fault(what: str, found: str, fix: str) -> ConfigError:
    return ConfigError(f"use {what!r}", found, fix)
