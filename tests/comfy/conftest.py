"""Loads the adapter under its installed name, as the pack's entry does inside ComfyUI."""

from pathlib import Path

import apl_hosting

apl_hosting.load(Path(__file__).resolve().parents[2] / "comfy_nodes", "apl_comfy")
