"""General pictures that somebody has already: a folder of images with captions beside them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from apl_core.captions import Names, tells_of_people
from apl_core.errors import ConfigError
from apl_core.example_kinds import Kind
from apl_core.metadata import printable
from apl_core.texts import read_text

from ..pictures import Unreadable, open_picture, pictures_in
from .plan import Amounts, Task, drawn_split

log = logging.getLogger("apl")

_TOLD = 20
_MAX_CAPTION = 4096


def given_tasks(folder: Path, amounts: Amounts, seed: int, names: Sequence[str]) -> list[Task]:
    """A task for each image under a folder with its caption from the `.txt` beside it.

    Images in a subfolder `people` or `things` are that; for others the caption's words decide.
    What Pillow cannot read is left out with a warning that says so. One ConfigError tells every
    image that is broken and every caption that is missing.
    """
    asked = f"take general pictures from {printable(str(folder))}"
    if not folder.is_dir():
        raise ConfigError(asked, "there is no such folder", "give a folder of images with captions")
    paths, left = pictures_in(folder)
    if left:
        log.warning("%s: left out %s", asked, left)
    if not paths:
        found = f"there is no picture in it{f' but {left}' if left else ''}"
        raise ConfigError(asked, found, "give a folder of images with captions")
    problems: list[ConfigError] = []
    tasks: list[Task] = []
    everybody = Names(names)
    for path in paths:
        label = path.relative_to(folder).as_posix()
        inside = f"{asked}, {printable(label, 120)}"
        try:
            caption = _caption(path, everybody)
            open_picture(path)
        except ConfigError as problem:
            problems.append(ConfigError(inside, problem.found, problem.fix))
            continue
        except Unreadable as error:
            fix = "repair it or take it out of the folder"
            problems.append(ConfigError(inside, f"it cannot be read ({error})", fix))
            continue
        kind = _kind(path.relative_to(folder), caption)
        split = drawn_split(amounts, seed, label)
        tasks.append(Task(kind, label, 1, 1, split, path, caption))
    if problems:
        counted = f"{asked}, where {len(problems)} of {len(paths)} pictures cannot be used"
        raise ConfigError.of(counted, problems[:_TOLD])
    return tasks


def _caption(path: Path, names: Names) -> str:
    beside = path.with_suffix(".txt")
    asked = f"read the caption of {printable(str(path))}"
    fix = f"write what the picture shows into {beside.name}, or take it out of the folder"
    try:
        caption = " ".join(read_text(beside).split())
    except FileNotFoundError as error:
        raise ConfigError(asked, "its caption is missing", fix) from error
    except (OSError, ValueError) as error:
        found = f"its caption cannot be read ({printable(str(error), 80)})"
        raise ConfigError(asked, found, fix) from error
    if not caption or len(caption) > _MAX_CAPTION:
        raise ConfigError(asked, "its caption is empty or longer than 4096 characters", fix)
    if named := names.find(caption):
        found = f"its caption names {printable(named[0].name, 80)}, who is on the list"
        raise ConfigError(asked, found, "general pictures name nobody: change the caption")
    return caption


def _kind(path: Path, caption: str) -> Kind:
    for part in path.parts[:-1]:
        if part in ("people", "things"):
            return "people" if part == "people" else "things"
    return "people" if tells_of_people(caption) else "things"
