"""Whoever watches a run: bars on a terminal, a status file for a page, Ctrl-C that stops it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

from tqdm import tqdm

from apl_core.atomic import write_text
from apl_core.training.callbacks import (
    Control,
    Event,
    Extended,
    Finished,
    Phase,
    Previewed,
    Stepped,
    Validated,
)
from apl_core.training.verdict import goes_on, in_short

from .run_paths import STATUS

log = logging.getLogger("apl")

_PAUSE, _BEAT = 0.5, 2.0


class ProgressBar:
    """A callback that shows phases and steps as tqdm bars, with the loss and what was measured."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None
        self._name = ""
        self._loss = self._found = ""

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Phase):
            self._open(event.name, event.total, event.done)
        elif isinstance(event, Stepped):
            self._loss = f"loss {event.loss:.3f}"
            self._open("learning", event.steps, event.step)
        elif isinstance(event, Validated):
            self._found = in_short(event.figures)
        elif isinstance(event, Extended):
            tqdm.write(goes_on(event), sys.stderr)
        elif isinstance(event, Finished):
            self.close()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _open(self, name: str, total: int, done: int) -> None:
        if self._bar is None or self._name != name:
            self.close()
            self._bar = tqdm(total=total, initial=max(done - 1, 0), desc=name, unit="step")
            self._name = name
        self._bar.total = total
        self._bar.update(done - self._bar.n)
        if name == "learning":
            self._bar.set_postfix_str(", ".join(filter(None, (self._loss, self._found))))


class StatusFile:
    """A callback that keeps `status.json` of a run folder up to date for readers of the folder.

    A thread of its own writes at most twice a second, so that no step waits for the disk, and
    touches the file every two seconds: a reader can tell a busy run from one that was killed.
    Keys: `state` (working, done, stopped, failed), `doing`, `done`, `total`, `pace` (seconds for
    one of `total`, 0 while that is not known), `step`, `steps`, `previews`, `process`, `error`,
    `said`. A context manager; a status that cannot be written is
    logged and does not end the run.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / STATUS
        self._said: dict[str, Any] = {"state": "working", "process": os.getpid(), "previews": 0}
        self._written: dict[str, Any] = {}
        self._lock, self._over = threading.Lock(), threading.Event()
        self._beaten, self._failed = 0.0, False
        self._began, self._first = time.monotonic(), 0
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> StatusFile:
        self.say("starting")
        self._flush()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._flush()

    def __call__(self, event: Event) -> None:
        """Take over one event."""
        if isinstance(event, Phase):
            self.say(event.name, event.done, event.total)
        elif isinstance(event, Stepped):
            self.say("learning", event.step, event.steps, step=event.step, steps=event.steps)
        elif isinstance(event, Previewed):
            with self._lock:
                self._said["previews"] += 1
        elif isinstance(event, Finished):
            self.say("saving", step=event.step)

    def say(self, doing: str, done: int = 0, total: int = 0, **more: int) -> None:
        """What is being done, outside of the loop too; no `total` where it is not known."""
        now = time.monotonic()
        with self._lock:
            if doing != self._said.get("doing") or done < self._first:
                self._began, self._first = now, done
            done_here = done - self._first
            pace = round((now - self._began) / done_here, 4) if done_here else 0.0
            self._said |= {"doing": doing, "done": done, "total": total, "pace": pace, **more}

    def end(self, state: str, error: str = "", said: str = "") -> None:
        """How it ended: `done` and what came out, `stopped`, or `failed` and why."""
        with self._lock:
            self._said |= {"state": state, "error": error, "said": said}

    def _keep(self) -> None:
        while not self._over.wait(_PAUSE):
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            said = dict(self._said)
        now = time.monotonic()
        try:
            if said != self._written:
                write_text(self._path, json.dumps(said) + "\n")
                self._written, self._beaten = said, now
            elif now - self._beaten > _BEAT:
                os.utime(self._path)
                self._beaten = now
        except OSError as error:
            if not self._failed:
                log.warning("%s cannot be written: %s", self._path, error)
            self._failed = True


class LeaveBeforeLearning:
    """A callback that ends a run which is stopped before its first step: there is nothing to save.

    It raises KeyboardInterrupt in a phase of the preparation once `stopped` says so. Pictures and
    latents that are there stay, and the next run goes on from there.
    """

    def __init__(self, stopped: Callable[[], bool]) -> None:
        self._stopped, self._learning = stopped, False

    def __call__(self, event: Event) -> None:
        """Take note of one event."""
        self._learning |= isinstance(event, Stepped)
        if isinstance(event, Phase) and not self._learning and self._stopped():
            raise KeyboardInterrupt


@contextlib.contextmanager
def stop_on_interrupt(control: Control) -> Iterator[None]:
    """Let the first Ctrl-C stop the run after the step under way; the second one breaks off."""

    def ask(number: int, frame: FrameType | None) -> None:
        if control.stop.is_set():
            raise KeyboardInterrupt
        control.stop.set()
        tqdm.write("stopping after this step and saving; Ctrl-C once more breaks off")

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
