"""The sheet of an evaluation: a few prompts of each group, without the prefix and with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from apl_core.metadata import printable

from ..report.sheet import BEFORE_AFTER, TITLES, save_sheet
from .conditions import EvalPrompts

_EXAMPLES = 8


def save_before_after(
    path: Path,
    prompts: EvalPrompts,
    pictures: Callable[[list[int]], Sequence[Tensor]],
    scale: int,
    titles: Mapping[str, str] | None = None,
) -> None:
    """Write the same prompts and seeds without the prefix above and with it below.

    `pictures` gives both rows, (B, 3, H, W) each, of prompts by their place in all of them;
    `titles` replace those of `report.sheet`.
    """
    places: list[int] = []
    groups: list[tuple[str, int]] = []
    start = 0
    for name, title in (TITLES | dict(titles or {})).items():
        group = getattr(prompts, name)
        found = [start + i for i in _examples([q.subject for q in group], name)]
        places += found
        groups.append((title, len(found)))
        start += len(group)
    questions = [*prompts.named, *prompts.free]
    heads = [printable(questions[place].subject, 200) for place in places]
    save_sheet(pictures(places), path, BEFORE_AFTER, heads, scale, groups)


def _examples(subjects: list[str], group: str) -> list[int]:
    """Places of a few subjects; of a person's prompts the first one."""
    named = group in ("trained", "heldout")
    found = [i for i, one in enumerate(subjects) if not named or subjects.index(one) == i]
    return found[:_EXAMPLES]
