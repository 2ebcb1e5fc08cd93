"""Folders, defaults and operator mode, read from the webui when they are needed."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from apl_core.library import Library

from .webui import module

log = logging.getLogger("apl")

SECTION = ("apl", "APL Prefix")
DEFAULT_PREFIX = "apl_default_prefix"
ON_BY_DEFAULT = "apl_on_by_default"
FOLDERS = "apl_folders"
ENFORCE_VARIABLE = "APL_ENFORCE"


def roots() -> tuple[Path, ...]:
    """The folders with prefix files: `--apl-dir`, `models/apl`, then those in the settings."""
    chosen = getattr(module("shared").cmd_opts, "apl_dir", None)
    first = [Path(chosen)] if chosen else []
    more = [line.strip() for line in str(_option(FOLDERS, "")).splitlines()]
    own = Path(module("paths").models_path) / "apl"
    return (*first, own, *(Path(line) for line in more if line))


def library() -> Library:
    """All prefixes that can be chosen by name."""
    return Library(roots(), tell=log.warning)


def enforced() -> str | None:
    """The prefix that the operator has switched on for every request, or None."""
    chosen = getattr(module("shared").cmd_opts, "apl_enforce", None)
    return chosen or os.environ.get(ENFORCE_VARIABLE) or None


def on_by_default() -> bool:
    """Whether requests that say nothing about it are anonymized."""
    return bool(_option(ON_BY_DEFAULT, False))


def default_prefix() -> str:
    """The prefix that the settings name for requests that name none, or an empty text."""
    return str(_option(DEFAULT_PREFIX, "") or "")


def _option(key: str, default: object) -> object:
    return module("shared").opts.data.get(key, default)
