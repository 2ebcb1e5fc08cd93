"""The few weights of other models that optional parts need: where from, how large, which hash."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import urllib.error
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from apl_core import atomic
from apl_core.errors import AplError, ConfigError
from apl_core.metadata import printable

from ..pickles import check_torch, load_pickle

_SECONDS = 60
_SOURCE = "apl.source_sha256"
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Weight:
    """One file: its source, its bytes and SHA-256 there (None: not known to us), its name here.

    A `.pth` is kept as safetensors: only its tensors are read (torch >= 2.10).
    """

    name: str
    file: str
    url: str
    size: int | None
    sha256: str | None
    license: str
    use: str

    @property
    def converted(self) -> bool:
        """Whether what is kept is made from the file and not the file itself."""
        return self.url.endswith(".pth")


_FACEXLIB = "https://github.com/xinntao/facexlib/releases/download/v0.1.0"
_LAION = "https://huggingface.co/laion/CLIP-ViT-B-32-laion2B-s34B-b79K/resolve"
WEIGHTS = (
    Weight(
        "face-detection",
        "detection_Resnet50_Final.safetensors",
        f"{_FACEXLIB}/detection_Resnet50_Final.pth",
        109_497_761,
        "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d",
        "MIT",
        "facexlib's RetinaFace: finds and counts the faces in a picture",
    ),
    Weight(
        "face-recognition",
        "recognition_arcface_ir_se50.safetensors",
        f"{_FACEXLIB}/recognition_arcface_ir_se50.pth",
        175_367_323,
        "a035c768259b98ab1ce0e646312f48b9e1e218197a0f80ac6765e88f8b6ddf28",
        "MIT",
        "facexlib's ArcFace: whether two faces are of one person",
    ),
    Weight(
        "clip-b32",
        "open_clip_vit_b_32_laion2b.safetensors",
        f"{_LAION}/1a25a446712ba5ee05982a381eed697ef9b435cf/open_clip_model.safetensors",
        605_143_316,
        "ac4f8c4b88af6d963118cbf40ad93176d092abbedfcb752601ae1866352656e6",
        "MIT",
        "open_clip's ViT-B-32 (laion2b_s34b_b79k): descriptions, text fit, drift in meaning",
    ),
)
"""Hashes as several unrelated public projects record them; nothing was downloaded to check them."""


def weight(name: str) -> Weight:
    """The weight of that name; ConfigError lists the names there are."""
    for one in WEIGHTS:
        if one.name == name:
            return one
    names = ", ".join(one.name for one in WEIGHTS)
    raise ConfigError(
        f"fetch {printable(name, 60)!r}", "there is no such weight", f"give one of {names}"
    )


def weights_folder(asked: Path | None = None) -> Path:
    """Where weights lie: the folder asked for, $APL_WEIGHTS, or `apl/weights` in the cache."""
    if asked is not None:
        return asked
    if own := os.environ.get("APL_WEIGHTS"):
        return Path(own)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "apl" / "weights"


def present(one: Weight, folder: Path) -> Path | None:
    """The file of a weight if it lies in the folder; a copy of the source has its full size."""
    path = folder / one.file
    if not path.is_file() or (not one.converted and one.size not in (None, path.stat().st_size)):
        return None
    return path


def missing(one: Weight) -> str:
    """In words: which file is missing and where it comes from."""
    size = f"{one.size / 1e6:.0f} MB" if one.size else "size unknown"
    return f"{one.name} ({size} from {one.url}) is missing"


def fetch(
    one: Weight,
    folder: Path,
    source: Path | None = None,
    url: str | None = None,
    sha256: str | None = None,
    progress: bool = False,
) -> Path:
    """Bring a weight into the folder, from a local file or its address, checked on the way.

    Nothing stands under its name before its hash is right. AplError tells what was wrong.
    """
    asked = f"fetch {one.name}"
    wanted = _wanted(one, sha256, asked)
    target = folder / one.file
    if _made_from(target, one) == wanted:
        return target
    if one.converted:
        check_torch(asked)
    address = _address(source, url or one.url, asked)
    arrived = target.with_suffix(".arrived") if one.converted else target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _download(address, arrived, wanted, progress)
        if one.converted:
            atomic.write_bytes(target, save(_tensors(arrived, asked), {_SOURCE: wanted}))
    except (
        urllib.error.URLError,
        HTTPException,
        TimeoutError,
        ConnectionError,
        ValueError,
    ) as error:
        found = f"the source did not answer ({printable(str(error), 120)})"
        fix = "try again later, or download it elsewhere and give it with --from FILE"
        raise AplError(asked, found, fix) from error
    except RuntimeError as error:
        found = f"it is another file: {printable(str(error), 240)}; nothing was kept"
        raise AplError(asked, found, "try again, or give a good copy with --from FILE") from error
    except OSError as error:
        raise AplError(asked, *atomic.reason(error)) from error
    finally:
        if arrived != target:
            arrived.unlink(missing_ok=True)
    return target


def _download(address: str, target: Path, sha256: str, progress: bool) -> None:
    """torch's download has no time limit of its own, so that of new sockets is set meanwhile."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS)
    try:
        torch.hub.download_url_to_file(address, str(target), sha256, progress)
    finally:
        socket.setdefaulttimeout(before)


def _tensors(path: Path, asked: str) -> dict[str, Tensor]:
    """All tensors of a `.pth` state dict by name, each with a storage of its own."""
    fix = "give the file that `apl fetch` names"
    table = load_pickle(path, asked, fix)
    if not isinstance(table, dict) or not all(isinstance(v, Tensor) for v in table.values()):
        table = {}
    if not table:
        raise AplError(asked, "it holds no table of tensors", fix)
    return {str(name): tensor.clone().contiguous() for name, tensor in table.items()}


def _wanted(one: Weight, sha256: str | None, asked: str) -> str:
    given = (sha256 or one.sha256 or "").lower()
    if not given:
        raise ConfigError(
            asked,
            "its SHA-256 is not known to this version",
            "find it at a source that you trust and give it with --sha256 HEX",
        )
    if not _HEX.fullmatch(given):
        raise ConfigError(asked, "--sha256 is not 64 hexadecimal digits", "copy it whole")
    return given


def _made_from(path: Path, one: Weight) -> str:
    """SHA-256 of the source that a kept file was made from, "" if there is no readable one."""
    if not path.is_file():
        return ""
    try:
        if one.converted:
            opened: Any = safe_open(path, "pt")
            with opened as file:
                return (file.metadata() or {}).get(_SOURCE, "")
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            for block in iter(lambda: stream.read(1024 * 1024), b""):
                digest.update(block)
        return digest.hexdigest()
    except (OSError, SafetensorError, ValueError):
        return ""


def _address(source: Path | None, url: str, asked: str) -> str:
    if source is not None:
        if not source.is_file():
            found = "there is no such file"
            raise AplError(f"{asked} from {printable(str(source))}", found, "check the path")
        return source.resolve().as_uri()
    if not url.startswith(("https://", "http://")):
        raise ConfigError(asked, "the address is not an http(s) address", "or use --from FILE")
    return url
