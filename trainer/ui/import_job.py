"""The first part of a run on a transformer's file: a folder of it and its pieces, made once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from apl_core.atomic import numbered, reason, write_text
from apl_core.errors import RunError
from apl_core.training.callbacks import Callback, Phase

from ..checkpoints.model_files import TEXT, TOKENIZER, VAE, needed
from .run_request import RunRequest

if TYPE_CHECKING:  # it brings torch
    from ..checkpoints.import_files import Files

_FROM = "imported.json"
"""In a folder that was made: the files that it was made of."""


def imported(order: RunRequest, callback: Callback) -> RunRequest:
    """The order on the folder that its files are made into, now or by an earlier run; AplErrors."""
    from ..checkpoints.import_files import import_files

    if order.pieces is None:
        return order
    network, *pieces = map(Path, (order.model, *order.pieces))
    marks = json.dumps([_mark(path) for path in (network, *pieces)], indent=1)
    out = numbered(
        Path(order.into) / network.stem, taken=lambda path: path.exists() and _said(path) != marks
    )
    if not out.exists():
        import_files(_files(network, pieces), out, lambda said: callback(Phase(said, 0, 0)))
        try:
            write_text(out / _FROM, marks)
        except OSError as error:
            raise RunError(f"write into {out}", *reason(error)) from error
    return replace(order, model=str(out), pieces=None)


def _files(network: Path, pieces: Sequence[Path]) -> Files:
    """The files by what `needed` asks them for, in its order."""
    from ..checkpoints.import_files import Files

    lone = needed(network)
    asked = [] if lone is None else [piece.what for piece in lone[1]]
    by: dict[str, list[Path]] = {}
    for what, path in zip(asked, pieces, strict=False):
        by.setdefault(what, []).append(path)
    vae, words = (next(iter(by.get(what, [])), None) for what in (VAE, TOKENIZER))
    return Files(network, by.get(TEXT, []), vae, words)


def _mark(path: Path) -> list[object]:
    """A file by its place, its size and when it was written."""
    try:
        stat = path.stat()
    except OSError as error:
        raise RunError(f"read {path}", *reason(error)) from error
    return [str(path), 0, 0] if path.is_dir() else [str(path), stat.st_size, stat.st_mtime_ns]


def _said(folder: Path) -> str:
    try:
        return (folder / _FROM).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
