"""Who does a run on the checkpoint that A1111 has loaded: a thread that outlives the page."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from apl_core.errors import RunError

from ..hosts import Host
from ..webui import loaded_model

if TYPE_CHECKING:
    from apl_trainer.ui.reported import Work


class OnLoaded:
    """The trainer's Runner: at most one run at a time; what it says goes into the run's folder."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._thread: threading.Thread | None = None

    def start(self, folder: Path) -> int:
        """Begin or go on with the run in a folder; AplErrors for what cannot be, before it does."""
        if self._thread is not None and self._thread.is_alive():
            raise RunError("start a run", "another one is under way", "stop it or wait for it")
        from apl_trainer.ui.trial import is_trial

        from .job import TrainPlan

        trial = is_trial(folder)
        plan = TrainPlan.of(folder.parent if trial else folder, self._host, loaded_model())
        work = partial(plan.draw if trial else plan.learn, self._host)
        self._thread = threading.Thread(target=self._run, args=(folder, work), daemon=True)
        self._thread.start()
        return os.getpid()

    def reap(self) -> None:
        """Nothing to take note of: a thread says in the folder how it ended."""

    def _run(self, folder: Path, work: Work) -> None:
        from apl_trainer.ui.reported import reported
        from apl_trainer.ui.run_status import LOG

        with _told_in(folder / LOG):
            reported(folder, work)


@contextlib.contextmanager
def _told_in(path: Path) -> Iterator[None]:
    """Write what this project says meanwhile into a run's own log as well."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    log = logging.getLogger("apl")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
