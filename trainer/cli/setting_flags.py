"""A training's settings on the command line: one flag each, made from its declaration."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apl_core.errors import ConfigError
from apl_core.training.config import PRESETS, SETTINGS, allowed
from apl_core.training.renamed import RENAMED, renamed


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add `--config`, `--set`, and a flag for every setting, in the groups that they declare.

    The help names the recipe's values.
    """
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default="standard",
        help="; ".join(f"{key}: {one.title.partition(': ')[2]}" for key, one in PRESETS.items()),
    )
    parser.add_argument("--config", type=Path, help="settings as TOML (flags win over it)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting by its name"
    )
    groups = dict.fromkeys(declared.metadata["group"] for declared in SETTINGS.values())
    added = {group: parser.add_argument_group(f"settings: {group}") for group in groups}
    for name, declared in SETTINGS.items():
        about, choices = declared.metadata, declared.metadata["choices"]
        text = about["help"][0].lower() + about["help"][1:]
        notes = [*([] if choices else [allowed(declared)]), f"default: {declared.default}"]
        added[about["group"]].add_argument(
            f"--{name.replace('_', '-')}",
            type=parsed,
            default=argparse.SUPPRESS,  # the model decides which recipe's default it is
            metavar=f"{{{','.join(choices)}}}" if choices else "N",
            help=f"{text} ({'; '.join(notes)})",
        )
    for old in ("vectors", "behind", "rate"):  # flags of 0.1
        hidden = argparse.SUPPRESS
        parser.add_argument(f"--{old}", type=parsed, default=hidden, help=hidden)


def settings_from(given: argparse.Namespace) -> dict[str, Any]:
    """What `add_settings`'s options ask for: flags win over `--set`, that over `--config`.

    All of them win over `--preset`.
    """
    from ..settings import read_toml

    settings: dict[str, Any] = {} if given.config is None else read_toml(given.config)
    flags = {name: value for name, value in vars(given).items() if name in {*SETTINGS, *RENAMED}}
    chosen = dict(PRESETS[given.preset].settings)
    return chosen | renamed(settings) | settings_of(given.set) | renamed(flags)


def settings_of(pairs: Sequence[str]) -> dict[str, Any]:
    """Settings out of `--set`'s KEY=VALUE pairs; ConfigError where there is no =, or two names."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(
                f"set {pair}", "there is no = in it", "write --set learning_rate=0.01"
            )
        settings[name] = parsed(value)
    return renamed(settings)


def parsed(value: str) -> Any:
    """A number where the text is one, else the text."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
    return value
