"""The pocket world: people, renders, captions and vocabulary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apl_trainer.pocket.captions import describe, pad_front
from apl_trainer.pocket.eval_prompts import UNKNOWN
from apl_trainer.pocket.render import draw_faces, draw_things, random_scene, random_things
from apl_trainer.pocket.vocabulary import read_vocabulary, write_vocabulary
from apl_trainer.pocket.world import (
    ATTRIBUTES,
    SPLITS,
    World,
    invented_names,
    make_world,
    random_looks,
)
from benchmarks.pocket_build.dataset import invent

WORLD = make_world(5)


def test_people_are_unique_and_differ_in_at_least_four_traits() -> None:
    looks = np.array([p.look for p in WORLD.people])
    differing = (looks[:, None] != looks[None]).sum(2) + 99 * np.eye(len(looks), dtype=int)
    assert differing.min() >= 4
    assert len({p.name for p in WORLD.people}) == sum(SPLITS.values())


def test_a_seed_always_makes_the_same_world_and_another_one_other_people() -> None:
    assert make_world(5) == WORLD
    assert not {p.name for p in make_world(6).people} & {p.name for p in WORLD.people}


def test_groups_do_not_overlap_and_have_their_sizes() -> None:
    groups = {split: {p.name for p in WORLD.group(split)} for split in SPLITS}
    assert {split: len(names) for split, names in groups.items()} == SPLITS
    assert len(set.union(*groups.values())) == sum(SPLITS.values())


def test_a_world_survives_its_file(tmp_path: Path) -> None:
    WORLD.save(tmp_path / "world.json")
    assert World.load(tmp_path / "world.json") == WORLD


@pytest.mark.parametrize("attribute", list(ATTRIBUTES))
def test_every_trait_shows_in_the_picture(attribute: str) -> None:
    column = list(ATTRIBUTES).index(attribute)
    values = len(ATTRIBUTES[attribute])
    look = np.zeros((values, len(ATTRIBUTES)), np.int64)
    look[:, column] = np.arange(values)
    scene = random_scene(np.random.default_rng(0), 1, hats=0)
    same = type(scene)(*(np.repeat(part, values, 0) for part in vars(scene).values()))
    pictures = draw_faces(look, np.zeros((values, 4), np.float32), same)
    for one in range(values):
        for other in range(one):
            assert np.abs(pictures[one] - pictures[other]).max() > 0.05


def test_a_face_does_not_depend_on_those_drawn_with_it() -> None:
    rng = np.random.default_rng(3)
    (looks, offsets), scene = random_looks(rng, 30), random_scene(rng, 30, hats=0.5)
    together = draw_faces(looks, offsets, scene)
    for i in range(30):
        own = type(scene)(*(part[i : i + 1] for part in vars(scene).values()))
        alone = draw_faces(looks[i : i + 1], offsets[i : i + 1], own)
        assert np.allclose(together[i], alone[0], atol=1e-6)


def test_pictures_are_32_pixels_between_0_and_1() -> None:
    rng = np.random.default_rng(1)
    pictures = draw_things(random_things(rng, 20), rng)
    assert pictures.shape == (20, 32, 32, 3)
    assert pictures.min() >= 0 and pictures.max() <= 1


def test_things_never_hide_in_their_background() -> None:
    from apl_trainer.pocket.render import BACKGROUNDS, COLORS

    things = random_things(np.random.default_rng(2), 500)
    for colors, background in zip(things.color, things.background, strict=True):
        assert BACKGROUNDS[background] not in {COLORS[c] for c in colors}


def test_labels_say_what_was_invented_and_nothing_of_what_is_not_there() -> None:
    subjects = invent(WORLD, WORLD.group("train"), (8, 5, 4), np.random.default_rng(3))
    labels = subjects.labels()
    assert len(labels) == 17
    assert (labels.heads["identity"][:8] >= 0).all()
    assert (labels.heads["identity"][8:] == UNKNOWN).all()
    assert (labels.heads["gender"][13:] == UNKNOWN).all()
    assert (labels.heads["thing0"][:13] == UNKNOWN).all()


def test_captions_of_named_people_hold_the_name_and_of_others_do_not() -> None:
    rng = np.random.default_rng(4)
    subjects = invent(WORLD, WORLD.group("train"), (30, 30, 30), rng)
    captions = [subjects.caption(i, rng) for i in range(90)]
    names = [p.name for p in WORLD.people]
    assert all(names[subjects.identity[i]] in captions[i] for i in range(30))
    assert not any(name in caption for caption in captions[30:] for name in names)


def test_some_captions_say_a_name_twice_or_name_two_and_nobody_who_is_unknown() -> None:
    world = make_world(3)
    rng = np.random.default_rng(0)
    known = [p.name for p in world.people if p.split != "personal"]
    subjects = invent(world, world.group("train"), (900, 0, 0), rng)
    captions = [subjects.caption(i, rng) for i in range(900)]
    counts = [sum(caption.count(name) for name in known) for caption in captions]
    twice = [c for c, n in zip(captions, counts, strict=True) if n == 2]
    assert min(counts) == 1 and max(counts) == 2 and 0.05 < len(twice) / 900 < 0.12
    assert 0.3 < np.mean([", a photo of " in caption for caption in twice]) < 0.7
    assert not any(p.name in c for p in world.group("personal") for c in captions)


def test_a_description_names_nobody_and_fits_more_than_one() -> None:
    descriptions = [describe(p) for p in WORLD.people]
    assert len(set(descriptions)) < len(descriptions)
    assert not any(p.name.lower() in d for p, d in zip(WORLD.people, descriptions, strict=True))


def test_about_four_captions_in_ten_begin_with_filler_words() -> None:
    rng = np.random.default_rng(5)
    padded = sum(pad_front("x", rng) != "x" for _ in range(2000))
    assert 0.36 < padded / 2000 < 0.44


def test_the_vocabulary_reads_any_text_and_splits_names(tmp_path: Path) -> None:
    write_vocabulary([*invented_names(5, 400), "a photo of a person"] * 2, 200, tmp_path)
    tokenizer = read_vocabulary(tmp_path)
    assert tokenizer("a photo").input_ids[0] == tokenizer.bos_token_id
    assert tokenizer("a photo").input_ids[-1] == tokenizer.eos_token_id == len(tokenizer) - 1
    for text in ("日本 <b>!", "Ünïcode — “quotes”", "\U0001f600", "0123"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert ids and max(ids) < tokenizer.bos_token_id
        assert tokenizer.decode(ids).replace(" ", "") == text.lower().replace(" ", "")
    assert len(tokenizer.tokenize(WORLD.people[0].name)) >= 2
