"""Contact sheets: rows of small pictures, enlarged, with captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_SCALE, _GAP, _MARGIN = 3, 4, 118
_INK, _PAPER = (30, 30, 34), (255, 255, 255)


def to_image(picture: Tensor) -> Image.Image:
    """A PIL image of a picture (3, H, W) in [0, 1]."""
    data = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(data.cpu().numpy())


def sheet(rows: Sequence[Tensor], labels: Sequence[str] = (), heads: Sequence[str] = (),
          scale: int = _SCALE) -> Image.Image:  # fmt: skip
    """Rows of pictures (B, 3, H, W) in one image; labels stand left, heads above columns."""
    height, width = (int(n) * scale for n in rows[0].shape[-2:])
    left = _MARGIN if labels else 0
    top = 30 if heads else 0
    columns = max(len(row) for row in rows)
    size = left + columns * (width + _GAP), top + len(rows) * (height + _GAP)
    image = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(11)
    for place, text in enumerate(heads):
        words = text.split()
        cut = len(words) // 2
        lines = "\n".join([" ".join(words[:cut]), " ".join(words[cut:])]) if cut else text
        pen.text((left + place * (width + _GAP), 1), lines, _INK, font)
    for number, row in enumerate(rows):
        y = top + number * (height + _GAP)
        if labels:
            pen.multiline_text((2, y + height // 3), labels[number], _INK, font)
        for place, picture in enumerate(row):
            big = to_image(picture).resize((width, height), Image.Resampling.NEAREST)
            image.paste(big, (left + place * (width + _GAP), y))
    return image


def save_sheet(rows: Sequence[Tensor], path: Path, labels: Sequence[str] = (),
               heads: Sequence[str] = ()) -> None:  # fmt: skip
    """Write a sheet as PNG; makes the folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet(rows, labels, heads).save(path)
