"""Is a picture the one that an unprotected server makes? Judged by pixels, never by what it says.

Two pictures are near if their mean absolute difference is under a tenth of that between the covered
and the bare picture of the plain request; where texts act less than there (another text moves the
bare picture less), under as much less.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NEAR = 0.1
"""Part of the plain request's distance under which two pictures count as the same."""

UNLIKE, LIKE, NO_TEXT, UNSEEN = "unlike", "like", "no text acts", "unseen"


@dataclass(frozen=True)
class Scale:
    """Distances of the plain request: covered from bare, and bare from bare of another name."""

    covered: float
    names: float


@dataclass(frozen=True)
class Look:
    """What a comparison found; `distance` is a part of the plain request's (1 = as far apart)."""

    result: str
    distance: float | None = None
    moved: float | None = None


def distance(one: bytes, other: bytes) -> float | None:
    """Mean absolute difference of two pictures, 0 to 255; None if their sizes differ."""
    first, second = _pixels(one), _pixels(other)
    if first is None or second is None or first.shape != second.shape:
        return None
    return float(np.abs(first - second).mean())


def look(
    covered: Sequence[bytes],
    bare: Sequence[bytes],
    other: Callable[[], Sequence[bytes] | None],
    scale: Scale,
    again: Callable[[], Sequence[bytes] | None] = lambda: None,
) -> Look:
    """Compare the pictures of one request.

    `other` draws the request on the reference with another name; it is asked only if a covered
    picture is near a bare one. It gives None if the request holds no name: then nothing can show
    that its texts do not act. `again` draws the bare request once more, after it: some requests
    come out differently the first time on their own, whatever their texts.
    """
    near = [
        (far, place)
        for one in covered
        for place, two in enumerate(bare)
        if (far := distance(one, two)) is not None
    ]
    if not near:
        return Look(UNSEEN)
    nearest, place = min(near)
    part = nearest / scale.covered
    if part >= NEAR:
        return Look(UNLIKE, part)
    others = other()
    if not others or place >= len(others):
        return Look(LIKE, part)
    repeated = (again() or bare)[place : place + 1]
    found = [distance(one, others[place]) for one in (bare[place], *repeated)]
    moved = min((far for far in found if far is not None), default=None)
    if moved is None:
        return Look(LIKE, part)
    if moved == 0:
        return Look(NO_TEXT, part, 0.0)
    acts = min(1.0, moved / scale.names)  # texts may act so faintly that any pictures are near
    if part < NEAR * acts:
        return Look(LIKE, part, acts)
    return Look(NO_TEXT if acts < NEAR else UNLIKE, part, acts)


def _pixels(data: bytes) -> Any:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture.convert("RGB"), dtype=np.float64)
    except (OSError, ValueError, SyntaxError):
        return None
