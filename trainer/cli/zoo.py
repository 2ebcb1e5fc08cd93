"""`apl zoo`: models with real text encoders to judge prefixes on, in a clone of the repository."""

from __future__ import annotations

from .bench import from_clone
from .common import Verbs


def add(verbs: Verbs) -> None:
    """Add `zoo` where this is a clone."""
    if zoo := from_clone("benchmarks.zoo.cli"):
        zoo.add(verbs)
