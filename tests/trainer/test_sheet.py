"""Contact sheets: every word is there, groups are told apart, nothing runs into anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from apl_trainer.evaluation.before_after import save_before_after
from apl_trainer.evaluation.conditions import EvalPrompt, EvalPrompts
from apl_trainer.report import sheet as module
from apl_trainer.report.sheet import sheet

PICTURES = torch.zeros(6, 3, 32, 32)
LONG = "a woman with long blonde hair and round glasses in front of a yellow lighthouse by the sea"


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L"))


def runs(dark: np.ndarray) -> list[tuple[int, int]]:
    """First and last place of each stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], dark.astype(int), [0]])))
    return list(zip(edges[::2], edges[1::2] - 1, strict=True))


def columns_of(image: Image.Image) -> list[tuple[int, int]]:
    """First and last place of each picture, which are black, in the lowest row."""
    return runs(array(image)[-20] == 0)


@given(
    text=st.lists(
        st.text(st.characters(min_codepoint=33, max_codepoint=382), min_size=1),
        min_size=1,
        max_size=12,
    ).map(" ".join),
    width=st.integers(40, 300),
)
def test_no_letter_of_a_caption_is_cut_and_no_line_is_too_wide(text: str, width: int) -> None:
    pen = module._Pen(13)
    lines = pen.wrapped(text, width)
    assert "".join("".join(lines).split()) == "".join(module._drawable(text, pen._font).split())
    assert all(pen._fits(line, width) for line in lines)


def test_groups_stand_below_each_other_under_titles() -> None:
    heads = ["Ada", "Bo", "Cy", "Di", LONG, "a cat"]
    groups = [(f"Learned from: {LONG} {LONG}", 3), ("Held out", 2), ("Names nobody", 1)]
    rows, labels = [PICTURES, PICTURES], ("without prefix", "with prefix")
    image = sheet(rows, labels, heads, groups=groups)
    image = image.crop((10, 10, image.width - 10, image.height - 10))
    pixels = array(image)
    assert len(columns_of(image)) == 1 and image.width < sheet(rows, labels, heads).width
    left = columns_of(image)[0][0]
    pictures = runs((pixels[:, left : left + 128] == 0).all(1))
    assert len(pictures) == 6 and all(end - start == 127 for start, end in pictures)
    lines = [y for y in range(image.height) if (pixels[y, : image.width - 4] == 151).all()]
    assert len(lines) == 3  # one over each group, below its title
    firsts, lasts = pictures[::2], [(0, 0), *pictures[1:-1:2]]
    for line, (_, end), (start, _) in zip(lines, lasts, firsts, strict=True):
        assert end < line < start
    for count, (start, _) in zip((3, 2, 1), firsts, strict=True):
        assert len(runs(pixels[start + 20] == 0)) == count
    wide = module._Pen(17).wrapped(groups[0][0], image.width - 4)
    assert len(wide) > 1 and lines[0] == len(wide) * 21


def test_an_empty_group_takes_no_room() -> None:
    groups = [("learned from", 6), ("held out", 0)]
    two = sheet([PICTURES], groups=groups)
    assert two.size == sheet([PICTURES], groups=groups[:1]).size


def test_a_sheet_of_before_and_after_shows_eight_of_each_group(tmp_path: Path) -> None:
    def asked(group: str, count: int, each: int = 1) -> tuple[EvalPrompt, ...]:
        return tuple(EvalPrompt("{}", f"{group} {i // each}", i) for i in range(count * each))

    prompts = EvalPrompts(asked("t", 3, 2), asked("h", 12, 4), asked("p", 9), ())
    seen: list[int] = []

    def pictures(places: list[int]) -> list[torch.Tensor]:
        seen.extend(places)
        return [torch.zeros(len(places), 3, 8, 8)] * 2

    save_before_after(tmp_path / "sheet.png", prompts, pictures, 8)
    assert seen == [0, 2, 4, *range(6, 38, 4), *range(54, 62)]
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.width == 118 + 8 * 68 + 20


@pytest.mark.parametrize("scale", [1, 3])
def test_a_long_label_makes_its_row_higher_and_stays_left_of_the_pictures(scale: int) -> None:
    short = sheet([PICTURES[:2]], ["no prefix"], scale=scale)
    image = sheet([PICTURES[:2], PICTURES[:2]], [f"{LONG}. {LONG}", "b"], scale=scale)
    assert image.width == short.width and image.height > 2 * short.height
    start = columns_of(image)[0][0]
    assert (array(image)[:, start - 4 : start] == 255).all()  # no letter touches a picture
    lines = module._Pen(13).wrapped(f"{LONG}. {LONG}", start - 4)
    assert array(image)[: len(lines) * 17, :start].min() < 120
    assert len(runs((array(image)[:, :start] < 200).any(1))) >= len(lines)


def test_a_sheet_without_words_is_its_pictures_alone() -> None:
    image = sheet([PICTURES[:2], PICTURES[:1]], scale=1)
    assert image.size == (2 * 36, 2 * 36)
    assert (array(image)[:32, :32] == 0).all() and (array(image)[36:68, 36:] == 255).all()
