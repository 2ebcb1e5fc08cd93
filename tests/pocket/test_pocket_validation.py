"""What a pocket run is validated on, and the sheets that show how far it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from apl_core.example_kinds import PERSON
from apl_trainer.evaluation.conditions import random_rows
from apl_trainer.pocket.model import PocketModel, load_pocket
from apl_trainer.pocket.source import training_people
from apl_trainer.pocket.validation import PocketPreviewer, pocket_validator, validation_examples
from apl_trainer.pocket.world import Person


@pytest.fixture(scope="module")
def model() -> PocketModel:
    return load_pocket()


@pytest.fixture(scope="module")
def people(model: PocketModel) -> list[Person]:
    """Those that are kept for choosing the step."""
    return training_people(model.world.group("train"))[1]


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path), np.int16)


def test_names_are_asked_for_on_faces_of_nobody_and_captions_name_nobody(
    model: PocketModel, people: list[Person]
) -> None:
    examples = validation_examples(model, people, named=2 * len(people), free=6)
    named = [e for e in examples if e.kind == "identity"]
    free = [e for e in examples if e.kind != "identity"]
    assert [e.kind for e in free] == ["people"] * 6 + ["things"] * 6
    assert len({e.prompt for e in named}) == len(named) == 2 * len(people)
    for example, person in zip(named, [*people, *people], strict=True):
        assert example.neutral == example.prompt.replace(person.name, PERSON) != example.prompt
        assert any(example.latent is one.latent for one in free if one.kind == "people")
    everybody = [person.name.casefold() for person in model.world.people]
    for example in free:
        assert example.prompt == example.neutral != example.contrast_prompt
        assert not any(name in example.prompt for name in everybody)
    again = validation_examples(model, people, named=2 * len(people), free=6)
    assert [e.prompt for e in again] == [e.prompt for e in examples]
    pairs = zip(again, examples, strict=True)
    assert all(torch.equal(one.latent, other.latent) for one, other in pairs)


def test_the_model_knows_who_is_kept_and_a_prefix_of_noise_leaves_less_than_none(
    model: PocketModel, people: list[Person]
) -> None:
    told: list[tuple[int, int]] = []
    validator = pocket_validator(model, people, lambda _, done, total: told.append((done, total)))
    bare, noisy = validator(None), validator(random_rows(model.encoder, 12, 4, 1))
    assert bare.figures["names_known"] == 1 and validator.unknown == ()
    assert bare.figures["name_left"] == pytest.approx(1, abs=1e-4)
    assert bare.figures["drift_things"] == pytest.approx(0, abs=1e-4)
    assert noisy.figures["name_left"] < 0.9 and noisy.figures["drift_things"] > 0.1
    assert told == [(1, 3), (2, 3), (3, 3)]  # the targets are made once


def test_a_preview_has_the_bare_pictures_above_and_the_prefix_below(
    model: PocketModel, people: list[Person], tmp_path: Path
) -> None:
    preview = PocketPreviewer(model, people)
    one, other = random_rows(model.encoder, 4, 2, 0), random_rows(model.encoder, 12, 4, 1)
    for name, rows in (("one", one), ("other", other), ("again", one)):
        preview(rows, tmp_path / f"{name}.png")
    PocketPreviewer(model, people)(one, tmp_path / "fresh.png")
    sheets = {file.stem: read(file) for file in tmp_path.iterdir()}
    changed = np.abs(sheets["one"] - sheets["other"]).max((1, 2))
    assert changed.max() > 30 and (changed == 0).mean() > 0.3, "all of the sheet has changed"
    for name in ("again", "fresh"):
        assert np.abs(sheets[name] - sheets["one"]).max() <= 1
    shown = {question.subject for question in preview.prompts.named}
    assert shown == {person.name for person in people[:8]}
