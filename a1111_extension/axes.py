"""Axes of the X/Y/Z grid: prefix, on or off, step range."""

from __future__ import annotations

import logging
from typing import Any

from . import config
from .steps import StepRange
from .webui import module

log = logging.getLogger("apl")


def register() -> None:
    """Add the axes to the grid script, once."""
    scripts = module("scripts").scripts_data
    grid = next((one.module for one in scripts if one.path.endswith("xyz_grid.py")), None)
    if grid is None:
        log.info("There is no X/Y/Z grid script in this webui, so it gets no APL axes.")
        return
    known = {option.label for option in grid.axis_options}
    for option in _options(grid.AxisOption):
        if option.label not in known:
            grid.axis_options.append(option)


def _options(option: Any) -> list[Any]:
    return [
        option("[APL] Prefix", str, _setter("name", str), choices=lambda: config.library().names()),
        option("[APL] Anonymize", str, _setter("enabled", _switch), choices=lambda: ["off", "on"]),
        option("[APL] Steps", str, _setter("steps", StepRange.parse)),
    ]


def _setter(key: str, read: Any) -> Any:
    def apply(p: Any, value: str, _all_values: Any) -> None:
        p.apl_axes = {**getattr(p, "apl_axes", {}), key: read(value)}

    return apply


def _switch(value: str) -> bool:
    if value.lower() not in ("on", "off"):
        raise ValueError(f"[APL] Anonymize: {value!r} is neither on nor off")
    return value.lower() == "on"
