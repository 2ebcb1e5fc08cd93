"""Pictures that are drawn once and kept: each file's name tells what decided the picture.

A measurement that was killed goes on where it was, and one of another prefix in the same folder
finds the pictures without prefix there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from apl_core.errors import RunError
from apl_core.metadata import printable
from apl_core.prefix import Rows

from ..report.sheet import png, to_image
from ..sampling import AnySampler, Request

_PART = 8


@dataclass(frozen=True)
class ImageSet:
    """Pictures of one condition, in the order in which they were asked for.

    Going through it gives tensors (B, 3, H, W) in [0, 1] of a few pictures each, read from disk.
    """

    files: tuple[Path, ...]
    requests: tuple[Request, ...]
    rows: Rows | None

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self.files), _PART):
            yield torch.stack([read_image(file) for file in self.files[start : start + _PART]])

    def cut(self, start: int, stop: int | None = None) -> ImageSet:
        """The pictures from `start` up to `stop`."""
        part = slice(start, stop)
        return replace(self, files=self.files[part], requests=self.requests[part])


class ImageCache:
    """Draws what is not in the folder yet; `recipe` names all that decides a picture besides."""

    def __init__(
        self, painter: AnySampler, folder: Path, recipe: str, size: int, batch: int
    ) -> None:
        self.painter, self.folder, self.recipe = painter, folder, recipe
        self.size, self.batch = size, batch

    def image_set(
        self, name: str, labels: Sequence[str], requests: Sequence[Request], rows: Rows | None
    ) -> ImageSet:
        """The pictures of some requests, drawn or not; `labels` begin their files' names."""
        used = "" if rows is None else rows.digest
        files: list[Path] = []
        for label, request in zip(labels, requests, strict=True):
            told = json.dumps([self.recipe, used, request.prompt, request.negative, request.seed])
            digest = hashlib.sha256(told.encode()).hexdigest()[:16]
            files.append(self.folder / name / f"{label}-{digest}.png")
        return ImageSet(tuple(files), tuple(requests), rows)

    def missing(self, image_set: ImageSet) -> list[int]:
        """Places of the pictures that are not there, or broken."""
        return [i for i, file in enumerate(image_set.files) if not self._sound(file)]

    def draw(
        self,
        image_sets: Sequence[ImageSet],
        advance: Callable[[int], object],
        rank: int = 0,
        of: int = 1,
    ) -> None:
        """Draw what is missing of this rank's share; RunError for a full disk or device."""
        first = 0
        for image_set in image_sets:
            mine = {i for i in range(len(image_set)) if (first + i) % of == rank}
            first += len(image_set)
            places = [i for i in self.missing(image_set) if i in mine]
            advance(len(mine) - len(places))
            while places:
                now, places = places[: self.batch], places[self.batch :]
                pictures = self._drawn([image_set.requests[i] for i in now], image_set.rows)
                for i, picture in zip(now, pictures, strict=True):
                    png(to_image(picture), image_set.files[i])
                    advance(1)

    def _drawn(self, requests: Sequence[Request], rows: Rows | None) -> Tensor:
        """Half as many at once where the device's memory does not hold all."""
        asked = f"draw {len(requests)} pictures of {self.size} pixels"
        try:
            pictures = self.painter.draw(requests, rows).float().cpu()
        except torch.cuda.OutOfMemoryError as error:
            if len(requests) == 1:
                found = "the memory of the device is full"
                raise RunError(asked, found, "give a smaller --size, or --device cpu") from error
            pictures = None
        if pictures is None:  # outside of `except`, which holds what filled the memory
            torch.cuda.empty_cache()
            self.batch = max(len(requests) // 2, 1)
            halves = requests[: self.batch], requests[self.batch :]
            return torch.cat([self._drawn(half, rows) for half in halves])
        if not bool(pictures.isfinite().all()):
            found = "they hold values that are not numbers"
            raise RunError(asked, found, "check the checkpoint and the prefix")
        return pictures

    def _sound(self, file: Path) -> bool:
        try:
            with Image.open(file) as image:
                fits = image.size == (self.size, self.size)
                image.verify()
        except (OSError, ValueError, SyntaxError):  # PIL calls a broken PNG a SyntaxError
            return False
        return fits


def read_image(file: Path) -> Tensor:
    """A picture (3, H, W) in [0, 1]; RunError if it cannot be read."""
    try:
        with Image.open(file) as image:
            data = np.asarray(image.convert("RGB")).copy()
    except (OSError, ValueError, SyntaxError) as error:
        raise RunError(
            f"read {printable(str(file))}", printable(str(error), 80), "run the same command again"
        ) from error
    return torch.from_numpy(data).permute(2, 0, 1).float() / 255
