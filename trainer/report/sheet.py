"""Contact sheets: rows of small pictures, enlarged, with captions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from apl_core.atomic import reason, write_bytes
from apl_core.errors import RunError
from apl_core.metadata import printable

SCALE = 4
"""How many times a pocket picture of 32 pixels is enlarged."""

BEFORE_AFTER = ("without prefix", "with prefix")
"""Labels of the two rows that most sheets have."""

TITLES = {
    "trained": "Learned from: names the prefix was trained on. The person should change.",
    "heldout": "Held out: names the prefix never saw. The person should change.",
    "people": "People without a name. The picture should stay as it is.",
    "things": "Things. The picture should stay as it is.",
}
"""Titles of the groups on a sheet of before and after."""

_GAP, _APART, _MARGIN = 4, 24, 118
_LEAST, _EDGE = 420, 10  # a sheet with titles is no narrower, and has an edge
_TITLE, _TEXT = 17, 13
"""Sizes of letters in pixels."""

_INK, _RULE, _PAPER = (30, 30, 34), (150, 150, 156), (255, 255, 255)


def to_image(picture: Tensor) -> Image.Image:
    """A PIL image of a picture (3, H, W) in [0, 1]."""
    data = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(data.cpu().numpy())


def png(image: Image.Image, path: Path) -> bytes:
    """Write an image whole or not at all, its folder too; its bytes. RunError if that fails."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, stream.getvalue())
    except OSError as error:
        raise RunError(f"write {printable(str(path))}", *reason(error)) from error
    return stream.getvalue()


def sheet(
    rows: Sequence[Tensor],
    labels: Sequence[str] = (),
    heads: Sequence[str] = (),
    scale: int = SCALE,
    groups: Sequence[tuple[str, int]] = (),
) -> Image.Image:
    """Rows of pictures (B, 3, H, W) in one image; labels stand left, heads above columns.

    `groups` are titles over so many columns each, one group below the other. Texts are wrapped, and
    what is higher than a picture makes its row higher: nothing is cut off.
    """
    parts = groups or [("", max(map(len, rows)))]
    columns = max(count for _, count in parts)
    width = (_MARGIN if labels else 0) + columns * (rows[0].shape[-1] * scale + _GAP)
    width = max(width, _LEAST if groups else 0)
    bands: list[Image.Image] = []
    first = 0
    for title, count in parts:
        last = first + count
        if count:
            part = [row[first:last] for row in rows]
            bands.append(_band(title, part, labels, heads[first:last], scale, width))
        first = last
    height = sum(band.height for band in bands) + _APART * (len(bands) - 1)
    image = Image.new("RGB", (width, height), _PAPER)
    y = 0
    for band in bands:
        image.paste(band, (0, y))
        y += band.height + _APART
    return ImageOps.expand(image, _EDGE if groups else 0, _PAPER)


def _band(
    title: str,
    rows: Sequence[Tensor],
    labels: Sequence[str],
    heads: Sequence[str],
    scale: int,
    across: int,
) -> Image.Image:
    """One group: its title over a line, heads above columns, labels left of rows."""
    height, width = (int(n) * scale for n in rows[0].shape[-2:])
    large, small = _Pen(_TITLE), _Pen(_TEXT)
    left = _MARGIN if labels else 0
    over = large.wrapped(title, across - _GAP) if title else []
    above = [small.wrapped(head, width - _GAP) for head in heads]
    beside = [small.wrapped(label, left - _GAP) for label in labels] or [[]] * len(rows)
    line = len(over) * large.step
    top = line + (_GAP if title else 0) + max(map(len, above), default=0) * small.step
    top += _GAP if top else 0
    heights = [max(height, len(lines) * small.step) for lines in beside]
    image = Image.new("RGB", (across, top + sum(heights) + _GAP * len(rows)), _PAPER)
    draw = ImageDraw.Draw(image)
    large.write(draw, over, 0, 0)
    if title:
        draw.line((0, line, across - _GAP - 1, line), _RULE)
    for i, lines in enumerate(above):
        small.write(draw, lines, left + i * (width + _GAP), top - _GAP - len(lines) * small.step)
    y = top
    for row, lines, high in zip(rows, beside, heights, strict=True):
        small.write(draw, lines, 0, y + (high - len(lines) * small.step) // 2)
        for i, picture in enumerate(row):
            big = to_image(picture).resize((width, height), Image.Resampling.NEAREST)
            image.paste(big, (left + i * (width + _GAP), y))
        y += high + _GAP
    return image


class _Pen:
    """Writes lines of text of one size, and knows beforehand how they break."""

    def __init__(self, size: int) -> None:
        self._font, self.step = _font(size), size + 4

    def wrapped(self, text: str, width: int) -> list[str]:
        """The whole text in lines of at most `width` pixels; a longer word is broken."""
        lines: list[str] = []
        for part in _drawable(text, self._font).split("\n"):
            line = ""
            for word in part.split():
                if line and not self._fits(f"{line} {word}", width):
                    lines.append(line)
                    line = ""
                line = f"{line} {word}".strip()
                while len(line) > 1 and not self._fits(line, width):
                    cut = max(
                        (n for n in range(1, len(line)) if self._fits(line[:n], width)), default=1
                    )
                    lines.append(line[:cut])
                    line = line[cut:]
            lines.append(line)
        return lines

    def _fits(self, text: str, width: int) -> bool:
        return self._font.getlength(text) <= width

    def write(self, draw: ImageDraw.ImageDraw, lines: Sequence[str], x: int, y: int) -> None:
        """Write lines from a left upper corner on."""
        for number, line in enumerate(lines):
            draw.text((x, y + number * self.step), line, _INK, self._font)


def _font(size: int) -> Any:
    try:
        return ImageFont.load_default(size)
    except TypeError:  # before Pillow 10.1, as in the webuis
        return ImageFont.load_default()


def _drawable(text: str, font: Any) -> str:
    """The text, or as much of it as a font of bitmaps has letters for."""
    if isinstance(font, ImageFont.ImageFont):
        return text.encode("latin-1", "replace").decode("latin-1")
    return text


def save_sheet(
    rows: Sequence[Tensor],
    path: Path,
    labels: Sequence[str] = (),
    heads: Sequence[str] = (),
    scale: int = SCALE,
    groups: Sequence[tuple[str, int]] = (),
) -> None:
    """Write a sheet as PNG; makes the folder if needed. RunError if that fails."""
    png(sheet(rows, labels, heads, scale, groups), path)
