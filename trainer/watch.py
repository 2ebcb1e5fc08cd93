"""Progress bars on a terminal for runs, and Ctrl-C that stops and saves."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from tqdm import tqdm

from apl_core.training.events import Checked, Control, Event, Finished, Phase, Stepped


class Bar:
    """A listener that shows phases and steps as tqdm bars, with loss, identity and drift."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None
        self._name = ""
        self._figures: dict[str, str] = {}

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Phase):
            self._open(event.name, event.total, event.done)
        elif isinstance(event, Stepped):
            self._figures["loss"] = f"{event.loss:.4f}"
            self._open("learning", event.steps, event.step)
        elif isinstance(event, Checked):
            shown = {"identity": "identity", "drift_people": "drift", "faces": "faces"}
            for key, name in shown.items():
                if key in event.figures:
                    self._figures[name] = f"{event.figures[key]:.0%}"
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
        self._bar.update(done - self._bar.n)
        if name == "learning":
            self._bar.set_postfix(self._figures)


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
