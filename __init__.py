"""ComfyUI's entry to APL Prefix; importing it does nothing until ComfyUI asks for the nodes."""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "./web"


def comfy_entrypoint() -> Any:
    """The extension with all nodes; ImportError if another clone is already loaded.

    Where an operator enforces a prefix, ComfyUI stops instead of starting without protection.
    """
    import importlib
    import os
    import sys
    from pathlib import Path

    root = Path(__file__).resolve().parent
    try:
        from . import apl_hosting
        from .apl_hosting import load

        sys.modules.setdefault("apl_hosting", apl_hosting)  # as A1111 and the wheel know it
        load(root / "apl_core", "apl_core")
        load(root / "comfy_nodes", "apl_comfy")
        return importlib.import_module("apl_comfy.extension").start()
    except Exception as error:
        if os.environ.get("APL_ENFORCE"):
            raise SystemExit(f"APL_ENFORCE is set, but APL Prefix cannot start: {error}") from error
        raise
