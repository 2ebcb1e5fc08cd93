"""The installed webuis by name, and how one is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import a1111_host
import forge_host
from a1111_host import Webui

KINDS: dict[str, type[Webui]] = {
    "a1111": Webui,
    "reforge": forge_host.ReForge,
    "forge": forge_host.Forge,
    "neo": forge_host.Neo,
}
INSTALLED = {name: host for name in KINDS if (host := a1111_host.installed(name))}

NEWER = [name for name in INSTALLED if name != "a1111"]
FORGES = [name for name in INSTALLED if name in ("forge", "neo")]


def new(name: str, data: Path, *arguments: Any, **more: Any) -> Webui:
    """The webui of that name with this data folder; it starts as a context manager."""
    return KINDS[name](INSTALLED[name], data, *arguments, **more)
