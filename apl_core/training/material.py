"""Pictures to learn on, and the examples that they give: the same rules in every host.

A host brings latents of the pictures and an encoder. Pictures are dear and texts are not: the
target is what the frozen model predicts, so that every latent is used with many texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from ..captions import Names
from ..errors import ConfigError
from ..example_kinds import KINDS, PERSON, Kind
from ..objective import Example
from .grammar import FRAMES, FreePrompt, Grammar
from .lessons import ANOTHER, NameLessons, Subject, pick
from .people import ListedPerson, kept_for_validation

LEAST_NAMES = 4
"""Of fewer names nothing that holds for others can be learned."""

MOST_FREE = 128
"""The most pictures of things, and of people without a name, that a model draws for a run."""

OWN = 0.5
"""Prompts out of a user's own captions, where there are some, instead of the grammar's."""

KEPT_NAMED, KEPT_FREE = 24, 24
"""Name prompts, and name-free prompts of each kind, that a prefix is validated on at most."""


@dataclass(frozen=True)
class Picture:
    """A picture to learn on: its kind, its text, and who is named in it.

    `neutral` is what its text is drawn to where the person has no description of their own;
    `contrast` is a name-free text with a word swapped. `own` says whether the text is a user's:
    then it is learned as well, beside the grammar's.
    """

    kind: Kind
    text: str
    person: ListedPerson | None = None
    neutral: str = ""
    contrast: str = ""
    own: bool = False

    @property
    def frame(self) -> str:
        """The text with "{}" in the place of the name; "" if the name does not stand there once."""
        if self.person is None or "{}" in self.text:
            return ""
        framed = Names([self.person.name]).replaced(self.text, "{}")
        return framed if framed.count("{}") == 1 else ""


def pictures_to_draw(
    people: Sequence[ListedPerson],
    per_name: int,
    seed: int,
    own: Mapping[Kind, Sequence[str]] | None = None,
) -> list[Picture]:
    """What a model draws for a run: names that are learned, and as many people and things.

    Names kept for validation are not drawn. `own` are a user's name-free prompts, drawn first.
    ConfigError for too few names.
    """
    if len(people) < LEAST_NAMES:
        raise ConfigError(
            "learn from names",
            f"there {'is' if len(people) == 1 else 'are'} {len(people)}",
            f"give {LEAST_NAMES} or more; the more, the better it holds for others",
        )
    learned, _ = kept_for_validation(people)
    found: list[Picture] = []
    for person in learned:
        for number in range(per_name):
            text = FRAMES[number % len(FRAMES)].replace("{}", person.name)
            found.append(Picture("identity", text, person))
    grammar, random = Grammar(one.name for one in people), Random(f"pictures {seed}")
    count = min(len(found), MOST_FREE)
    for kind in KINDS[1:]:
        given = [Picture(kind, text, own=True) for text in (own or {}).get(kind, ())]
        made = [free_prompt(grammar, kind, random) for _ in range(count - len(given))]
        found += [*given, *(Picture(kind, one.text, contrast=one.contrast) for one in made)]
    return found


def free_prompt(grammar: Grammar, kind: Kind, random: Random) -> FreePrompt:
    """A name-free prompt of a kind."""
    return grammar.things(random) if kind == "things" else grammar.people(random)


@dataclass(frozen=True)
class Material:
    """Pictures with their latents (C, H, W), by place."""

    pictures: Sequence[Picture]
    latent: Callable[[int], Tensor]

    def of(self, kind: Kind) -> list[int]:
        """Where pictures of a kind are."""
        return [i for i, picture in enumerate(self.pictures) if picture.kind == kind]


class LatentSource:
    """Examples out of pictures: names varied as `NameLessons` does, name-free prompts by a grammar.

    `places` are the pictures to learn on, all if it is None. Texts of `without` are left out, and
    captions that name more of `people` than the picture's own person are no frames for names.
    """

    def __init__(
        self,
        material: Material,
        lessons: NameLessons,
        people: Sequence[ListedPerson],
        places: Iterable[int] | None = None,
        without: frozenset[str] = frozenset(),
    ) -> None:
        self.material, self.lessons, self.without = material, lessons, without
        self.grammar = Grammar(one.name for one in people)
        chosen = range(len(material.pictures)) if places is None else places
        self._places: dict[Kind, list[int]] = {kind: [] for kind in KINDS}
        self._of: dict[ListedPerson, list[int]] = {}
        for place in chosen:
            picture = material.pictures[place]
            self._places[picture.kind].append(place)
            if picture.person is not None:
                self._of.setdefault(picture.person, []).append(place)
        everybody = Names(one.name for one in people)
        self._frames = {
            place: frame
            for place in self._places["identity"]
            if material.pictures[place].own
            and (frame := material.pictures[place].frame)
            and not everybody.find(frame)
        }
        self._own = {
            kind: [place for place in places if material.pictures[place].own]
            for kind, places in self._places.items()
        }

    def draw(self, kind: Kind, count: int, random: torch.Generator) -> list[Example]:
        """Some examples of a kind, decided by the generator's state alone."""
        own = Random(int(torch.randint(2**62, (1,), generator=random)))
        if kind == "identity":
            return [self._named(own) for _ in range(count)]
        return [self._free(kind, own) for _ in range(count)]

    def _named(self, random: Random) -> Example:
        lessons = self.lessons
        subject = lessons.subject(random)
        faces = self._places["people"] or self._places["identity"]
        shown = self._of.get(subject.person) or self._places["identity"] or faces
        place = pick(shown, random)
        given = self.material.pictures[place]
        latent = pick(faces, random) if random.random() < ANOTHER["identity"] else place
        frame = self._frames.get(place) if random.random() < OWN else None
        if lessons.target == "description" and not subject.neutral:
            return Example("identity", self.material.latent(latent), given.text, given.neutral)
        texts = lessons.place(
            frame or pick(FRAMES, random), subject, lambda: self.grammar.filler(random), random
        )
        return Example("identity", self.material.latent(latent), *texts)

    def _free(self, kind: Kind, random: Random) -> Example:
        places = self._places[kind]
        place = pick(places, random)
        prompt = self._given(place)
        if random.random() < ANOTHER[kind] or prompt.text in self.without:
            prompt = self._prompt(kind, random)
        return Example(kind, self.material.latent(place), prompt.text, prompt.text, prompt.contrast)

    def _given(self, place: int) -> FreePrompt:
        picture = self.material.pictures[place]
        return FreePrompt(picture.text, picture.contrast)

    def _prompt(self, kind: Kind, random: Random) -> FreePrompt:
        """A name-free prompt: one of the user's or the grammar's, none that is kept apart."""
        if self._own[kind] and random.random() < OWN:
            given = self._given(pick(self._own[kind], random))
            if given.text not in self.without:
                return given
        while (found := free_prompt(self.grammar, kind, random)).text in self.without:
            pass
        return found


@dataclass(frozen=True)
class Split:
    """Pictures to learn on by their place, and examples to validate on."""

    places: Sequence[int]
    validation: Sequence[Example]

    @property
    def texts(self) -> frozenset[str]:
        """Texts that nothing is learned from."""
        return frozenset(example.prompt for example in self.validation)


def split(
    material: Material, people: Sequence[ListedPerson], lessons: NameLessons, seed: int
) -> Split:
    """Keep an eighth of names and of name-free pictures for validation, of few names nothing.

    Kept names are asked for on latents of people without a name, as they are met while a picture is
    drawn under the prefix. Name-free prompts, the grammar's and a user's kept ones, are asked for
    on latents that show something else, so that the words decide.
    """
    _, kept = kept_for_validation(people)
    pictures = material.pictures
    learned = [i for i in material.of("identity") if pictures[i].person not in kept]
    if not kept or not learned:
        return Split(range(len(pictures)), ())
    random, grammar = Random(f"validation {seed}"), Grammar(one.name for one in people)
    examples: list[Example] = []
    spared: dict[Kind, list[int]] = {}
    for kind in KINDS[1:]:
        whole = material.of(kind)
        spared[kind] = whole[: kept_free(len(whole))]
        learned += whole[len(spared[kind]) :]
        if not whole:
            continue
        texts = [free_prompt(grammar, kind, random) for _ in range(KEPT_FREE)]
        own = [pictures[i] for i in spared[kind] if pictures[i].own]
        texts = [*(FreePrompt(one.text, one.contrast) for one in own), *texts][:KEPT_FREE]
        shown = spared[kind] or whole
        for number, one in enumerate(texts):
            latent = material.latent(shown[(number + 1) % len(shown)])
            examples.append(Example(kind, latent, one.text, one.text, one.contrast))
    faces = spared["people"] or material.of("people") or learned
    named = _kept_prompts(material, kept, lessons)[:KEPT_NAMED]
    examples += [
        Example("identity", material.latent(faces[i % len(faces)]), *texts)
        for i, texts in enumerate(named)
    ]
    return Split(sorted(learned), tuple(examples))


def kept_free(count: int) -> int:
    """How many of `count` name-free pictures of a kind are kept: an eighth, two or more of four."""
    return max(count // 8, 2) if count >= 4 else 0


def _kept_prompts(
    material: Material, kept: Sequence[ListedPerson], lessons: NameLessons
) -> list[tuple[str, str]]:
    """(prompt, neutral prompt) of names that are kept, person by person in turn."""
    own = [p for p in material.pictures if p.person in kept and p.neutral]
    if lessons.target == "description" and own:
        return [(picture.text, picture.neutral) for picture in own]
    found: list[tuple[str, str]] = []
    for number in range(-(-KEPT_NAMED // len(kept))):
        for person in kept:
            neutral = person.description if lessons.target == "description" else PERSON
            subject = Subject(person, person.name, neutral)
            found.append(lessons.plain(FRAMES[number % len(FRAMES)], subject))
    return found


def refuse_names(what: str, lines: Sequence[str], people: Sequence[ListedPerson]) -> None:
    """ConfigError for prompts that the prefix learns to leave alone and that name somebody."""
    everybody = Names(person.name for person in people)
    if named := [(line, found) for line in lines for found in everybody.find(line)[:1]]:
        fix = "take the line or the name out of its list"
        raise ConfigError.of(
            f"read the prompts of {what}",
            [
                ConfigError(f"use {line!r}", f"it names {found.name!r}", fix)
                for line, found in named
            ],
        )
