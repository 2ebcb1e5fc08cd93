"""Who is to be recognized: galleries from a model's own pictures, or from a folder of a user's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from apl_core.captions import alike
from apl_core.errors import ConfigError
from apl_core.metadata import printable

from ..pictures import Unreadable, as_tensor, open_picture, pictures_in
from ..readers.concept_known import LEAST, known
from ..readers.protocols import FaceReader, Faces
from .identity import Gallery

log = logging.getLogger("apl")

_SIDE = 1024
_TOLD = 20


@dataclass(frozen=True)
class People:
    """A gallery, and whom it cannot hold; None if no picture shows a face.

    `unknown` are people whose pictures are hardly more alike than those of different people.
    """

    gallery: Gallery | None
    faceless: tuple[str, ...]
    unknown: tuple[str, ...]

    @staticmethod
    def of(faces: Faces, names: Sequence[str]) -> People:
        """The mean face of everybody of whom a picture shows one."""
        vectors: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for name, vector, found in zip(names, faces.embedding, faces.found.tolist(), strict=True):
            if found:
                vectors[name].append(vector.cpu().numpy())
        faceless = tuple(name for name, seen in vectors.items() if not seen)
        rows = [i for i, name in enumerate(names) if name not in faceless]
        if not rows:
            return People(None, faceless, ())
        gallery = Gallery.of(faces.pick(torch.tensor(rows)), [names[i] for i in rows])
        sure = known({name: seen for name, seen in vectors.items() if seen})
        unknown = tuple(n for n, value in sure.items() if value is not None and value < LEAST)
        return People(gallery, faceless, unknown)


def pictures_of_people(folder: Path, names: Sequence[str]) -> list[tuple[str, Path]]:
    """(name, file) of all pictures in a folder with a subfolder or a picture for each person.

    Everybody measured must be in it, spelled in any case and with any sign for a space; others
    may be, and make recognizing harder. One ConfigError tells everybody who is missing.
    """
    asked = f"take a gallery from {printable(str(folder))}"
    fix = "give a folder with a subfolder of pictures for each name"
    if not folder.is_dir():
        raise ConfigError(asked, "there is no such folder", fix)
    spelled = {alike(name): name for name in names}
    found: list[tuple[str, Path]] = []
    paths, left = pictures_in(folder)
    if left:
        log.warning("%s: left out %s", asked, left)
    for path in paths:
        inside = path.relative_to(folder)
        label = inside.parts[0] if len(inside.parts) > 1 else inside.stem
        found.append((spelled.get(alike(label), label), path))
    there = {name for name, _ in found}
    problems = [
        ConfigError(asked, f"there is no picture of {printable(name, 80)}", fix)
        for name in names
        if name not in there
    ]
    if problems:
        raise ConfigError.of(asked, problems[:_TOLD])
    return found


def read_people(reader: FaceReader, files: Sequence[Path]) -> Faces:
    """The largest face of each picture; ConfigError tells every one that cannot be read."""
    problems: list[ConfigError] = []
    faces: list[Faces] = []
    for file in files:
        try:
            faces.append(reader.faces(read_picture(file)[None]))
        except Unreadable as error:
            found = f"{printable(file.name)} is not a readable picture ({error})"
            problems.append(ConfigError("take a gallery", found, "replace it or take it out"))
    if problems:
        raise ConfigError.of("take a gallery", problems[:_TOLD])
    return Faces.join(faces)


def read_picture(file: Path) -> Tensor:
    """(3, H, W) in [0, 1], upright, at most 1024 pixels wide and high."""
    picture = open_picture(file)
    picture.thumbnail((_SIDE, _SIDE))
    return as_tensor(picture)
