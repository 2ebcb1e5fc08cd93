"""Paths that a run's folder remembers, found again after it and what lies around it have moved."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from apl_core.atomic import write_text
from apl_core.errors import RunError
from apl_core.metadata import printable
from apl_core.texts import read_text

from .settings import parse_json

if TYPE_CHECKING:  # it brings torch
    from apl_core.training.folder import RunFolder

Origin = TypeVar("Origin")

BUILT_IN = Path(__file__).parent / "pocket" / "weights"
"""Folder of the pocket model that the package carries."""

STATUS = "status.json"
"""What a run says of itself while it goes on, in its folder."""

ORIGIN = "origin.json"
"""Where a run's model and data come from, kept beside its settings so that it can resume."""

_NAME = "built-in"
_BESIDE = "beside"
_PLACES = (["trainer", "pocket", "weights"], ["apl_trainer", "pocket", "weights"])


def save_origin(folder: RunFolder, data: Mapping[str, Any], names: Sequence[str]) -> None:
    """Write `origin.json` into a run folder; `names` are those of its paths."""
    text = json.dumps(remembered(data, names, folder.path), ensure_ascii=False, indent=1) + "\n"
    with folder.told(f"write {ORIGIN} in"):
        write_text(folder.path / ORIGIN, text)


def read_origin(
    folder: RunFolder, names: Sequence[str], of: Callable[[dict[str, Any]], Origin]
) -> Origin:
    """What `of` makes of `origin.json`; RunError if that is missing or broken."""
    try:
        data = recalled(parse_json(read_text(folder.path / ORIGIN)), names, folder.path)
        data["names"] = None if data["names"] is None else tuple(map(str, data["names"]))
        return of(data)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(
            f"resume {folder.path}",
            f"{ORIGIN} is missing or broken ({printable(str(error), 120)})",
            "give the folder of a run that `apl train`, `apl pocket train` or `apl demo` began",
        ) from error


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
