# pyright: reportMissingImports=false
"""Prefix files in ComfyUI's model folders: `models/apl` and each extra model path of kind "apl"."""

from __future__ import annotations

import logging
from pathlib import Path

import folder_paths

from apl_core.library import SUFFIX, Library

KIND = "apl"
ADD = "put its file there, or learn one with APL Train Prefix"
LOG = logging.getLogger("apl")


def register() -> None:
    """Make "apl" a kind of model folder; entries of extra_model_paths.yaml stay."""
    home = Path(folder_paths.models_dir, KIND)
    folder_paths.add_model_folder_path(KIND, str(home), is_default=True)
    paths, suffixes = folder_paths.folder_names_and_paths[KIND]
    folder_paths.folder_names_and_paths[KIND] = (paths, {*suffixes, SUFFIX})  # none means any file


def library() -> Library:
    """All prefixes that this ComfyUI can see."""
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(KIND)]
    return Library(folders, tell=LOG.warning, add=ADD)
