"""Step ranges and the schedules that they are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from apl_a1111.steps import StepRange, spliced
from hypothesis import given
from hypothesis import strategies as st

from apl_core.errors import HostError


class Entry(NamedTuple):
    end_at_step: int
    cond: str


@dataclass
class Part:
    schedules: list[Entry]
    weight: float


@dataclass
class Conds:
    shape: tuple[int, ...]
    batch: list[list[Part]]


def at(schedule: list[Entry], step: int) -> str:
    """What a webui uses in a step: the first entry that has not ended, else the very first."""
    return next((one.cond for one in schedule if step <= one.end_at_step), schedule[0].cond)


@given(st.integers(1, 40), st.floats(0, 1), st.floats(0, 1), st.lists(st.integers(0, 40)))
def test_steps_inside_the_range_are_prefixed_and_no_others(
    count: int, start: float, end: float, ends: list[int]
) -> None:
    if not start < end:
        with pytest.raises(HostError, match="not a range"):
            StepRange(start, end)
        return
    wanted = StepRange(start, end)
    inside = [step for step in range(count) if start <= step / count < end]
    try:
        covered = wanted.steps(count)
    except HostError as error:
        assert "none of the" in str(error)
        return
    assert set(inside) - set(covered) == set()
    assert len(covered) - len(inside) <= 1  # a rounding of start * count or end * count
    stops = [*sorted(set(ends)), count]
    bare = Conds((1,), [[Part([Entry(stop, f"bare {stop}") for stop in stops], 0.5)]])
    prefixed = Conds((1,), [[Part([Entry(stop, f"apl {stop}") for stop in stops], 0.5)]])
    made: Any = spliced(bare, prefixed, count, covered)
    (part,) = made.batch[0]
    assert part.weight == 0.5 and made.shape == (1,)
    for step in range(count):
        want = prefixed if step in covered else bare
        assert at(part.schedules, step) == at(want.batch[0][0].schedules, step)
    last = prefixed if count - 1 in covered else bare
    assert at(part.schedules, count + 50) == at(last.batch[0][0].schedules, count - 1)


def test_text_form() -> None:
    assert StepRange.parse(str(StepRange(0.25, 1.0))) == StepRange(0.25, 1.0)
    assert StepRange().whole and not StepRange(0.0, 0.9).whole
    for text in ("", "1", "a-b", "0-0.5-1", "0.5-0.5", "0-2", "nan-1"):
        with pytest.raises(HostError):
            StepRange.parse(text)
