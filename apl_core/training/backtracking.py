"""A step size that finds itself: steps that name-free prompts do not survive are taken back.

Encoders differ in how far a vector may move in one step. A step over a cliff shows at once: name-
free prompts that were drawn as ever are drawn as something else (a causal language model stops
reading the text behind the vectors), and steps from there seldom lead back. So the error of
name-free prompts, which every step measures anyway, decides. Where it is too high the vectors go
back to where the last step began, the optimizer forgets its momentum, and the step size is halved.
Where prompts are not well there either (every step measures others), they go back by one step more,
until they are. With every step that goes well the step size grows again, up to the rate of the
schedule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..example_kinds import KINDS, Kind

JUMP = 4.0
"""How many times the lowest error is too high, where prompts are not yet well (above the limit)."""

GROWTH = 1.05
"""What the step size is multiplied by after a step that went well."""

TRAIL = 16
"""How many steps can be taken back."""


@dataclass
class Backtracking:
    """Where the last steps began, and the lowest error of name-free prompts so far.

    `limit` is the error that is too high, in what another caption changes (0: any will do);
    `share` is what the step size is multiplied by; `trail` holds the rows before each of the last
    steps, the newest last; `returned` is whether the last step was one back.
    """

    limit: float
    share: float = 1.0
    lowest: float | None = None
    trail: list[dict[str, Tensor]] = field(default_factory=list[dict[str, Tensor]])
    returned: bool = False

    def too_far(self, error: float) -> bool:
        """Whether the last step is to be taken back: there is one, and this is its error."""
        return bool(self.limit and self.trail) and error > max(
            self.limit, JUMP * (self.lowest or 0.0)
        )

    def back(self, rows: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Put the rows back in place, forget the optimizer's momentum, halve the step size.

        It is halved once, however many steps are taken back in a row.
        """
        before = self.trail.pop()
        with torch.no_grad():
            for key, leaf in rows.items():
                leaf.copy_(before[key])
        optimizer.state.clear()
        if not self.returned:
            self.share /= 2
        self.returned = True

    def goes_on(self, error: float, rows: Mapping[str, Tensor]) -> None:
        """Remember the rows before a step, and the error that they have."""
        if self.limit and math.isfinite(error):
            self.lowest = error if self.lowest is None else min(error, self.lowest)
            before = {key: leaf.detach().clone() for key, leaf in rows.items()}
            self.trail = [*self.trail, before][-TRAIL:]

    def grow(self) -> None:
        """After a step that was not taken back."""
        self.returned = False
        self.share = min(1.0, self.share * GROWTH)


def free_error(losses: Mapping[str, float], weights: Mapping[Kind, float]) -> float:
    """Mean error of name-free prompts by the weights of their kinds; not a number without any."""
    total = weighted = 0.0
    for kind in KINDS:
        error = losses.get(kind)
        if kind != "identity" and error is not None:
            total += weights[kind]
            weighted += weights[kind] * error
    return weighted / total if total else math.nan
