"""A newer webui with a checkpoint of SDXL beside those of SD 1.x, and prefixes for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import forge_host
import torch
import webui_hosts
from a1111_host import Webui

from apl_core.formats import write_prefix
from apl_core.prefix import Prefix

PREFIXES = {"xl": 0, "xl bracket": 3}
"""Rows that stand behind the text."""


def add_prefixes(folder: Path) -> None:
    """Random rows for both encoders."""
    for seed, (name, behind) in enumerate(PREFIXES.items()):
        drawn = torch.Generator().manual_seed(seed)
        widths = {"clip_l": 768, "clip_g": 1280}
        rows = {key: torch.randn(8, n, generator=drawn) * 0.05 for key, n in widths.items()}
        write_prefix(Prefix(rows, behind), folder / f"{name}.safetensors")


def with_sdxl(name: str, data: Path, *arguments: str, **more: Any) -> Webui:
    """The webui of that name, with all three checkpoints."""
    webui = webui_hosts.new(name, data, arguments, **more)
    checkpoints = data / "models" / "Stable-diffusion"
    checkpoints.mkdir(parents=True)
    (checkpoints / "sdxl.safetensors").symlink_to(forge_host.sdxl(name, webui.source))
    return webui
