"""Weights of a file as ComfyUI has it, and networks that are filled with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apl_core.metadata import printable

from .load import placed
from .model_files import INSIDE
from .safetensors_index import Contents, refuse
from .transformer_configs import Shapes

Weights = dict[str, Tensor]


def read_weights(
    contents: Contents, dtype: torch.dtype = torch.bfloat16, begin: str = ""
) -> Weights:
    """Weights whose names have `begin` in front, which is taken off, in a dtype.

    Scaled fp8 is multiplied by its scales. AplError for others.
    """
    loaded = contents.load(begin)
    found = {name.removeprefix(begin): value for name, value in loaded.items()}
    plain: Weights = {}
    for name, value in found.items():
        if name.endswith((*_LEFT, *INSIDE)):
            continue
        if value.dtype in (torch.uint8, torch.int8):
            raise refuse(
                contents.path,
                f"{printable(name, 60)} is packed ({value.dtype})",
                "give the bf16, fp16 or scaled fp8 file that it was made from",
            )
        stem = name.removesuffix(".weight")
        scale = next((found[stem + end] for end in _SCALES if stem + end in found), None)
        if scale is not None:
            value = value.float() * scale.float().reshape(-1, *[1] * (value.dim() - 1))
        plain[name] = value.to(dtype)
    return plain


_SCALES = (".scale_weight", ".weight_scale")
_LEFT = (*_SCALES, ".scale_input", ".input_scale", "scaled_fp8", ".comfy_quant")
"""What stands beside quantized weights."""


def config_of(
    path: Path, what: str, work: Callable[[Shapes], dict[str, Any]], weights: Weights
) -> dict[str, Any]:
    try:
        return work({name: tuple(value.shape) for name, value in weights.items()})
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        found = f"weights of its {what} are missing ({printable(str(error), 80)})"
        raise refuse(path, found, "download it again") from error


def filled(path: Path, what: str, model: Any, weights: Weights) -> Any:
    """A model with these weights, every one in its place; AplError."""
    return placed(path, what, model, weights, "give the file that ComfyUI's own examples name")
