"""The process that does a run of the page: `python -m apl_trainer.ui.work RUNFOLDER`.

It tells what it does in the folder's `status.json` and takes requests as files; whatever the page
or its server do meanwhile changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apl_core.errors import AplError, RunError
from apl_core.training.events import Control, Event, Finished, Phase, Stepped

from ..watch import StatusFile
from .order import SETTINGS, Order
from .reading import LOG

if TYPE_CHECKING:
    from apl_core.training.config import TrainConfig

log = logging.getLogger("apl")


class Stopped(Exception):
    """It was asked to stop before there was anything to save."""


class Watchers:
    """Passes on what the loop tells to the status file; a stop counts before the first step too."""

    def __init__(self, folder: Path, status: StatusFile, control: Control) -> None:
        self._folder, self._status, self._control = folder, status, control
        self._stepped = False

    def __call__(self, event: Event) -> None:
        """Take over one event."""
        self._status(event)
        self._stepped |= isinstance(event, Stepped)
        if isinstance(event, Phase) and not self._stepped:
            self._control.read(self._folder)
            if self._control.stop.is_set():
                raise Stopped
        if isinstance(event, Finished) and event.why != "stopped":
            self._status.say("measuring", step=event.step)


def run(folder: Path) -> int:
    """Do or go on with the run that was ordered in a folder; exit code 0, or 1 if it failed."""
    with StatusFile(folder) as status:
        try:
            done = _pocket(folder, Order.of(folder), status)
        except (Stopped, KeyboardInterrupt):
            status.end("stopped")
            return 0
        except AplError as error:
            log.error("%s", error)
            status.end("failed", str(error))
            return 1
        except Exception as error:
            log.exception("the run failed")
            said = f"{type(error).__name__}: {error}"
            status.end("failed", f"Something unexpected: {said} The log: {folder / LOG}")
            return 1
        status.end("done" if done else "stopped", said=done or "")
    return 0


def _pocket(folder: Path, order: Order, status: StatusFile) -> str | None:
    """Learn and measure on a pocket model; a sentence about what came out, None if stopped."""
    status.say("loading the model")
    from apl_core.training.folder import RunFolder

    from ..demo import learn_and_measure, verdict
    from ..pocket.exam import identity_questions
    from ..pocket.learn import Origin, chosen_people
    from ..pocket.measure import Paper
    from ..pocket.model import load_pocket
    from ..pocket.source import training_people

    model = load_pocket(Path(order.model))
    people = chosen_people(model.world, order.names)
    run, origin = RunFolder(folder), Origin(order.model, order.names)
    if run.config.is_file():
        config = _settings(run.config)
    else:
        config = _settings(folder / SETTINGS, _preset(order.preset))
        run.create(config)
        origin.save(run)
    names, seeds, free = (4, 2, 4) if order.preset == "quick" else (64, 4, 128)
    asked = training_people(people)[0][-names:]
    paper = Paper.of(model.world, names, seeds, free)
    paper = replace(paper, trained=tuple(identity_questions(model.world, asked, seeds)))
    control = Control()
    watchers = Watchers(folder, status, control)
    flat = learn_and_measure(
        model, config, run, origin, paper, [watchers], control, lambda text: log.info("%s", text)
    )
    return None if flat is None else verdict(flat)


def _preset(key: str) -> TrainConfig:
    from ..demo import small
    from ..pocket.learn import POCKET

    presets = {
        "quick": small(POCKET), "standard": POCKET,
        "thorough": replace(POCKET, steps=2 * POCKET.steps),
    }  # fmt: skip
    if key not in presets:
        raise RunError(f"use the preset {key!r}", "there is none", f"it takes {', '.join(presets)}")
    return presets[key]


def _settings(path: Path, base: TrainConfig | None = None) -> TrainConfig:
    from apl_core.training.config import TrainConfig

    from ..data.settings import read_toml

    given: dict[str, Any] = read_toml(path)
    return TrainConfig.from_mapping(given, base)


def main(arguments: Sequence[str]) -> int:
    """Entry of the process."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    with contextlib.suppress(AttributeError):
        sys.stderr.reconfigure(errors="replace")  # pyright: ignore
    return run(Path(arguments[0]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
