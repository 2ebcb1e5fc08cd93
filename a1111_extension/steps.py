"""A range of sampling steps, made of the host's own prompt schedules."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from apl_core.errors import HostError

_FOREVER = 1_000_000
"""Last step of the last schedule entry: a host takes the first entry for a step beyond all."""


@dataclass(frozen=True)
class StepRange:
    """Steps i of n with start <= i / n < end; 0 to 1 is every step. Raises HostError."""

    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.start < self.end <= 1.0:
            raise HostError(
                f"anonymize the steps from {self.start:g} to {self.end:g}",
                "that is not a range within 0 to 1",
                "choose a start below the end, both between 0 and 1",
            )

    @property
    def whole(self) -> bool:
        """Whether every step is covered."""
        return self.start == 0.0 and self.end == 1.0

    def __str__(self) -> str:
        return f"{self.start:g}-{self.end:g}"

    @classmethod
    def parse(cls, text: str) -> StepRange:
        """The range that `str` wrote, e.g. "0.2-0.8"; HostError for anything else."""
        try:
            start, end = (float(part) for part in text.split("-"))
        except ValueError as error:
            raise HostError(
                f"read the step range {text[:40]!r}",
                "it is not two numbers with a dash between them",
                'write it like "0-0.8"',
            ) from error
        return cls(start, end)

    def steps(self, count: int) -> range:
        """The covered steps of `count`; HostError if there is none, for nothing would be done."""
        covered = range(math.ceil(self.start * count), math.ceil(self.end * count))
        if not covered:
            raise HostError(
                f"anonymize the steps from {self.start:g} to {self.end:g}",
                f"none of the {count} sampling steps lies in that range",
                "widen the range or use more steps",
            )
        return covered


def spliced(bare: Any, prefixed: Any, count: int, covered: range) -> Any:
    """The host's conditioning with `prefixed` in the covered steps, else `bare`.

    It is multi-prompt conditioning, or a list of schedules as negative prompts have it. Both come
    from one prompt, so they have the same parts; `count` is the number of steps.
    """
    if isinstance(prefixed, list):
        pairs = zip(cast("list[Any]", bare), cast("list[Any]", prefixed), strict=True)
        return [_schedule(plain, part, count, covered) for plain, part in pairs]
    batch = [
        [
            type(part)(_schedule(plain.schedules, part.schedules, count, covered), part.weight)
            for plain, part in zip(plain_parts, parts, strict=True)
        ]
        for plain_parts, parts in zip(bare.batch, prefixed.batch, strict=True)
    ]
    return type(prefixed)(prefixed.shape, batch)


def _schedule(
    bare: Sequence[Any], prefixed: Sequence[Any], count: int, covered: range
) -> list[Any]:
    picks = [_entry(prefixed if step in covered else bare, step) for step in range(count)]
    entry = type(prefixed[0])
    schedule: list[Any] = []
    for _, group in itertools.groupby(enumerate(picks), key=lambda pick: id(pick[1])):
        *_, (step, pick) = group
        schedule.append(entry(step if step < count - 1 else _FOREVER, pick.cond))
    return schedule


def _entry(schedule: Sequence[Any], step: int) -> Any:
    return next((entry for entry in schedule if step <= entry.end_at_step), schedule[0])
