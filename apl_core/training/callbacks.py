"""What a run tells its watchers, and what its watchers may ask of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event as Flag

from ..prefix import Rows
from .parallel import Group


@dataclass(frozen=True)
class Phase:
    """Long work before or between steps: what it is, and how far it is."""

    name: str
    done: int
    total: int


@dataclass(frozen=True)
class Stepped:
    """One step is done; `losses` holds the unweighted error per kind of example."""

    step: int
    steps: int
    loss: float
    losses: Mapping[str, float]
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class Validated:
    """The prefix was validated at a step; `best` says whether it is the best one so far."""

    step: int
    score: float
    figures: Mapping[str, float]
    best: bool


@dataclass(frozen=True)
class Extended:
    """Too much of names is left after `step` steps: the rate rises again, up to `steps`."""

    step: int
    steps: int
    name_left: float


@dataclass(frozen=True)
class Saved:
    """The run can be resumed from this step."""

    step: int
    path: Path


@dataclass(frozen=True)
class Previewed:
    """A preview picture was written."""

    step: int
    path: Path


@dataclass(frozen=True)
class Finished:
    """The run is over; `why` is `steps`, `stopped` or `no gain`."""

    step: int
    why: str


Event = Phase | Stepped | Validated | Extended | Saved | Previewed | Finished
Callback = Callable[[Event], None]

PhaseReport = Callable[[str, int, int], None]
"""Told what is going on, how much of it is done, and how much there is."""


def phase_report(callbacks: Sequence[Callback]) -> PhaseReport:
    """Tells callbacks of a phase, in the first process of a run alone."""

    def report(name: str, done: int, total: int) -> None:
        if Group().rank == 0:
            for callback in callbacks:
                callback(Phase(name, done, total))

    return report


@dataclass(frozen=True)
class ValidationResult:
    """How good a prefix is on prompts kept apart for choosing: lower scores are better.

    `each`: what every prompt adds to the score, for a validator that always draws all of them.
    """

    score: float
    figures: Mapping[str, float]
    each: tuple[float, ...] = ()

    def beats(self, other: ValidationResult) -> bool:
        """Whether the score is better by more than the standard error of the difference.

        The questions are the same, so the error is that of paired differences. Where it is unknown,
        for want of `each` or because others were asked, only a lower score beats this one.
        """
        if len(self.each) < 2 or len(self.each) != len(other.each):
            return not other.score < self.score
        apart = [b - a for a, b in zip(self.each, other.each, strict=True)]
        error = math.sqrt(len(apart)) * statistics.stdev(apart)
        return other.score - self.score > error


Validator = Callable[[Rows], ValidationResult]
"""Measures a prefix; must not use held-out names, for what it says decides which step is kept."""

Previewer = Callable[[Rows, Path], None]
"""Draws a contact sheet with the prefix in place into a PNG file, making its folder if needed."""


@dataclass(frozen=True)
class Control:
    """Requests to a running loop, from any thread; files of these names in the folder do too.

    `between` is called after each step with the rows as they are, in the first process of a run.
    """

    stop: Flag = field(default_factory=Flag)
    save: Flag = field(default_factory=Flag)
    preview: Flag = field(default_factory=Flag)
    between: Callable[[Rows], None] = lambda rows: None

    def read(self, folder: Path) -> None:
        """Take over requests left as files `stop`, `save` or `preview` in a run folder."""
        for name in ("stop", "save", "preview"):
            request = folder / name
            if request.exists():
                request.unlink(missing_ok=True)
                getattr(self, name).set()
