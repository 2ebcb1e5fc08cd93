"""Many runs of many kinds in one process: their order, and what has to be the same afterwards."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

RUNS = int(os.environ.get("APL_MIXED_RUNS", "100"))
"""How many; SECURITY.md has the figures of 1,000."""

GROWTH = 48.0
"""MiB by which a process may have grown since its warm-up: less than 100 KiB a run of 1,000."""

REFUSED = "refused: "


def order(kinds: Sequence[str], runs: int) -> Iterator[tuple[str, ...]]:
    """Every kind once, then any in any order; every eighth time two at once."""
    draw, left = random.Random(0), runs
    for kind in kinds:
        left -= 1
        yield (kind,)
    turn = 0
    while left > 0:
        turn += 1
        together = 2 if turn % 8 == 0 and left > 1 else 1
        left -= together
        yield tuple(draw.choice(kinds) for _ in range(together))


@dataclass
class Course:
    """What every kind gave, every time that it ran, and the memory meanwhile."""

    answers: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    counts: dict[str, int] = field(default_factory=dict[str, int])
    memory: list[float] = field(default_factory=list[float])

    @property
    def runs(self) -> int:
        return sum(self.counts.values())

    @property
    def growth(self) -> float:
        """MiB from the second quarter, when everything has been loaded once, to the last one.

        Of each the median: one look may fall into the middle of a request.
        """
        quarter = max(1, len(self.memory) // 4)
        return statistics.median(self.memory[-quarter:]) - statistics.median(
            self.memory[quarter : 2 * quarter] or self.memory
        )

    def one(self, kind: str) -> str:
        """The only answer that a kind ever gave."""
        (answer,) = self.answers[kind]
        return answer

    def mixed(self) -> list[str]:
        """The kinds that gave one answer now and another then."""
        return [kind for kind, answers in self.answers.items() if len(answers) != 1]


def course(
    kinds: Mapping[str, Callable[[], str]], runs: int, memory: Callable[[], float]
) -> Course:
    """Run them; the memory is read at 20 places on the way."""
    found = Course()
    with ThreadPoolExecutor(2) as clients:
        for together in order(list(kinds), runs):
            answers = list(clients.map(lambda kind: kinds[kind](), together))
            for kind, answer in zip(together, answers, strict=True):
                found.answers.setdefault(kind, set()).add(answer)
                found.counts[kind] = found.counts.get(kind, 0) + 1
            if found.runs * 20 >= runs * (len(found.memory) + 1):
                found.memory.append(memory())
    return found


def differences(before: Any, after: Any, place: str = "") -> list[str]:
    """Where two states are not the same."""
    if isinstance(before, list) and isinstance(after, list):
        before, after = dict(enumerate(before)), dict(enumerate(after))
    if isinstance(before, dict) and isinstance(after, dict):
        names = sorted({*before, *after})
        found = [differences(before.get(n), after.get(n), f"{place}/{n}") for n in names]
        return [one for part in found for one in part]
    return [] if before == after else [f"{place}: {before} -> {after}"]


def check(
    name: str,
    kinds: Mapping[str, Callable[[], str]],
    state: Callable[[], Any],
    memory: Callable[[], float],
    wrong: set[str],
    same: Sequence[tuple[str, str]],
) -> Course:
    """Run them all: each kind has one answer of its own, and nothing is left of any of them.

    `wrong` are the kinds that are refused, `same` pairs that have to give the same.
    """
    before, started = state(), time.monotonic()
    found = course(kinds, RUNS, memory)
    seconds = time.monotonic() - started
    after = state()
    way = [round(one) for one in found.memory]
    print(f"\n{name}: {found.runs} runs of {len(kinds)} kinds in {seconds:.0f} s;")
    print(f"memory on the way (MiB): {way}; grown by {found.growth:.1f} since its second quarter")
    left = differences(before, after)
    assert not left, "\n".join(left)
    assert found.mixed() == []
    assert {kind for kind in kinds if found.one(kind).startswith(REFUSED)} == wrong
    for one, other in same:
        assert found.one(one) == found.one(other)
    drawn = [found.one(kind) for kind in kinds if kind not in wrong]
    assert len(set(drawn)) == len(drawn) - len(same)
    assert found.growth < GROWTH
    return found
