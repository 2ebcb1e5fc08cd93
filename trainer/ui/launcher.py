"""Starts runs as processes of their own, which outlive the page and its server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from apl_core.atomic import reason
from apl_core.errors import RunError

from .run_status import LOG

COMMAND = (sys.executable, "-m", "apl_trainer.ui.worker_main")
"""Does the run in the folder that is its next argument."""


class Runner(Protocol):
    """Whoever does the work that was ordered in a folder, and tells of it in `status.json`."""

    def start(self, folder: Path) -> int:
        """Begin or go on with the run in a folder; the id of the process that does it."""
        ...

    def reap(self) -> None:
        """Take note of processes that ended."""
        ...


class Launcher:
    """The runner of `apl ui`: one detached process a run, its output in the folder's log."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = command
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self, folder: Path) -> int:
        """Begin or go on with the run in a folder; RunError if that cannot be."""
        command = [*self._command, str(folder)]
        posix = os.name == "posix"
        flags = 0 if posix else 0x00000008 | 0x00000200  # Windows: detached, own process group
        try:
            with (folder / LOG).open("ab") as log:
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=posix,
                    creationflags=flags,
                )
        except OSError as error:
            raise RunError(f"begin a run in {folder}", *reason(error)) from error
        self._children.append(child)
        return child.pid

    def reap(self) -> None:
        """Let ended children go, so that none of them looks alive."""
        self._children = [child for child in self._children if child.poll() is None]
