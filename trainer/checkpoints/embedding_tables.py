"""The token-embedding tables of a checkpoint, read alone: its networks are never loaded."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from apl_core.fit import EncoderFace, fingerprint
from apl_core.metadata import printable
from apl_core.prefix import WIDTHS

from .detect import TEXTS, refuse_foreign
from .diffusers_folder import TEXT_PARTS, weight_files
from .family import KEYS, family_of
from .model_paths import no_model
from .safetensors_index import Contents, refuse, sound

_KEYS = {**KEYS, WIDTHS["pocket"]: "pocket"}


def read_tables(path: Path) -> dict[str, Tensor]:
    """Encoder key -> token embeddings (vocabulary, width) in float32 on the CPU; AplError.

    `path` is a safetensors file in LDM layout, a diffusers folder or a pocket model's folder.
    """
    with sound(path):
        found = _in_folder(path) if path.is_dir() else _in_file(path)
        keys = [_KEYS.get(table.shape[1], f"one of width {table.shape[1]}") for table in found]
        family_of(path, keys)
        return dict(zip(keys, found, strict=True))


def faces_of(tables: dict[str, Tensor]) -> list[EncoderFace]:
    """What `apl_core.fit` asks about a checkpoint, from its tables."""
    return [EncoderFace(key, table.shape[1], fingerprint(table)) for key, table in tables.items()]


def _in_file(path: Path) -> list[Tensor]:
    contents = Contents.of(path, [path])
    names = [name for prefix in TEXTS if (name := contents.token_embedding(prefix))]
    if not names:
        refuse_foreign(contents)
    return [_table(contents, name) for name in names]


def _in_folder(path: Path) -> list[Tensor]:
    if (path / "transformer").is_dir() or (path / "text_encoder_3").is_dir():
        raise refuse(path, "it draws with a transformer (SD3, Flux or their kin)")
    parts = [part for part in TEXT_PARTS if (path / part).is_dir()]
    if not parts and not any(path.glob("model*.safetensors")):
        raise no_model(path)
    found: list[Tensor] = []
    for part in parts or [""]:
        contents = Contents.of(path, weight_files(path, part, "model"))
        name = contents.token_embedding()
        if not name:
            raise refuse(path, f"{part or 'its model.safetensors'} is not a CLIP text encoder")
        found.append(_table(contents, name))
    return found


def _table(contents: Contents, name: str) -> Tensor:
    table = contents.load(name)[name]
    if table.dim() != 2 or not table.is_floating_point() or table.shape[0] < 2:
        found = f"{printable(name)} is {tuple(table.shape)} {table.dtype}, no table"
        raise refuse(contents.path, found)
    table = table.float()
    if not bool(torch.isfinite(table).all()):
        found = f"{printable(name)} holds values that are not finite"
        raise refuse(contents.path, found, "download it again")
    return table
