"""Contact sheets: rows of small pictures, enlarged, with captions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from apl_core.atomic import reason, write_bytes
from apl_core.errors import RunError
from apl_core.metadata import shown

_SCALE, _GAP, _MARGIN = 3, 4, 118
_INK, _PAPER = (30, 30, 34), (255, 255, 255)


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
        raise RunError(f"write {shown(str(path))}", *reason(error)) from error
    return stream.getvalue()


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
    font = _font()
    for place, text in enumerate(heads):
        words = text.split()
        cut = len(words) // 2
        lines = "\n".join([" ".join(words[:cut]), " ".join(words[cut:])]) if cut else text
        pen.text((left + place * (width + _GAP), 1), _drawable(lines, font), _INK, font)
    for number, row in enumerate(rows):
        y = top + number * (height + _GAP)
        if labels:
            label = _drawable(labels[number], font)
            pen.multiline_text((2, y + height // 3), label, _INK, font)
        for place, picture in enumerate(row):
            big = to_image(picture).resize((width, height), Image.Resampling.NEAREST)
            image.paste(big, (left + place * (width + _GAP), y))
    return image


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


def save_sheet(rows: Sequence[Tensor], path: Path, labels: Sequence[str] = (),
               heads: Sequence[str] = (), scale: int = _SCALE) -> None:  # fmt: skip
    """Write a sheet as PNG; makes the folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet(rows, labels, heads, scale).save(path)
