"""The token-embedding tables of a checkpoint, read alone: its networks are never loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from apl_core.errors import AplError
from apl_core.fit import EncoderFace, fingerprint
from apl_core.metadata import printable
from apl_core.prefix import FAMILIES, WIDTHS

from .model_paths import no_model

_LDM = (
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",  # SD 1.x
    "cond_stage_model.transformer.embeddings.token_embedding.weight",  # the same, old merges
    "cond_stage_model.model.token_embedding.weight",  # SD 2.x
    "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight",  # SDXL
    "conditioner.embedders.1.model.token_embedding.weight",
    "conditioner.embedders.0.model.token_embedding.weight",  # the SDXL refiner
)
_CLIP = "embeddings.token_embedding.weight"  # in a file of one text encoder, after any prefix
_OTHERS = {
    "joint_blocks.": "Stable Diffusion 3",
    "double_blocks.": "Flux or one of its kin",
    "text_encoders.": "a model with several encoders in one file, such as Stable Diffusion 3",
}
_WEIGHTS = ("model.safetensors", "model.fp16.safetensors")
_BY_WIDTH = {width: key for key, width in WIDTHS.items()}
_FIX = (
    "give an SD 1.x, SD 2.x or SDXL checkpoint: a single safetensors file or a diffusers folder; "
    "or a pocket model's folder"
)


def read_tables(path: Path) -> dict[str, Tensor]:
    """Encoder key -> token embeddings (vocabulary, width) in float32 on the CPU; AplError.

    `path` is a safetensors file in LDM layout, a diffusers folder or a pocket model's folder.
    """
    tables: dict[str, Tensor] = {}
    if path.is_dir():
        found = [_only_table(path, file) for file in _encoder_files(path)]
    else:
        found = _ldm_tables(path)
    for table in found:
        key = _BY_WIDTH.get(table.shape[1])
        if key is None or key in tables:
            raise _wrong(path, f"it has a text encoder of width {table.shape[1]}", _FIX)
        tables[key] = table
    if set(tables) == {"clip_g"}:
        fix = "give the SDXL base checkpoint, which draws what the prompt asks for"
        raise _wrong(path, "it is an SDXL refiner, with clip_g (1280) alone", fix)
    if frozenset(tables) not in FAMILIES:
        raise _wrong(path, f"no known family has the encoders {', '.join(tables)}", _FIX)
    return tables


def faces_of(tables: dict[str, Tensor]) -> list[EncoderFace]:
    """What `apl_core.fit` asks about a checkpoint, from its tables."""
    return [EncoderFace(key, table.shape[1], fingerprint(table)) for key, table in tables.items()]


def _ldm_tables(path: Path) -> list[Tensor]:
    with _opened(path) as stream:
        names = list(stream.keys())
        found = [_table(path, stream, name) for name in _LDM if name in names]
    if not found:
        raise _unknown(path, names)
    return found


def _encoder_files(folder: Path) -> list[Path]:
    """The files of a folder's text encoders."""
    if (folder / "transformer").is_dir() or (folder / "text_encoder_3").is_dir():
        raise _wrong(folder, "it draws with a transformer (SD3, Flux or their kin)", _FIX)
    parts = [part for part in (folder / "text_encoder", folder / "text_encoder_2") if part.is_dir()]
    files: list[Path] = []
    if not parts and not any((folder / name).is_file() for name in _WEIGHTS):
        raise no_model(folder)
    for part in parts or [folder]:
        usual = [part / name for name in _WEIGHTS]
        there = [file for file in usual if file.is_file()]
        if not there:
            raise _wrong(folder, f"there is no model.safetensors in {printable(str(part))}", _FIX)
        files.append(there[0])
    return files


def _only_table(folder: Path, file: Path) -> Tensor:
    with _opened(file) as stream:
        names = list(filter(lambda name: name.endswith(_CLIP), stream.keys()))
        if len(names) != 1:
            raise _wrong(folder, f"{file.parent.name} is no CLIP text encoder", _FIX)
        return _table(file, stream, names[0])


def _opened(path: Path) -> safe_open:
    try:
        if not path.is_file():
            raise _wrong(path, "there is no such file or folder", "check the path")
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        if path.suffix.lower() in (".ckpt", ".pt", ".bin"):
            raise _wrong(path, "it is a pickle, which could run any code", _FIX) from error
        found = f"it is no safetensors file, or it is cut off ({printable(str(error), 80)})"
        raise _wrong(path, found, _FIX) from error


def _table(path: Path, stream: safe_open, name: str) -> Tensor:
    try:
        table: Tensor = stream.get_tensor(name)
    except (SafetensorError, ValueError, TypeError) as error:
        raise _wrong(path, f"{name} cannot be read ({printable(str(error), 80)})", _FIX) from error
    if table.dim() != 2 or not table.is_floating_point() or table.shape[0] < 2:
        raise _wrong(path, f"{name} is {tuple(table.shape)} {table.dtype}, no table", _FIX)
    table = table.float()
    if not bool(torch.isfinite(table).all()):
        raise _wrong(path, f"{name} holds values that are not finite", "download it again")
    return table


def _unknown(path: Path, names: Sequence[str]) -> AplError:
    for mark, model in _OTHERS.items():
        if any(mark in name for name in names):
            return _wrong(path, f"it is {model}", _FIX)
    some = ", ".join(printable(name, 60) for name in names[:3]) or "nothing"
    found = f"it holds no text encoder of a known layout (it begins with {some})"
    return _wrong(path, found, _FIX)


def _wrong(path: Path, found: str, fix: str) -> AplError:
    return AplError(f"read the text encoders of {printable(str(path))}", found, fix)
