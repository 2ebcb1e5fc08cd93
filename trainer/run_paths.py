"""Paths that a run's folder remembers, found again after it and what lies around it have moved."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BUILT_IN = Path(__file__).parent / "pocket" / "weights"
"""Folder of the pocket model that the package carries."""

STATUS = "status.json"
"""What a run says of itself while it goes on, in its folder."""

_NAME = "built-in"
_BESIDE = "beside"
_PLACES = (["trainer", "pocket", "weights"], ["apl_trainer", "pocket", "weights"])


def remembered(data: Mapping[str, Any], names: Sequence[str], folder: Path) -> dict[str, Any]:
    """`data` as it is written into a run's folder, its paths of these names whole.

    The built-in model is called by its name; of others the way from the folder is kept as well.
    """
    kept, beside = dict(data), dict[str, str]()
    for name in names:
        if data[name] is None:
            continue
        path = Path(data[name]).resolve()
        if path == BUILT_IN.resolve():
            kept[name] = _NAME
            continue
        kept[name] = str(path)
        with contextlib.suppress(ValueError):  # another drive on Windows
            beside[name] = Path(os.path.relpath(path, folder.resolve())).as_posix()
    return {**kept, _BESIDE: beside}


def recalled(data: Mapping[str, Any], names: Sequence[str], folder: Path) -> dict[str, Any]:
    """`data` as `remembered` was given it, its paths those of today; what is gone stays as it was.

    Folders of older versions hold whole paths alone, that of the built-in model too.
    """
    found = dict(data)
    beside = found.pop(_BESIDE, None)
    ways: Mapping[str, Any] = beside if isinstance(beside, dict) else {}
    for name in names:
        if isinstance(found.get(name), str):
            found[name] = _place(found[name], ways.get(name), folder)
    return found


def _place(path: str, way: object, folder: Path) -> str:
    if path == _NAME:
        return str(BUILT_IN)
    if os.path.exists(path):
        return path
    if re.split(r"[\\/]", path)[-3:] in _PLACES:
        return str(BUILT_IN)
    if isinstance(way, str):
        there = os.path.normpath(folder / way)
        if os.path.exists(there):
            return there
    return path
