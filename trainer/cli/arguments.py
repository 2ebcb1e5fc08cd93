"""Kinds of option values: what is out of range is told in one sentence before any work is done."""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from apl_core.errors import ConfigError
from apl_core.metadata import printable

_NAME_BYTES, _PATH_BYTES = 255, 3800


class Parser(argparse.ArgumentParser):
    """argparse's parser, whose errors are ConfigErrors: a sentence instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Raise the ConfigError for a wrong command line."""
        raise ConfigError(f"run {self.prog}", printable(message, 400), f"see `{self.prog} --help`")


def whole(low: int, high: int) -> Callable[[str], int]:
    """Whole numbers from `low` to `high`."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{printable(text, 40)!r} is not a whole number"
            ) from None
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{printable(text, 40)} is not within {low} to {high}")
        return number

    return read


def decimal(low: float, high: float) -> Callable[[str], float]:
    """Finite numbers from `low` to `high`."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{printable(text, 40)!r} is not a number") from None
        if not (math.isfinite(number) and low <= number <= high):
            raise argparse.ArgumentTypeError(
                f"{printable(text, 40)} is not within {low:g} to {high:g}"
            )
        return number

    return read


seed = whole(0, 2**63 - 1)
"""Seeds that every generator of random numbers takes, with as many pictures after them."""

run_seed = whole(0, 2**31 - 1)
"""Seeds of trainings, as `TrainConfig` has them."""

steps = whole(1, 1000)
"""Sampling steps: a schedule has 1000."""

STEPS_HELP = "sampling steps (20; a flow model 28, a distilled one as few as it wants)"

guidance = decimal(1, 100)
"""CFG scales; below 1 the negative prompt would be drawn instead of the prompt."""

clip_skip = whole(1, 48)
minutes = decimal(0.001, 100_000)


def pixels(text: str) -> int:
    """Side of a picture that latents and U-Nets can be halved down to."""
    number = whole(64, 2048)(text)
    if number % 64:
        raise argparse.ArgumentTypeError(f"{number} is not a multiple of 64")
    return number


def new_png(text: str) -> Path:
    """A PNG file that can be written."""
    return _file(text, ".png")


def new_safetensors(text: str) -> Path:
    """A safetensors file that can be written and does not exist."""
    path = _file(text, ".safetensors")
    if os.path.lexists(path):
        raise argparse.ArgumentTypeError(f"{printable(text, 200)} exists already")
    return path


def out_folder(text: str) -> Path:
    """A folder that exists or can be made, and can be written to."""
    path = Path(text)
    _check(text, [path, *path.parents])
    return path


def _file(text: str, ending: str) -> Path:
    path = Path(text)
    if path.suffix.lower() != ending:
        raise argparse.ArgumentTypeError(f"{printable(text, 200)!r} does not end with {ending}")
    if os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"{printable(text, 200)} is a folder")
    _check(text, list(path.parents))
    return path


def _check(text: str, places: list[Path]) -> None:
    """Refuse a path below the first of `places` that exists, if nothing can be written there."""
    told = printable(text, 200)
    try:
        if not text or "\0" in text:
            raise argparse.ArgumentTypeError("it is not a path")
        long = any(len(os.fsencode(part)) > _NAME_BYTES for part in Path(text).parts)
        if long or len(os.fsencode(os.path.abspath(text))) > _PATH_BYTES:
            raise argparse.ArgumentTypeError(f"{told} is too long a path")
        place = next((p for p in places if os.path.lexists(p)), Path())
        if not os.path.isdir(place):
            raise argparse.ArgumentTypeError(f"{printable(str(place), 200)} is not a folder")
        with tempfile.TemporaryFile(dir=place):
            pass
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise argparse.ArgumentTypeError(
            f"{told} cannot be written ({printable(why, 80)})"
        ) from error


def add_faces(parser: argparse.ArgumentParser) -> None:
    """Add --faces."""
    parser.add_argument(
        "--faces",
        choices=("dlib", "facexlib"),
        help="who reads faces: dlib, which `pip install 'apl-prefix[evaluate]'` brings with its "
        "weights, or facexlib with those of `apl fetch` (dlib where it is installed)",
    )


def add_shards(parser: argparse.ArgumentParser) -> None:
    """Options for several processes that share the work; `--rank` and `--of` of 0.1 do, too."""
    for flag, old, default, kind, text in (
        ("--shard", "--rank", 0, whole(0, 4095), "this process's share of the work, from 0"),
        ("--num-shards", "--of", 1, whole(1, 4096), "how many processes share the work"),
    ):
        parser.add_argument(flag, type=kind, default=default, help=text)
        name, hidden = flag[2:].replace("-", "_"), argparse.SUPPRESS
        parser.add_argument(old, dest=name, type=kind, default=hidden, help=hidden)


def check_shard(given: argparse.Namespace) -> None:
    """ConfigError unless `--shard` is one of those that `--num-shards` counts."""
    if given.shard >= given.num_shards:
        found = f"--shard {given.shard} of --num-shards {given.num_shards}"
        raise ConfigError("take a share of the work", found, "count from 0")


def refuse_ignored(given: argparse.Namespace, names: tuple[str, ...], found: str, fix: str) -> None:
    """ConfigError for every option of `names` that is given although nothing would use it."""
    values = {name: getattr(given, name) for name in names}
    told = [
        f"--{name.replace('_', '-')}"
        for name, value in values.items()
        if not (value is None or value is False or value == "")
    ]
    if told:
        raise ConfigError(f"use {', '.join(told)}", found, fix)


def refuse_idle_negative(given: argparse.Namespace) -> None:
    """ConfigError for a negative prompt beside a CFG scale of 1, at which it is not run."""
    if given.guidance == 1:
        refuse_ignored(
            given,
            ("negative",),
            "at --guidance 1 no negative prompt is run",
            "leave one of the two out",
        )
