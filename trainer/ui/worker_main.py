"""The process that does a run of the page: `python -m apl_trainer.ui.worker_main RUNFOLDER`.

It tells what it does in the folder's `status.json` and takes requests as files; whatever the page
or its server do meanwhile changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from apl_core.errors import AplError
from apl_core.training.callbacks import Control, Event, Finished

from ..callbacks import LeaveBeforeLearning, StatusFile
from .review import ReviewFirst
from .run_request import RunRequest
from .run_status import LOG

log = logging.getLogger("apl")


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


def run(folder: Path, learn: Callable[[Path, StatusFile], str | None] | None = None) -> int:
    """Do or go on with the run that was ordered in a folder; exit code 0, or 1 if it failed.

    `learn` does what this process would do on its own model: a host does it on the loaded one.
    """
    with StatusFile(folder) as status:
        try:
            done = (learn or _learn)(folder, status)
        except ReviewFirst as pause:
            status.end("looking", said=str(pause))
            return 0
        except KeyboardInterrupt:
            status.end("stopped")
            return 0
        except AplError as error:
            log.error("%s", error)
            status.end("failed", str(error))
            return 1
        except Exception as error:
            log.exception("the run failed")
            said = f"{type(error).__name__}: {error}"
            where = (folder / LOG).resolve()
            status.end("failed", f"Something unexpected: {said}\nThe log lies in {where}")
            return 1
        status.end("done" if done else "stopped", said=done or "")
    return 0


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
