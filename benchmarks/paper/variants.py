"""Variants of a pocket model: the same world and text encoder, another U-Net, or new words."""

from __future__ import annotations

import dataclasses
import functools
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from apl_core.encoding import ReferenceEncoder
from apl_trainer.models.clip_text import ClipTower
from apl_trainer.pocket.model import RECOGNIZER, PocketModel, load_pocket, recognizer_file

_SHARED = ("world.json", "vocab.json", "merges.txt")
_WORDS = "words.safetensors"


def save_variant(
    original: Path, unet: nn.Module | None, folder: Path, words: Mapping[str, Tensor] | None = None
) -> None:
    """Write a pocket model's folder with another U-Net, or with the rows (k, width) of new words.

    Without words it is a pocket model like any other: every `--model` option takes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in _SHARED:
        shutil.copyfile(original / name, folder / name)
    shutil.copyfile(recognizer_file(original), folder / RECOGNIZER)
    weights = load_file(original / "model.safetensors")
    if unet is not None:
        for name, value in unet.state_dict().items():
            key = f"unet.{name}"
            weights[key] = value.detach().to(weights[key].dtype).contiguous()
    save_file(weights, folder / "model.safetensors")
    if words is not None:
        save_file({k: v.detach().contiguous() for k, v in words.items()}, folder / _WORDS)


@functools.lru_cache(maxsize=4)
def load_variant(folder: Path) -> PocketModel:
    """A pocket model's folder with the new words that may lie in it."""
    model = load_pocket(folder)
    if not (folder / _WORDS).exists():
        return model
    return with_words(model, load_file(folder / _WORDS))


def with_words(model: PocketModel, words: Mapping[str, Tensor]) -> PocketModel:
    """The same model, whose text encoder knows new words (k, width); gradients are kept."""
    encoder = ReferenceEncoder([WordTower(model.encoder.towers[0], words)])
    return dataclasses.replace(model, encoder=encoder)


class WordTower(ClipTower):
    """A tower with textual inversions: a word that stands for k learned rows of its table."""

    def __init__(self, tower: Any, words: Mapping[str, Tensor]) -> None:
        assert isinstance(tower, ClipTower)
        self.__dict__.update(tower.__dict__)
        self._known = tower.table
        self._rows = torch.cat([w.to(self._known) for w in words.values()])
        self._ids: dict[str, list[int]] = {}
        place = len(self._known)
        for word, rows in words.items():
            self._ids[word] = list(range(place, place + len(rows)))
            place += len(rows)
        self._pattern = re.compile(f"({'|'.join(re.escape(w) for w in words)})")

    @property
    def table(self) -> Tensor:
        """Token embeddings (vocabulary + new rows, width)."""
        return torch.cat([self._known, self._rows])

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text; a new word becomes its rows' ids."""
        ids: list[int] = []
        for part in self._pattern.split(text):
            ids += self._ids[part] if part in self._ids else super().tokenize(part)
        return ids

    def run(self, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """As ClipTower; the network itself sees some known id where a new row stands."""
        return super().run(torch.where(ids < len(self._known), ids, 0), rows)
