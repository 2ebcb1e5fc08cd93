"""What the training node makes of texts: who is named, and what is left alone."""

import pytest
import torch
from apl_comfy.opaque import opaque
from apl_comfy.training.source import (
    PEOPLE,
    THINGS,
    CaptionedLatent,
    LatentSource,
    ListedPerson,
    kind_of,
    nameless,
    neutral,
    person_in,
    read_lines,
)

from apl_core.errors import ConfigError
from apl_core.example_kinds import Kind

ADA, LOVELACE, ACE = (
    ListedPerson("Ada", "A"),
    ListedPerson("Ada Lovelace", "L"),
    ListedPerson("Ace", "C"),
)
ALL = [ADA, LOVELACE, ACE]


@pytest.mark.parametrize(
    ("text", "person", "target"),
    [
        ("Ada reads", ADA, "a person reads"),
        ("Ada_Lovelace's hat", LOVELACE, "a person's hat"),
        ("ada  lovelace and the face of Ace", LOVELACE, "a person and the face of a person"),
        ("a face", None, "a face"),
    ],
)
def test_names_are_whole_words_and_all_go(
    text: str, person: ListedPerson | None, target: str
) -> None:
    assert person_in(text, ALL) is person
    assert neutral(text, ALL, "person") == target and neutral(text, ALL, "empty") == ""
    assert neutral("Ada, Ada Lovelace", ALL, "description") == "A, L"


@pytest.mark.parametrize(
    ("text", "kind"),
    [("ADA-LOVELACE", "identity"), ("two girls", "people"), ("cherries on a surface", "things")],
)
def test_words_decide_what_a_picture_shows(text: str, kind: Kind) -> None:
    assert kind_of(text, ALL) == kind


def test_prompts_to_leave_alone_name_nobody() -> None:
    lines = read_lines(f"{THINGS}\n{PEOPLE}")
    assert nameless("things", lines, ALL) == lines
    with pytest.raises(ConfigError, match="names 'Ada Lovelace'"):
        nameless("people", [*lines, "a portrait of ada_lovelace"], ALL)


def test_examples_name_nobody_in_their_target() -> None:
    latent = torch.zeros(1)
    shown: dict[Kind, list[CaptionedLatent]] = {
        "identity": [CaptionedLatent(latent, "ada_lovelace meets Ace", LOVELACE)],
        "things": [],
        "people": [],
    }
    (example,) = LatentSource(shown, ALL, "person").draw("identity", 1, torch.Generator())
    assert example.neutral == "a person meets a person"


def test_transparent_pictures_lie_on_white() -> None:
    colors = torch.tensor([[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]])
    clear = torch.cat([colors, torch.tensor([[[0.0], [0.5]]])], 2)
    assert torch.equal(opaque(colors), colors)
    assert torch.equal(opaque(clear), torch.tensor([[[1.0, 1.0, 1.0], [0.75, 0.75, 0.5]]]))
    assert torch.equal(opaque(colors[..., :1]), colors[..., :1].expand(1, 2, 3))
    assert torch.equal(opaque(clear[..., 2:]), torch.tensor([[[1.0] * 3, [0.5] * 3]]))
