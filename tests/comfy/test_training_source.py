"""What the training node makes of texts: who is named, and what is left alone."""

import pytest
import torch
from apl_comfy.opaque import opaque
from apl_comfy.training.source import given_picture, kind_of, person_in, read_lines

from apl_core.errors import ConfigError
from apl_core.example_kinds import Kind
from apl_core.training.material import Picture, refuse_names
from apl_core.training.people import ListedPerson

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
    ],
)
def test_names_are_whole_words_and_all_go(text: str, person: ListedPerson, target: str) -> None:
    assert person_in(text, ALL) is person
    assert given_picture(text, ALL, "person") == Picture("identity", text, person, target, own=True)
    assert given_picture(text, ALL, "empty").neutral == ""
    assert given_picture("Ada, Ada Lovelace", ALL, "description").neutral == "A, L"


@pytest.mark.parametrize(
    ("text", "kind"),
    [("ADA-LOVELACE", "identity"), ("two girls", "people"), ("cherries on a surface", "things")],
)
def test_words_decide_what_a_picture_shows(text: str, kind: Kind) -> None:
    assert kind_of(text, ALL) == given_picture(text, ALL, "person").kind == kind


def test_prompts_to_leave_alone_name_nobody() -> None:
    lines = read_lines(" a red car \n\n a bowl of cherries\n")
    assert lines == ["a red car", "a bowl of cherries"]
    refuse_names("things", lines, ALL)
    with pytest.raises(ConfigError, match="names 'Ada Lovelace'"):
        refuse_names("people", [*lines, "a portrait of ada_lovelace"], ALL)


def test_transparent_pictures_lie_on_white() -> None:
    colors = torch.tensor([[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]])
    clear = torch.cat([colors, torch.tensor([[[0.0], [0.5]]])], 2)
    assert torch.equal(opaque(colors), colors)
    assert torch.equal(opaque(clear), torch.tensor([[[1.0, 1.0, 1.0], [0.75, 0.75, 0.5]]]))
    assert torch.equal(opaque(colors[..., :1]), colors[..., :1].expand(1, 2, 3))
    assert torch.equal(opaque(clear[..., 2:]), torch.tensor([[[1.0] * 3, [0.5] * 3]]))
