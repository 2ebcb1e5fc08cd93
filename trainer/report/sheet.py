"""Contact sheets: rows of small pictures, enlarged, with captions."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from apl_core.atomic import reason, write_bytes
from apl_core.errors import RunError
from apl_core.metadata import printable

_SCALE, _GAP, _APART, _MARGIN, _LINE = 3, 4, 16, 118, 14
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
    scale: int = _SCALE,
    groups: Sequence[tuple[str, int]] = (),
) -> Image.Image:
    """Rows of pictures (B, 3, H, W) in one image; labels stand left, heads above columns.

    `groups` are titles over so many columns each, with room between them. Texts are wrapped, and
    what is higher than a picture makes its row higher: nothing is cut off.
    """
    height, width = (int(n) * scale for n in rows[0].shape[-2:])
    pen = _Pen()
    left = _MARGIN if labels else 0
    beside = [pen.wrapped(label, left - _GAP) for label in labels]
    above = [pen.wrapped(head, width) for head in heads]
    columns = max(len(row) for row in rows)
    starts = _starts(columns, width, [count for _, count in groups])
    titles = [pen.wrapped(title, count * (width + _GAP) - _GAP) for title, count in groups if count]
    band = max(map(len, titles), default=0) * _LINE
    top = band + (_GAP if titles else 0) + max(map(len, above), default=0) * _LINE
    top += _GAP if top else 0
    heights = [max(height, len(lines) * _LINE) for lines in beside] or [height] * len(rows)
    size = left + starts[-1] + width + _GAP, top + sum(heights) + _GAP * len(rows)
    image = Image.new("RGB", size, _PAPER)
    pen.on(image)
    first = 0
    for lines, (_, count) in zip(titles, (g for g in groups if g[1]), strict=True):
        x, end = left + starts[first], left + starts[first + count - 1] + width
        pen.write(lines, x, 0)
        pen.line(x, end, band)
        first += count
    for x, lines in zip(starts, above, strict=False):
        pen.write(lines, left + x, top - _GAP - len(lines) * _LINE)
    y = top
    for number, row in enumerate(rows):
        if labels:
            pen.write(beside[number], 0, y + (heights[number] - len(beside[number]) * _LINE) // 2)
        for x, picture in zip(starts, row, strict=False):
            big = to_image(picture).resize((width, height), Image.Resampling.NEAREST)
            image.paste(big, (left + x, y))
        y += heights[number] + _GAP
    return image


def _starts(columns: int, width: int, counts: Sequence[int]) -> list[int]:
    """Where each column begins: groups of so many columns stand apart."""
    ends = set(itertools.accumulate(counts))
    starts = [0]
    for column in range(1, columns):
        apart = _APART if column in ends else _GAP
        starts.append(starts[-1] + width + apart)
    return starts


class _Pen:
    """Writes lines of text of one size, and knows beforehand how they break."""

    def __init__(self) -> None:
        self._font = _font()
        self._draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))

    def on(self, image: Image.Image) -> None:
        """Write on this image from now on."""
        self._draw = ImageDraw.Draw(image)

    def wrapped(self, text: str, width: int) -> list[str]:
        """The whole text in lines of at most `width` pixels; a longer word is broken."""
        lines: list[str] = []
        for part in _drawable(text, self._font).split("\n"):
            line = ""
            for word in part.split():
                longer = f"{line} {word}".strip()
                if line and not self._fits(longer, width):
                    lines.append(line)
                    longer = word
                while not self._fits(longer, width) and len(longer) > 1:
                    cut = next(
                        n
                        for n in range(len(longer) - 1, 0, -1)
                        if n == 1 or self._fits(longer[:n], width)
                    )
                    lines.append(longer[:cut])
                    longer = longer[cut:]
                line = longer
            lines.append(line)
        return lines

    def _fits(self, text: str, width: int) -> bool:
        return self._draw.textlength(text, self._font) <= width

    def write(self, lines: Sequence[str], x: int, y: int) -> None:
        """Write lines from a left upper corner on."""
        for number, line in enumerate(lines):
            self._draw.text((x, y + number * _LINE), line, _INK, self._font)

    def line(self, start: int, end: int, y: int) -> None:
        """Draw a level line."""
        self._draw.line((start, y, end - 1, y), _RULE)


def _font() -> Any:
    try:
        return ImageFont.load_default(11)
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
    scale: int = _SCALE,
    groups: Sequence[tuple[str, int]] = (),
) -> None:
    """Write a sheet as PNG; makes the folder if needed. RunError if that fails."""
    png(sheet(rows, labels, heads, scale, groups), path)
