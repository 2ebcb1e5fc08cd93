"""What safetensors files hold: names, shapes and dtypes first, tensors only when asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from apl_core.errors import AplError
from apl_core.metadata import printable

FIX = (
    "give an SD 1.x, SD 2.x or SDXL checkpoint as one .safetensors file, or the folder of a "
    "diffusers pipeline that docs/training.md lists"
)


def refuse(path: Path, found: str, fix: str = FIX) -> AplError:
    """The error for a checkpoint that cannot be used."""
    return AplError(f"read the checkpoint {printable(str(path))}", found, fix)


@contextlib.contextmanager
def sound(path: Path) -> Generator[None, None, None]:
    """Turn what hostile or broken shapes and configs lead to into the error for a checkpoint."""
    try:
        yield
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
        StopIteration,
    ) as error:
        why = f"{type(error).__name__}: {printable(str(error), 80)}"
        found = f"unsupported or corrupt architecture ({why})"
        raise refuse(path, found, "download it again, or " + FIX) from error


@dataclass(frozen=True)
class Contents:
    """Names in one or more files that belong together, without their values."""

    path: Path
    files: Mapping[str, Path]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])

    @staticmethod
    def of(path: Path, files: Sequence[Path]) -> Contents:
        """Read the headers; AplError if a file is missing, cut off or no safetensors file."""
        places: dict[str, Path] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        dtypes: dict[str, str] = {}
        metadata: dict[str, str] = {}
        for file in files:
            with _opened(path, file) as stream:
                metadata |= stream.metadata() or {}
                for name in stream.keys():  # noqa: SIM118
                    piece = stream.get_slice(name)
                    places[name] = file
                    shapes[name] = tuple(piece.get_shape())
                    dtypes[name] = piece.get_dtype()
        return Contents(path, places, shapes, dtypes, metadata)

    def names(self, prefix: str) -> list[str]:
        """Names that begin with a prefix."""
        return [name for name in self.shapes if name.startswith(prefix)]

    def token_embedding(self, prefix: str = "") -> str:
        """The name of a text encoder's table of token embeddings; "" without one."""
        ending = "token_embedding.weight"
        return next((name for name in self.names(prefix) if name.endswith(ending)), "")

    def sketch(self, prefix: str = "") -> dict[str, Tensor]:
        """Tensors of the right shapes on the meta device, `prefix` taken off their names."""
        return {
            name.removeprefix(prefix): torch.empty(self.shapes[name], device="meta")
            for name in self.names(prefix)
        }

    def load(self, prefix: str = "", dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """The tensors under a prefix by their full names, floating ones in `dtype` if given."""
        found: dict[str, Tensor] = {}
        for file in dict.fromkeys(self.files.values()):
            with _opened(self.path, file) as stream:
                for name in (n for n in self.names(prefix) if self.files[n] == file):
                    try:
                        tensor: Tensor = stream.get_tensor(name)
                    except (SafetensorError, ValueError, TypeError) as error:
                        found_out = (
                            f"{printable(name, 80)} cannot be read ({printable(str(error), 80)})"
                        )
                        raise refuse(self.path, found_out) from error
                    if dtype is not None and tensor.is_floating_point():
                        tensor = tensor.to(dtype)
                    found[name] = tensor
        return found


def _opened(path: Path, file: Path) -> Any:
    try:
        if not file.is_file():
            raise refuse(path, f"there is no {printable(file.name)}", "check the path")
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        if file.suffix.lower() in (".ckpt", ".pt", ".bin"):
            raise refuse(
                path, "it is a pickle, which could run any code", "use its safetensors form"
            ) from error
        found = f"it is not a safetensors file, or it is cut off ({printable(str(error), 80)})"
        raise refuse(path, found, "download it again, or " + FIX) from error
