"""Axes of the X/Y/Z grid: prefix, on or off, step range."""

from __future__ import annotations

import logging
from typing import Any

from apl_core.errors import AplError, HostError

from . import config
from .refusal import refusal
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


def _valid(read: Any) -> Any:
    """Look at all values before the first cell: the grid says at once what is wrong."""

    def confirm(_p: Any, values: list[str]) -> None:
        try:
            for value in values:
                read(value)
        except AplError as error:
            raise refusal(error) from error

    return confirm


def _options(option: Any) -> list[Any]:
    def names() -> list[str]:
        return config.library().names()

    def load(name: str) -> object:
        return config.library().load(name)

    def axis(label: str, key: str, read: Any, check: Any, **more: Any) -> Any:
        return option(label, str, _setter(key, read), confirm=_valid(check), **more)

    return [
        axis("[APL] Prefix", "name", str, load, choices=names),
        axis("[APL] Anonymize", "enabled", _switch, _switch, choices=lambda: ["off", "on"]),
        axis("[APL] Steps", "steps", StepRange.parse, StepRange.parse),
    ]


def _setter(key: str, read: Any) -> Any:
    def apply(p: Any, value: str, _all_values: Any) -> None:
        p.apl_axes = {**getattr(p, "apl_axes", {}), key: read(value)}

    return apply


def _switch(value: str) -> bool:
    if value.lower() not in ("on", "off"):
        raise HostError(
            "read a value of the axis [APL] Anonymize",
            f"{value[:40]!r} is neither on nor off",
            "write on or off",
        )
    return value.lower() == "on"
