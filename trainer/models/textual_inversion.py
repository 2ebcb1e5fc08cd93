"""Textual inversions of other programs: old pickles read for conversion, plain files written."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import safetensors.torch
import torch
from torch import Tensor

from apl_core import atomic
from apl_core.errors import AplError, PrefixFileError
from apl_core.header import with_metadata
from apl_core.kinds import check_vectors, find_vectors
from apl_core.limits import FILE_BYTES
from apl_core.metadata import PrefixCard, printable, to_metadata
from apl_core.prefix import WIDTHS, Prefix

from ..pickles import load_pickle

_PARAMETERS = "string_to_param"  # both the authors' files and A1111's keep the vectors there
_RESERVED = {*WIDTHS, _PARAMETERS, "__metadata__"}


class _Inert:
    """Stands in for nn.ParameterDict while a pickle is read: it keeps the state, runs nothing."""


def read_pickle(path: Path, key: str | None = None, placeholder: str | None = None) -> Prefix:
    """The vectors of a textual inversion in a `.pt`; AplError.

    Of one encoder they are (n, width of `key`), `clip_l` if it is None; a file for two encoders
    tells them by their widths. Only weights are read, only by a torch that can do so safely, from
    at most 16 MiB.
    """
    asked = f"convert {printable(str(path))}"
    known = [(_Inert, "torch.nn.modules.container.ParameterDict")]
    fix = "use a textual inversion as it was saved, from somebody you trust"
    content = load_pickle(io.BytesIO(_bytes(path, asked)), asked, fix, known)
    tensors = _tensors(asked, content)
    shapes = {name: tuple(rows.shape) for name, rows in tensors.items()}
    try:
        names = find_vectors(shapes, placeholder)
        check_vectors(shapes, names)
        if key is None and tuple(names) == ("clip_h",):
            raise AplError(asked, "its vectors are for clip_h, not clip_l", "give --key clip_h")
        vectors = {
            encoder: torch.cat([tensors[name].reshape(-1, WIDTHS[encoder]) for name in parts])
            for encoder, parts in names.items()
        }
        return Prefix(vectors, card=PrefixCard(title=path.stem))
    except PrefixFileError as error:
        raise AplError(asked, error.found, error.fix) from error


def write_embedding(prefix: Prefix, path: Path, name: str | None = None) -> None:
    """Write a plain textual inversion, the prefix's rows in one move; AplError.

    `name` is the tensor's name, which diffusers takes as the token; SDXL's two have fixed names.
    """
    asked = f"write the embedding {printable(str(path))}"
    if prefix.behind:
        raise AplError(
            asked,
            f"the last {prefix.behind} of its {prefix.n} vectors stand behind the text, and an "
            "embedding stands in front only",
            "use the prefix itself in ComfyUI or A1111, or train one with num_suffix_vectors = 0",
        )
    if name is not None and (len(prefix.keys) > 1 or name in _RESERVED):
        found = f"{printable(name, 40)!r} cannot be the name of its vectors"
        raise AplError(asked, found, "leave --placeholder out")
    if name is not None and (not name or printable(name, 75) != name):
        raise AplError(
            asked, "its name is empty, over 75 characters or not printable", "shorten it"
        )
    if len(prefix.keys) == 1:
        tensors = {name or "emb_params": prefix.vectors[prefix.keys[0]]}
    else:
        tensors = dict(prefix.vectors)
    said = to_metadata(prefix.card, keys=prefix.keys, behind=0, tensors_sha256="")
    dropped = ("apl.", "modelspec.hash")
    metadata = {k: v for k, v in said.items() if not k.startswith(dropped)}
    try:
        atomic.write_bytes(path, with_metadata(safetensors.torch.save(tensors), metadata))
    except OSError as error:
        raise AplError(asked, *atomic.reason(error)) from error


def _bytes(path: Path, asked: str) -> bytes:
    """A torch zip whose parts are stored as they are, so that nothing unfolds beyond the cap."""
    fix = "use a textual inversion, saved by torch 1.6 or newer"
    try:
        with path.open("rb") as stream:
            blob = stream.read(FILE_BYTES + 1)
        if len(blob) > FILE_BYTES:
            raise AplError(asked, f"it is larger than {FILE_BYTES:,} bytes", fix)
        with zipfile.ZipFile(io.BytesIO(blob)) as parts:
            infos = parts.infolist()
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        found = f"it is not a torch file ({printable(str(error), 80)})"
        raise AplError(asked, found, fix) from error
    packed = any(info.compress_type != zipfile.ZIP_STORED for info in infos)
    if packed or sum(info.file_size for info in infos) > FILE_BYTES:
        raise AplError(asked, "its parts are packed or larger than the file", fix)
    return blob


def _tensors(asked: str, content: object) -> dict[str, Tensor]:
    """The tensors of a file's content by name; names that come again in a list are numbered."""
    held = content
    if isinstance(held, dict) and _PARAMETERS in held:
        held = cast("dict[str, object]", held)[_PARAMETERS]
    tensors: dict[str, Tensor] = {}
    for number, part in enumerate(cast("list[object]", held if isinstance(held, list) else [held])):
        inner = vars(part).get("_parameters") if isinstance(part, _Inert) else part
        table = cast("Mapping[object, object]", inner if isinstance(inner, Mapping) else {})
        for name, value in table.items():
            if isinstance(name, str) and type(value) in (Tensor, torch.nn.Parameter):
                own = f"{name}_{number}" if name in tensors else name
                tensors[own] = _plain(asked, cast(Tensor, value))
    if not tensors:
        raise AplError(
            asked,
            "it holds no vectors of a textual inversion",
            "use an embedding of the authors' code, A1111 or diffusers, not a checkpoint",
        )
    return tensors


def _plain(asked: str, rows: Tensor) -> Tensor:
    plain = rows.layout is torch.strided and rows.device.type == "cpu" and not rows.is_quantized
    if not plain or not rows.is_floating_point():
        raise AplError(asked, f"its vectors are {rows.dtype}, {rows.layout}", "use plain floats")
    return rows.detach()
