"""What the figures of a `PromptValidator` say, in words; importing it does not bring torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .callbacks import Extended

ENOUGH = 0.05
"""A prefix that leaves more of names that nothing was learned from is called an experiment.

A run that may take longer goes on where it has left more.
"""

TEXTS_ALONE = "learned on texts alone"
"""Stands in the card's recipe of a prefix that no denoiser had a part in."""


def in_short(figures: Mapping[str, float]) -> str:
    """The two figures of a validation that say most, for a progress bar; "" if there are none."""
    shown: list[str] = []
    if "name_left" in figures:
        shown.append(f"name left {figures['name_left']:.0%}")
    drifts = [figures[key] for key in ("drift_things", "drift_people") if key in figures]
    if drifts:
        shown.append(f"drift {max(drifts):.0%}")
    return ", ".join(shown)


def goes_on(event: Extended) -> str:
    """Why a run takes longer than it was to, in words."""
    return (
        f"{event.name_left:.0%} of a name is left after {event.step} steps, more than "
        f"{ENOUGH:.0%}: on to step {event.steps:,}"
    )


def verdict(figures: Mapping[str, float], recipe: str = "") -> str:
    """What the figures of a `PromptValidator` say of a prefix, for the last line of a run.

    `recipe` is the card's: it says whether any picture had a part in it.
    """
    if TEXTS_ALONE in recipe:
        return (
            "No picture had a part in this prefix: it was learned on the text encoder alone, and "
            "how much of a face is left was not measured. It is an experiment, not a protection: "
            "look at pictures of many names, trained and others."
        )
    if "name_left" not in figures or not figures.get("names_known", 1):
        unknown = "name_left" in figures
        why = "the model knows none of those kept" if unknown else "give five names or more"
        return (
            f"Nothing measured how much of a name is left ({why}): look at pictures of many names, "
            "trained and others, before you trust it."
        )
    left, off = figures["name_left"], figures.get("name_left_off")
    drift = max((figures[k] for k in ("drift_things", "drift_people") if k in figures), default=0)
    told = f"{left:.0%}" + (f" ± {off:.0%}" if off is not None else "")
    words = (
        f"Of names that nothing was learned from, {told} of what a name changes is left; prompts "
        f"without a name change by {drift:.0%} of what another caption changes."
    )
    known = figures.get("names_known", 1)
    if known < 1:
        words += f" {1 - known:.0%} of these prompts have names that the model does not know: they "
        words += "do not count."
    if left > ENOUGH:
        return f"{words} More than {ENOUGH:.0%}: this prefix is an experiment, not a protection."
    return f"{words} No face recognizer looked: look at pictures before you trust it."
