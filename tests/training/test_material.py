"""Examples out of pictures: every latent is used, nothing that is kept is learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
import torch

from apl_core.captions import Names
from apl_core.errors import ConfigError
from apl_core.example_kinds import KINDS, PERSON, Kind, Target
from apl_core.objective import Example
from apl_core.training.batches import generator
from apl_core.training.grammar import FRAMES
from apl_core.training.lessons import ANOTHER, FILLED, LAST, NameLessons
from apl_core.training.material import (
    KEPT_FREE,
    KEPT_NAMED,
    MOST_FREE,
    OWN,
    LatentSource,
    Material,
    Picture,
    Split,
    kept_free,
    pictures_to_draw,
    refuse_names,
    split,
)
from apl_core.training.people import ListedPerson, kept_for_validation

DRAWS = 3000
"""Enough to meet what is kept, if it was not kept apart."""

PEOPLE = [
    ListedPerson(f"{first} {last}", f"a person with {color} hair")
    for first, last, color in (
        ("Ada", "Byron", "black"),
        ("Marie", "Curie", "gray"),
        *(("Ada", "King", "red"), ("Anne", "Byron", "white")),  # whose mix is the kept Ada Byron
        *(("Grace", "Hopper", "brown"), ("Alan", "Turing", "dark")),
        *((f"Name{i}", f"Surname{i}", "long") for i in range(10)),
    )
]
LEARNED, KEPT = kept_for_validation(PEOPLE)


def near(count: int, share: float, of: int = DRAWS) -> bool:
    """Whether a count is within four standard errors of its share."""
    return abs(count / of - share) <= 4 * (share * (1 - share) / of) ** 0.5


def material(pictures: Sequence[Picture], own: bool = False) -> Material:
    """Latents that say which picture they are of."""
    pictures = [replace(picture, own=own) for picture in pictures]
    return Material(pictures, lambda place: torch.full((1, 1, 1), float(place)))


def captioned() -> list[Picture]:
    """A user's pictures with captions of their own: two of everybody, things, and people."""
    found = [
        Picture("identity", f"{person.name} {where}", person, f"{PERSON} {where}")
        for person in PEOPLE
        for where in ("at the market", "on a ship")
    ]
    for i in range(24):
        found.append(Picture("things", f"a wooden box number {i}"))
        found.append(Picture("people", f"a tall man number {i}", contrast=f"a tall woman {i}"))
    return found


def parts_of(
    given: Material, people: Sequence[ListedPerson] = PEOPLE, target: Target = "person"
) -> tuple[Split, LatentSource]:
    """A run's split and source, as `learner` makes them."""
    learned, kept = kept_for_validation(people)
    lessons = NameLessons(learned, target, str.split, 10, [person.name for person in kept])
    parts = split(given, people, lessons, 0)
    return parts, LatentSource(given, lessons, people, parts.places, parts.texts)


@cache
def drawn(source: LatentSource, kind: Kind, seed: int = 0, count: int = DRAWS) -> list[Example]:
    """Many examples, drawn once."""
    return source.draw(kind, count, generator(seed, "test"))


def shown(example: Example) -> int:
    return int(example.latent)


@pytest.fixture(scope="module")
def plain() -> tuple[Material, Split, LatentSource]:
    """What a model draws for a run."""
    given = material(pictures_to_draw(PEOPLE, 2, 0))
    return given, *parts_of(given)


@pytest.fixture(scope="module")
def own() -> tuple[Material, Split, LatentSource]:
    given = material(captioned(), own=True)
    return given, *parts_of(given)


def test_every_latent_is_used(plain: tuple[Material, Split, LatentSource]) -> None:
    given, parts, source = plain
    learned = {kind: {p for p in parts.places if p in given.of(kind)} for kind in KINDS}
    assert all(len(places) > 20 for places in learned.values())
    for kind in KINDS[1:]:
        assert {shown(e) for e in drawn(source, kind)} == learned[kind]
    assert {shown(e) for e in drawn(source, "identity")} == learned["identity"] | learned["people"]


def test_latents_show_another_in_the_stated_shares() -> None:
    """Of pictures with texts that the grammar does not say."""
    given = material(captioned())
    _, source = parts_of(given)
    named = drawn(source, "identity")
    another = [e for e in named if given.pictures[shown(e)].kind == "people"]
    assert near(len(another), ANOTHER["identity"])
    for kind in KINDS[1:]:
        told = sum(e.prompt != given.pictures[shown(e)].text for e in drawn(source, kind))
        assert near(told, ANOTHER[kind])


def test_a_name_s_own_latent_shows_its_bearer(plain: tuple[Material, Split, LatentSource]) -> None:
    given, _, source = plain
    for example in drawn(source, "identity"):
        picture = given.pictures[shown(example)]
        found = Names(person.name for person in LEARNED).find(example.prompt)
        if picture.person and found and " and " not in example.prompt:
            words = picture.person.name.casefold().split()
            assert any(word in example.prompt.casefold() for word in words)


@pytest.mark.parametrize("which", ["plain", "own"])
def test_what_is_kept_is_never_learned(which: str, request: pytest.FixtureRequest) -> None:
    given, parts, source = request.getfixturevalue(which)
    kept_names = Names(person.name for person in KEPT)
    kept_places = set(range(len(given.pictures))) - set(parts.places)
    assert len(KEPT) == 2 and len(parts.texts) > 60
    for kind in KINDS:
        for example in drawn(source, kind):
            texts = (example.prompt, example.neutral, example.contrast_prompt)
            assert not any(map(kept_names.find, texts)), texts
            assert example.prompt not in parts.texts
            assert shown(example) not in kept_places


def test_kept_names_and_captions_are_validated_on(
    own: tuple[Material, Split, LatentSource],
) -> None:
    given, parts, _ = own
    by_kind = {kind: [e for e in parts.validation if e.kind == kind] for kind in KINDS}
    assert len(by_kind["identity"]) == KEPT_NAMED
    assert len(by_kind["things"]) == len(by_kind["people"]) == KEPT_FREE
    for example, person in zip(by_kind["identity"], KEPT * KEPT_NAMED, strict=False):
        assert example.neutral == example.prompt.replace(person.name, PERSON) != example.prompt
        assert given.pictures[shown(example)].kind == "people"
    for kind in KINDS[1:]:
        spared = [i for i in given.of(kind) if i not in parts.places]
        assert len(spared) == kept_free(24) == 3
        assert {shown(example) for example in by_kind[kind]} == set(spared)
        captions = [given.pictures[i].text for i in spared]
        assert [example.prompt for example in by_kind[kind][:3]] == captions
        for example in by_kind[kind]:  # the words decide: the latent shows another one
            assert example.prompt != given.pictures[shown(example)].text
            assert example.prompt == example.neutral


def test_a_caption_of_several_pictures_is_not_learned_where_it_is_kept() -> None:
    pictures = captioned() + [Picture("things", "a wooden box number 0")] * 12
    given = material(pictures, own=True)
    parts, source = parts_of(given)
    assert "a wooden box number 0" in parts.texts
    texts = {example.prompt for example in drawn(source, "things")}
    assert not texts & parts.texts and "a wooden box number 20" in texts


def test_a_caption_that_names_somebody_else_is_no_frame() -> None:
    """A person with Ada Byron would be drawn as Ada Byron, whom this run has to anonymize."""
    person = LEARNED[0]
    pictures = [
        Picture("identity", f"{person.name} hugging {KEPT[0].name}", person),
        Picture("identity", f"{person.name} hugging {LEARNED[5].name}", person),
        *captioned(),
    ]
    _, source = parts_of(material(pictures, own=True))
    assert not any("hugging" in example.prompt for example in drawn(source, "identity"))


def test_own_captions_come_in_half_of_the_time(own: tuple[Material, Split, LatentSource]) -> None:
    given, _, source = own
    named = drawn(source, "identity")
    tails = sum("market" in e.prompt or "ship" in e.prompt for e in named)
    assert near(tails, OWN * (1 - FILLED * LAST))  # the others are cut behind the name
    captions = {picture.text for picture in given.pictures}
    for kind in KINDS[1:]:
        mine = sum(example.prompt in captions for example in drawn(source, kind))
        assert near(mine, 1 - ANOTHER[kind] + ANOTHER[kind] * OWN)


@pytest.mark.parametrize("which", ["plain", "own"])
def test_a_contrast_is_another_prompt(which: str, request: pytest.FixtureRequest) -> None:
    _, parts, source = request.getfixturevalue(which)
    free = [*drawn(source, "things"), *drawn(source, "people"), *parts.validation]
    contrasts = [e for e in free if e.contrast_prompt]
    assert len(contrasts) > len(free) // 4
    assert all(e.contrast_prompt != e.prompt for e in contrasts)
    assert not any(e.contrast_prompt for e in drawn(source, "identity"))


def test_the_same_seed_gives_the_same_texts(plain: tuple[Material, Split, LatentSource]) -> None:
    given, parts, source = plain
    again, same = parts_of(given)
    assert [e.prompt for e in again.validation] == [e.prompt for e in parts.validation]
    for kind in KINDS:
        one, two, other = (
            [
                (e.prompt, e.neutral, e.contrast_prompt, shown(e))
                for e in drawn(which, kind, seed, 300)
            ]
            for which, seed in ((source, 0), (same, 0), (source, 1))
        )
        assert one == two != other
        assert len({prompt for prompt, *_ in one}) > 100, "few texts for many pictures"


def test_descriptions_are_what_names_are_drawn_to() -> None:
    given = material(pictures_to_draw(PEOPLE, 2, 0))
    parts, source = parts_of(given, target="description")
    for example in [*drawn(source, "identity", count=500), *parts.validation[-KEPT_NAMED:]]:
        assert example.kind == "identity" and " hair" in example.neutral
        assert not Names(person.name for person in PEOPLE).find(example.neutral)


def test_people_without_a_description_are_learned_by_their_pictures_own_texts() -> None:
    people = [ListedPerson(person.name) for person in PEOPLE]
    pictures = [
        Picture("identity", f"{one.name} at sea", one, f"a man with hair {i} at sea")
        for i, one in enumerate(people)
    ]
    given = material([*pictures, *captioned()[2 * len(PEOPLE) :]], own=True)
    parts, source = parts_of(given, people, "description")
    pairs = {picture.text: picture.neutral for picture in pictures}
    assert {pairs[e.prompt] == e.neutral for e in drawn(source, "identity", count=500)} == {True}
    named = [e for e in parts.validation if e.kind == "identity"]
    assert {e.prompt for e in named} == {pictures[0].text, pictures[1].text}
    assert all(pairs[e.prompt] == e.neutral for e in named)


def test_few_names_keep_nothing() -> None:
    few = PEOPLE[:4]
    given = material(pictures_to_draw(few, 3, 0))
    parts, source = parts_of(given, few)
    assert list(parts.places) == list(range(len(given.pictures))) and not parts.validation
    found = {shown(e) for e in drawn(source, "identity", count=800)}
    assert found == {*range(12), *given.of("people")}


def test_a_model_draws_learned_names_and_as_many_people_and_things() -> None:
    pictures = pictures_to_draw(PEOPLE, 4, 0)
    by_kind = {kind: [p for p in pictures if p.kind == kind] for kind in KINDS}
    assert [len(by_kind[kind]) for kind in KINDS] == [4 * len(LEARNED)] * 3
    for person in LEARNED:
        texts = [p.text for p in by_kind["identity"] if p.person == person]
        assert texts == [frame.replace("{}", person.name) for frame in FRAMES[:4]]
    everybody = Names(person.name for person in PEOPLE)
    free = [*by_kind["things"], *by_kind["people"]]
    assert not any(everybody.find(text) for p in free for text in (p.text, p.contrast))
    assert not any(Names(p.name for p in KEPT).find(picture.text) for picture in pictures)
    assert pictures_to_draw(PEOPLE, 4, 0) == pictures != pictures_to_draw(PEOPLE, 4, 1)


def test_many_names_need_no_more_people_and_things_and_own_prompts_come_first() -> None:
    many = [ListedPerson(f"First{i} Last{i}") for i in range(64)]
    mine = {"things": [f"a box number {i}" for i in range(5)]}
    pictures = pictures_to_draw(many, 4, 0, mine)  # type: ignore[arg-type]
    things = [p for p in pictures if p.kind == "things"]
    assert len(things) == sum(p.kind == "people" for p in pictures) == MOST_FREE
    assert [p.text for p in things[:5]] == mine["things"] and not things[0].contrast
    more = {"people": [f"a man number {i}" for i in range(300)]}
    drawn_people = [p for p in pictures_to_draw(PEOPLE, 1, 0, more) if p.kind == "people"]  # type: ignore[arg-type]
    assert [p.text for p in drawn_people] == more["people"]


def test_an_eighth_of_the_name_free_pictures_is_kept_and_none_of_few() -> None:
    assert [kept_free(count) for count in (0, 3, 4, 15, 24, 160)] == [0, 0, 2, 2, 3, 20]
    assert all(a <= b for a, b in pairwise(kept_free(count) for count in range(200)))


def test_names_in_a_list_of_name_free_prompts_are_refused_line_by_line() -> None:
    refuse_names("things", ["a red box", "a market at dawn"], PEOPLE)
    with pytest.raises(ConfigError) as told:
        refuse_names("things", ["a red box", "GRACE  HOPPER'S ship", "Alan_Turing"], PEOPLE)
    text = str(told.value)
    assert "prompts of things" in text and "'Grace Hopper'" in text and "'Alan Turing'" in text
    assert "red box" not in text
