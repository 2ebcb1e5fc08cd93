"""A Neo that has Z-Image beside SD 1.x, and prefixes for both families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import webui_hosts
from conftest import random_prefix, zimage_prefix
from forge_host import ZImage

from apl_core.formats import write_prefix

SD15: dict[str, Any] = {
    "override_settings": {"sd_model_checkpoint": "with_clip", "forge_additional_modules": []}
}


def filled(folder: Path) -> Path:
    """The folder, with prefixes for both families."""
    folder.mkdir(parents=True)
    files = {"front": random_prefix(1, 10), "studio": random_prefix(2, 8, behind=3)}
    for name, px in {**files, "z": zimage_prefix(), "studio-zimage": zimage_prefix()}.items():
        write_prefix(px, folder / f"{name}.safetensors")
    return folder


def started(data: Path, *arguments: str, **more: Any) -> ZImage:
    """A Neo with Z-Image and this data folder."""
    return ZImage(webui_hosts.INSTALLED["neo"], data, ("--nowebui", *arguments), **more)
