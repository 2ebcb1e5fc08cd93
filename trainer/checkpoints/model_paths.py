"""What a path that is given as a model is: a checkpoint, a pocket model, or a folder around some.

A folder that is not a model is searched for models, so that the error names what to give instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

from apl_core.errors import AplError
from apl_core.metadata import printable

from .ldm_configs import UNET
from .safetensors_index import FIX, Contents

_DEPTH, _ENTRIES, _TOLD = 4, 4000, 5
_PIPELINE = "model_index.json"
_POCKET = ("world.json", "recognizer.safetensors")
_PICKLES = (".ckpt", ".pt", ".pth", ".bin")
_OTHER = "or a pocket model's folder"


def kind_of(path: Path) -> Literal["checkpoint", "pocket"]:
    """What loads a path, a missing one or a file being left to the reader of checkpoints.

    AplError for a folder that is neither a pipeline nor a pocket model: it names what is in it.
    """
    if not path.is_dir() or (path / _PIPELINE).is_file():
        return "checkpoint"
    if is_pocket(path):
        return "pocket"
    raise no_model(path)


def is_pocket(path: Path) -> bool:
    """Whether a folder is a pocket model's, finished or not."""
    return any((path / name).is_file() for name in _POCKET)


def no_model(path: Path) -> AplError:
    """The error for a path that holds no model itself: what it is, and what to give instead."""
    found, fix = _described(path)
    return AplError(f"use {printable(str(path), 300)} as a model", found, fix)


def _described(path: Path) -> tuple[str, str]:
    """(found, fix) for a path that is not a model."""
    if not path.is_dir():
        there = "it is a file" if path.exists() else "there is no such folder"
        return there, f"{FIX}, {_OTHER}"
    if (path.absolute().parent / _PIPELINE).is_file():
        whole = printable(str(path.parent if path.name else path.absolute().parent), 300)
        return "it is one part of a diffusers pipeline", f"give the whole of it: {whole}"
    seen, hub = _Seen.under(path), _is_hub(path)
    what = "a cache folder of the Hugging Face hub" if hub else "a folder of models and no model"
    if seen.pipelines:
        folder = "snapshot folder" if hub else "pipeline's folder"
        return f"it is {what}", f"give the {folder}: {_listed(_current_first(seen.pipelines))}"
    if seen.files:
        return f"it is {what}", f"give one of these files: {_listed(seen.files)}"
    if hub:
        return f"it is {what}, and none of its snapshots holds a model for pictures", FIX
    if seen.pickles:
        found = "its models are pickles, which could run any code"
        return found, f"use their safetensors form instead of {_listed(seen.pickles)}"
    names = sorted(os.listdir(path))
    if not names:
        return "the folder is empty", f"{FIX}, {_OTHER}"
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    told = ", ".join(printable(name, 60) for name in names[:_TOLD])
    return f"there is no model in this folder; it holds {told}{more}", f"{FIX}, {_OTHER}"


@dataclass
class _Seen:
    """Models met in a search of a folder and those below it, the nearest first."""

    pipelines: list[Path] = field(default_factory=list[Path])
    files: list[Path] = field(default_factory=list[Path])
    pickles: list[Path] = field(default_factory=list[Path])

    @staticmethod
    def under(folder: Path) -> _Seen:
        """Search level by level; it ends after so many levels and entries."""
        seen, level, left = _Seen(), [folder], _ENTRIES
        for _ in range(_DEPTH):
            entries = list(islice((p for above in level for p in _inside(above)), left))
            left -= len(entries)
            level = [path for path in entries if seen._is_to_search(path)]
        return seen

    def _is_to_search(self, path: Path) -> bool:
        """Note a model; True for a folder that may hold some."""
        if path.is_dir():
            if (path / _PIPELINE).is_file():
                self.pipelines.append(path)
                return False
            return not path.name.startswith(".") and path.name not in ("blobs", "refs")
        if path.suffix.lower() == ".safetensors":
            self.files += [path] * _is_checkpoint(path)
        elif path.suffix.lower() in _PICKLES:
            self.pickles.append(path)
        return False


def _inside(folder: Path) -> Iterator[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:  # a folder that may not be read
        return
    yield from (folder / name for name in names)


def _is_checkpoint(file: Path) -> bool:
    try:
        return bool(Contents.of(file, [file]).names(UNET))
    except AplError:
        return False


def _is_hub(path: Path) -> bool:
    """Whether a path is a hub's cache, one model in it, or the snapshots of that."""
    names = {entry.name for folder in (path, path / "hub") for entry in _inside(folder)}
    below = "snapshots" in names or any(name.startswith("models--") for name in names)
    return below or (path.absolute().parent / "refs").is_dir()


def _current_first(snapshots: Sequence[Path]) -> list[Path]:
    """Snapshots with those that `refs/main` names in front."""

    def current(path: Path) -> bool:
        try:
            main = (path.parent.parent / "refs" / "main").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return False
        return main.strip() == path.name

    return sorted(snapshots, key=lambda path: not current(path))


def _listed(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - _TOLD} more" if len(paths) > _TOLD else ""
    return ", ".join(printable(str(path), 300) for path in paths[:_TOLD]) + more
