"""The few weights of other models that optional parts need: where from, how large, which hash."""

from __future__ import annotations

import hashlib
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from apl_core import atomic
from apl_core.errors import AplError, ConfigError
from apl_core.metadata import printable

from .torchfile import read_tensors

Progress = Callable[[int], object]
_BLOCK = 1024 * 1024
_SECONDS = 60
_SOURCE = "apl.source_sha256"
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Weight:
    """One file: its source, its bytes and SHA-256 there (None: not known to us), its name here.

    A `.pth` is kept as safetensors: its tensors are taken out without unpickling it.
    """

    name: str
    file: str
    url: str
    size: int | None
    sha256: str | None
    licence: str
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
    progress: Progress | None = None,
) -> Path:
    """Bring a weight into the folder, from a local file or its address, checked on the way.

    Nothing stands under its name before size and hash are right. AplError tells what was wrong.
    """
    asked = f"fetch {one.name}"
    wanted = _wanted(one, sha256, asked)
    size = one.size if sha256 is None or sha256.lower() == one.sha256 else None
    target = folder / one.file
    if _made_from(target, one) == wanted:
        return target
    opened = _local(source, asked) if source else _remote(url or one.url, asked)
    arrived = target.with_suffix(".arrived") if one.converted else target
    try:
        with closing(opened) as stream:
            folder.mkdir(parents=True, exist_ok=True)
            atomic.replace_with(arrived, _Copy(stream, size, wanted, asked, progress))
        if one.converted:
            metadata = {_SOURCE: wanted}
            atomic.write_bytes(target, save(read_tensors(arrived), metadata))
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise _unreachable(asked, error) from error
    except OSError as error:
        raise AplError(asked, *atomic.reason(error)) from error
    finally:
        if arrived != target:
            arrived.unlink(missing_ok=True)
    return target


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...

    def close(self) -> object: ...


@dataclass(frozen=True)
class _Copy:
    """Copies a stream block by block and refuses what is too long, too short or another file."""

    stream: _Readable
    size: int | None
    sha256: str
    asked: str
    progress: Progress | None

    def __call__(self, out: BinaryIO) -> None:
        digest, done = hashlib.sha256(), 0
        while block := self.stream.read(_BLOCK):
            done += len(block)
            if self.size is not None and done > self.size:
                raise self._wrong(f"more than the expected {self.size:,} bytes came")
            digest.update(block)
            out.write(block)
            if self.progress:
                self.progress(len(block))
        if self.size not in (None, done):
            raise self._wrong(f"{done:,} bytes came, expected {self.size:,}")
        if digest.hexdigest() != self.sha256:
            raise self._wrong(f"its SHA-256 is {digest.hexdigest()}, expected {self.sha256}")

    def _wrong(self, found: str) -> AplError:
        return AplError(
            self.asked,
            f"{found}; nothing was kept",
            "try again, or give a good copy with --from FILE",
        )


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
            while block := stream.read(_BLOCK):
                digest.update(block)
        return digest.hexdigest()
    except (OSError, SafetensorError, ValueError):
        return ""


def _local(source: Path, asked: str) -> BinaryIO:
    try:
        return source.open("rb")
    except (OSError, ValueError) as error:
        raise AplError(
            f"{asked} from {printable(str(source))}", printable(str(error), 120), "check the path"
        ) from error


def _remote(url: str, asked: str) -> _Readable:
    if not url.startswith(("https://", "http://")):
        raise ConfigError(asked, "the address is no http(s) address", "or use --from FILE")
    try:
        return urllib.request.urlopen(url, timeout=_SECONDS)
    except (OSError, ValueError) as error:  # URLError, timeouts and broken addresses
        raise _unreachable(asked, error) from error


def _unreachable(asked: str, error: Exception) -> AplError:
    return AplError(
        asked,
        f"the source did not answer ({printable(str(error), 120)})",
        "try again later, or download it elsewhere and give it with --from FILE",
    )
