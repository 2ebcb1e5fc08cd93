"""Thin models of ComfyUI's newer families on a real server, and prefixes for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from apl_core.formats import write_prefix
from apl_core.metadata import PrefixCard
from apl_core.prefix import WIDTHS, Prefix

ENCODERS: dict[str, tuple[str, ...]] = {
    "Z-Image": ("qwen3_4b",),
    "Qwen-Image": ("qwen25_7b",),
    "Krea 2": ("qwen3vl_4b",),
    "Mage-Flow": ("qwen3vl_4b",),
    "Flux.2 Klein 4B": ("qwen3_4b",),
    "Flux.2 Klein 9B": ("qwen3_8b",),
    "Flux.1": ("clip_l", "t5xxl"),
    "Chroma": ("t5xxl",),
    "SD 3.5": ("clip_l", "clip_g", "t5xxl"),
    "Lumina 2": ("gemma2_2b",),
    "Flux.2 dev": ("mistral3_24b",),
    "Wan": ("umt5xxl",),
    "HiDream I1": ("clip_l", "clip_g", "t5xxl", "llama"),
    "ERNIE": ("ministral3_3b",),
    "SDXL": ("clip_l", "clip_g"),
    "SD 1.x": ("clip_l",),
}
"""Names of the encoders in a prefix's file, by family."""

FILES = {"PHOTOMAKER": "TestPhotoMaker", "GLIGEN": "TestGligen", "CLIP_VISION_OUTPUT": "TestVision"}
"""The pack's nodes that stand for files, by what they give."""

ALLOWED = ",".join(("TestClip", "TestModel", "TestVae", "TestTakes", *FILES.values()))
"""The pack's nodes, for APL_ENFORCE_NODES."""


def pack(base: Path) -> None:
    """Put comfyui_thin_nodes.py into a base folder of ComfyUI as a pack."""
    file = base / "custom_nodes" / "thin.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    here = str(Path(__file__).parent)
    file.write_text(
        f"import sys\nsys.path.append({here!r})\n"
        "from comfyui_thin_nodes import NODE_CLASS_MAPPINGS\n"
    )


def prefix(family: str, count: int = 6, behind: int = 2) -> Prefix:
    """A random prefix that says it was learned through this family."""
    generator = torch.Generator().manual_seed(len(family))
    rows = {
        key: torch.randn(count, WIDTHS[key], generator=generator)
        * (0.05 if key[:4] == "clip" else 0.5)
        for key in ENCODERS[family]
    }
    said = "" if all(key.startswith("clip_") for key in rows) else family
    return Prefix(rows, behind, PrefixCard(family=said))


def file_of(family: str) -> str:
    """The name of a family's prefix file."""
    return "studio-" + family.lower().replace(" ", "").replace(".", "")


def write_prefixes(base: Path, families: Sequence[str] = tuple(ENCODERS)) -> None:
    """A prefix file for each family."""
    folder = base / "models" / "apl"
    folder.mkdir(parents=True, exist_ok=True)
    for family in families:
        write_prefix(prefix(family), folder / f"{file_of(family)}.safetensors")
