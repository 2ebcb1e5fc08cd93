"""Tells who and what a pocket picture shows, and whether a face in it is still a face."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .render import BACKGROUNDS, COLORS, HATS, SHIRTS, THINGS, Array
from .world import ATTRIBUTES, OFFSETS

KINDS = ("face", "things", "broken")
"""What a picture is: a broken one is a face or scene that noise, blur or mixing destroyed."""


def head_sizes(people: int) -> dict[str, int]:
    """Classes per head; `thing`, `color` heads come once per slot of a scene."""
    heads = {name: len(values) for name, values in ATTRIBUTES.items()}
    heads |= {"background": len(BACKGROUNDS), "shirt": len(SHIRTS), "hat": len(HATS)}
    heads |= {"thing0": len(THINGS), "thing1": len(THINGS) + 1}
    heads |= {"colour0": len(COLORS), "colour1": len(COLORS) + 1}
    return heads | {"kind": len(KINDS), "identity": people}


@dataclass(frozen=True)
class Reading:
    """What the recognizer sees: scores per head (B, classes) and an identity embedding (B, 128)."""

    scores: Mapping[str, Tensor]
    embedding: Tensor

    def top(self, head: str) -> Tensor:
        """Best class per picture, (B,)."""
        return self.scores[head].argmax(1)

    def rows(self, part: slice) -> Reading:
        """The reading of some pictures."""
        return Reading({k: v[part] for k, v in self.scores.items()}, self.embedding[part])

    def is_face(self) -> Tensor:
        """Whether an intact face is seen, (B,) bool: the most likely kind is `face`."""
        return self.top("kind") == KINDS.index("face")


class Reader(nn.Module):
    """What a recognizer has behind its features: a head for each question, and who it is."""

    def add_heads(self, width: int, people: int) -> None:
        """Heads on features (B, width); not of `__init__`: a build's seed counts in this order."""
        self.face = nn.Linear(width, 128)
        sizes = head_sizes(people)
        self.heads = nn.ModuleDict(
            {k: nn.Linear(width, n) for k, n in sizes.items() if k != "identity"}
        )
        self.identity = nn.Linear(128, people, bias=False)

    def read(self, features: Tensor) -> Reading:
        """The reading of features; identity scores are scaled cosines."""
        embedding = F.normalize(self.face(features), dim=1)
        scores = {name: head(features) for name, head in self.heads.items()}
        scores["identity"] = 16 * embedding @ F.normalize(self.identity.weight, dim=1).T
        return Reading(scores, embedding)


class Recognizer(Reader):
    """A small CNN on pictures (B, 3, 32, 32) in [0, 1]; knows the people of one world."""

    def __init__(self, people: int) -> None:
        super().__init__()
        channels = (3, 32, 64, 128, 160)
        blocks: list[nn.Module] = []
        for before, after in pairwise(channels):
            blocks += [
                nn.Conv2d(before, after, 3, padding=1),
                nn.BatchNorm2d(after),
                nn.ReLU(),
                nn.Conv2d(after, after, 3, padding=1, groups=after // 16),
                nn.BatchNorm2d(after),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        self.body = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(160 * 4, 256), nn.ReLU())
        self.add_heads(256, people)
        self.offsets = nn.Linear(256, OFFSETS)

    def forward(self, pictures: Tensor) -> Reading:
        """Read pictures (B, 3, 32, 32) in [0, 1]."""
        return self.read(self.body(pictures * 2 - 1))

    def maps(self, pictures: Tensor) -> list[Tensor]:
        """What comes out of the blocks, from 16 x 16 places down to 2 x 2; differentiable."""
        found: list[Tensor] = []
        x = pictures * 2 - 1
        for layer in self.body:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                found.append(x)
        return found


def broken_pictures(pictures: Array, rng: np.random.Generator) -> Array:
    """Destroy pictures (B, 32, 32, 3) in ways that failed sampling looks like."""
    out = pictures.copy()
    way = rng.integers(0, 6, len(out))
    others = rng.permutation(len(out))
    for i in range(len(out)):
        picture = pictures[i]
        if way[i] == 0:
            strength = rng.uniform(0.25, 0.6)
            picture = picture + rng.normal(0, strength, picture.shape)
        elif way[i] == 1:
            size = int(rng.choice([4, 8]))
            small = picture.reshape(size, 32 // size, size, 32 // size, 3).mean(axis=(1, 3))
            picture = _resize(small, 32)
        elif way[i] == 2:
            shift = rng.normal(0, 2.2, (2, 5, 5))
            warp = np.stack([_resize(s[..., None], 32)[..., 0] for s in shift])
            grid = np.indices((32, 32)) + warp * 1.6
            rows, columns = np.clip(grid.round().astype(int), 0, 31)
            picture = picture[rows, columns]
        elif way[i] == 3:
            tiles = picture.reshape(4, 8, 4, 8, 3).transpose(0, 2, 1, 3, 4).reshape(16, 8, 8, 3)
            order = np.arange(16)
            moved = rng.choice(16, 8, replace=False)
            order[moved] = rng.permutation(moved)
            tiles = tiles[order].reshape(4, 4, 8, 8, 3)
            picture = tiles.transpose(0, 2, 1, 3, 4).reshape(32, 32, 3)
        elif way[i] == 4:
            picture = 0.5 * picture + 0.5 * np.roll(pictures[others[i]], rng.integers(-6, 7), 1)
        else:
            coarse = rng.random((int(rng.choice([2, 4, 8])),) * 2 + (3,))
            picture = _resize(coarse, 32)
        out[i] = picture
    return np.clip(out, 0, 1).astype(np.float32)


def _resize(picture: np.ndarray, size: int) -> np.ndarray:
    tensor = torch.from_numpy(np.ascontiguousarray(picture, np.float32)).permute(2, 0, 1)[None]
    large = F.interpolate(tensor, size=(size, size), mode="bilinear", align_corners=True)
    return large[0].permute(1, 2, 0).numpy()
