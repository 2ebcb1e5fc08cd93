"""A dataset to review before anything is learned from it: pictures, faces, descriptions."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the page itself loads no torch
    from apl_core.training.callbacks import Callback

    from ..checkpoints.loaded import CheckpointModel
    from ..checkpoints.train import CheckpointOrigin

log = logging.getLogger("apl")

DATA, APPROVED = "data", "approved"
"""In a run's folder: its dataset, and the sign that somebody has looked at it."""


class ReviewFirst(Exception):
    """The pictures are there, and somebody has to look at them; its text says what is odd."""


def shown_text(folder: Path) -> str:
    """The descriptions of a run's dataset as they are edited on the page, a name a line."""
    from ..data.descriptions_csv import read_descriptions

    said = read_descriptions(folder / DATA)
    return "\n".join(f"{name}: {text}" for name, text in said.items())


def reviewed(
    model: CheckpointModel, origin: CheckpointOrigin, folder: Path, callback: Callback
) -> CheckpointOrigin:
    """Draw and describe what is missing of the dataset; what to learn from.

    ReviewFirst unless somebody has approved it. Face filter and descriptions are used if what they
    need is there.
    """
    from apl_core.training.callbacks import Phase

    from ..data.checkpoint_tools import Choices, readers_here, real_tools, required_readers
    from ..data.finish import finish
    from ..data.generate import make
    from ..data.plan import Amounts, general_tasks, name_tasks, split_names
    from ..prompts import list_book
    from ..readers.weights import weights_folder

    names, count = [person.name for person in origin.people], origin.per_name
    book, size = list_book(None, None, None), origin.size or model.recognized.size
    device = str(model.denoiser.device)
    choices, told = readers_here(
        Choices(
            0,
            origin.draw_steps,
            model.recognized.guidance,
            size,
            4,
            book.negative,
            True,
            True,
            weights_folder(None),
            device,
        )
    )
    tools = real_tools(model, book, choices, *required_readers(choices))
    amounts = Amounts(count, 3 * count, count * len(names), count * len(names))
    tasks = name_tasks(split_names(names, None, 0.2, 0), amounts, tools.faces is not None)
    tasks += general_tasks(amounts, choices.batch, 0)
    total, done = sum(task.wanted for task in tasks), 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        callback(Phase("pictures", done, total))

    data = folder / DATA
    data.mkdir(parents=True, exist_ok=True)
    tools.settings.remember(data)
    make(tools, tasks, data, advance=advance)
    outcome = finish(tools, tasks, amounts, data)
    if not (folder / APPROVED).exists():
        raise ReviewFirst("\n".join([told, *outcome.warnings] if told else outcome.warnings))
    return replace(origin, data=str(data.resolve()), names=None)
