"""The process that does a run of the page: `python -m apl_trainer.ui.worker_main RUNFOLDER`.

Given the folder of a trial it draws that. It tells what it does in the folder's `status.json` and
takes requests as files; whatever the page or its server do meanwhile changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from apl_core.training.callbacks import Control, Event, Finished

from ..callbacks import LeaveBeforeLearning, StatusFile
from .reported import reported
from .run_request import RunRequest
from .trial import is_trial


class WorkerCallbacks:
    """Passes on what the loop tells to the status file; a stop counts before the first step too."""

    def __init__(self, folder: Path, status: StatusFile, control: Control, measured: bool) -> None:
        self._folder, self._status, self._control = folder, status, control
        self._leave, self._measured = LeaveBeforeLearning(self._stopped), measured

    def __call__(self, event: Event) -> None:
        """Take over one event."""
        self._status(event)
        self._leave(event)
        if isinstance(event, Finished) and event.why != "stopped":
            self._status.say("measuring" if self._measured else "drawing", step=event.step)

    def _stopped(self) -> bool:
        self._control.read(self._folder)
        return self._control.stop.is_set()


def run(folder: Path) -> int:
    """Do or go on with what was ordered in a folder; exit code 0, or 1 if it failed."""
    if is_trial(folder):
        from .trial_job import draw_trial

        return reported(folder, draw_trial)
    return reported(folder, _learn)


def _learn(folder: Path, status: StatusFile) -> str | None:
    """Do what was ordered; a sentence about what came out, None if it was stopped."""
    order, control = RunRequest.of(folder), Control()
    status.say("loading the model")
    from .run_job import learn_checkpoint, learn_pocket

    learn = learn_pocket if order.kind == "pocket" else learn_checkpoint
    measured = order.kind == "pocket"
    return learn(folder, order, control, WorkerCallbacks(folder, status, control, measured))


def main(arguments: Sequence[str]) -> int:
    """Entry of the process."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    with contextlib.suppress(AttributeError):
        sys.stderr.reconfigure(errors="replace")  # pyright: ignore
    return run(Path(arguments[0]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
