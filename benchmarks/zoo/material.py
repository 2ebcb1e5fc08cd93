"""What a painter of the zoo learns from: pictures, their captions, and the captions' states.

Every caption exists twice: with the names that the pocket model knows, and with the member's. The
states of a frozen encoder are computed once and kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from apl_core.ports import Conditioning, TextEncoderPort
from apl_trainer.pocket.model import PocketModel

from ..pocket_build.dataset import invent

Counts = tuple[int, int, int]
"""Captions about each person, about nobody in particular, and about things."""

COUNTS: Counts = (30, 3600, 2700)

_LONGEST = 72  # tokens of the pocket model's that one chunk holds, and a few to spare
_PART, _BATCH = 512, 16


@dataclass(frozen=True, eq=False)
class Lesson:
    """Pictures (N, 3, 32, 32) in bytes, and their captions in the pocket model's and own words."""

    pictures: Tensor
    taught: tuple[str, ...]
    own: tuple[str, ...]
    faces: int

    def __len__(self) -> int:
        return len(self.own)


def lesson(
    model: PocketModel, names: tuple[str, ...], folder: Path, counts: Counts = COUNTS
) -> Lesson:
    """What the people of a pocket world are drawn from, under other names; drawn once."""
    world = model.world
    known = tuple(p for p in world.people if p.split != "personal")
    rng = np.random.default_rng([world.seed, 41])
    per_person, anonymous, things = counts
    subjects = invent(world, known, (per_person * len(known), anonymous, things), rng)
    by_name = dict(zip((p.name for p in world.people), names, strict=True))
    own = replace(subjects, names=names, known=tuple(by_name[name] for name in subjects.known))
    taught: list[str] = []
    renamed: list[str] = []
    for row in range(len(subjects.look) + things):
        state = rng.bit_generator.state
        while len(model.encoder.pieces(subjects.caption(row, rng))) > _LONGEST:
            state = rng.bit_generator.state
        for some, captions in ((subjects, taught), (own, renamed)):
            rng.bit_generator.state = state
            captions.append(some.caption(row, rng))
    file = folder / "pictures.safetensors"
    if not file.exists():
        with tqdm(total=len(taught), desc="drawing", unit="picture") as bar:
            drawn = subjects.draw(np.random.default_rng([world.seed, 42]), bar.update)
        save_file({"pictures": torch.from_numpy(drawn)}, file)
    pictures = load_file(file)["pictures"]
    return Lesson(pictures, tuple(taught), tuple(renamed), len(subjects.look))


class Texts(Protocol):
    """States of texts by their numbers, and how long each text is."""

    lengths: Tensor

    def pick(self, rows: Sequence[int]) -> Conditioning:
        """The texts at `rows`, filled up to one length."""
        ...


class States:
    """States of texts by a frozen encoder, of different lengths, in float16."""

    def __init__(self, values: Tensor, lengths: Tensor) -> None:
        self.values, self.lengths = values, lengths
        self._ends = lengths.cumsum(0)

    def pick(self, rows: Sequence[int]) -> Conditioning:
        """The texts at `rows`, filled up to the longest of them."""
        ends = ((int(self._ends[row]), int(self.lengths[row])) for row in rows)
        return Conditioning.padded([self.values[e - length : e].float() for e, length in ends])


def states(encoder: TextEncoderPort, texts: Sequence[str], folder: Path) -> States:
    """States of texts, computed in parts that a killed build finds again."""
    folder.mkdir(exist_ok=True)
    parts: list[dict[str, Tensor]] = []
    starts = range(0, len(texts), _PART)
    for number, start in enumerate(tqdm(starts, desc="reading captions", unit="part")):
        file = folder / f"states-{number:03d}.safetensors"
        if not file.exists():
            values, lengths = _read(encoder, texts[start : start + _PART])
            part = file.with_suffix(".part")
            save_file({"values": values, "lengths": lengths}, part)
            part.replace(file)
        parts.append(load_file(file))
    return States(*(torch.cat([part[key] for part in parts]) for key in ("values", "lengths")))


@torch.no_grad()
def _read(encoder: TextEncoderPort, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """States (tokens, width) and lengths (B,) of texts, read in batches of like length."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found: dict[int, Tensor] = {}
    for some in itertools.zip_longest(*[iter(order)] * _BATCH):
        rows = [row for row in some if row is not None]
        given = encoder.encode([texts[row] for row in rows], None)
        mask = given.mask
        for place, row in enumerate(rows):
            seen = given.cross[place] if mask is None else given.cross[place][mask[place]]
            found[row] = seen.half()
    every = [found[row] for row in range(len(texts))]
    return torch.cat(every), torch.tensor([len(one) for one in every])
