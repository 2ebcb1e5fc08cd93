"""Contact sheets: every word is there, groups are told apart, nothing runs into anything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from apl_trainer.report import sheet as module
from apl_trainer.report.sheet import sheet

PICTURES = torch.zeros(6, 3, 32, 32)
LONG = "a woman with long blonde hair and round glasses in front of a yellow lighthouse by the sea"


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L"))


def columns_of(image: Image.Image) -> list[tuple[int, int]]:
    """First and last place of each picture, which are black, in the lowest row."""
    dark = array(image)[-20] == 0
    edges = np.flatnonzero(np.diff(np.concatenate([[0], dark.astype(int), [0]])))
    return list(zip(edges[::2], edges[1::2] - 1, strict=True))


@given(
    text=st.lists(
        st.text(st.characters(min_codepoint=33, max_codepoint=382), min_size=1),
        min_size=1,
        max_size=12,
    ).map(" ".join),
    width=st.integers(40, 300),
)
def test_no_letter_of_a_caption_is_cut_and_no_line_is_too_wide(text: str, width: int) -> None:
    pen = module._Pen()
    lines = pen.wrapped(text, width)
    assert "".join("".join(lines).split()) == "".join(module._drawable(text, pen._font).split())
    assert all(pen._fits(line, width) for line in lines)


def test_groups_stand_apart_and_have_titles() -> None:
    heads = ["Ada", "Bo", "Cy", "Di", LONG, "a cat"]
    groups = [("learned from", 2), ("held out", 2), ("names nobody", 2)]
    plain = sheet([PICTURES, PICTURES], ("no prefix", "with prefix"), heads)
    told = sheet([PICTURES, PICTURES], ("no prefix", "with prefix"), heads, groups=groups)
    first, second = columns_of(plain), columns_of(told)
    assert len(first) == len(second) == 6
    gaps = [b[0] - a[1] for a, b in itertools.pairwise(second)]
    assert gaps[1] == gaps[3] > gaps[0] == gaps[2] == gaps[4]
    for column in (0, 2, 4):  # a title above the group's first picture, and a line under it
        start, end = second[column][0], second[column + 1][1]
        assert array(told)[:14, start:end].min() < 120
        assert (array(told)[14, start : end + 1] < 200).all()
    assert told.height > plain.height


def test_an_empty_group_takes_no_room() -> None:
    groups = [("learned from", 6), ("held out", 0)]
    two = sheet([PICTURES], groups=groups)
    assert two.size == sheet([PICTURES], groups=groups[:1]).size


@pytest.mark.parametrize("scale", [1, 3])
def test_a_long_label_makes_its_row_higher_and_stays_left_of_the_pictures(scale: int) -> None:
    short = sheet([PICTURES[:2]], ["no prefix"], scale=scale)
    image = sheet([PICTURES[:2], PICTURES[:2]], [f"{LONG}. {LONG}", "b"], scale=scale)
    assert image.width == short.width and image.height > 2 * short.height
    start = columns_of(image)[0][0]
    assert (array(image)[:, start - 4 : start] == 255).all()  # no letter touches a picture
    lines = module._Pen().wrapped(f"{LONG}. {LONG}", start - 4)
    assert array(image)[: len(lines) * 14, :start].min() < 120
    ink = (array(image)[:, :start] < 200).any(1)
    rows = np.flatnonzero(np.diff(np.concatenate([[0], ink.astype(int), [0]]))).size // 2
    assert rows >= len(lines)


def test_a_sheet_without_words_is_its_pictures_alone() -> None:
    image = sheet([PICTURES[:2], PICTURES[:1]], scale=1)
    assert image.size == (2 * 36, 2 * 36)
    assert (array(image)[:32, :32] == 0).all() and (array(image)[36:68, 36:] == 255).all()
