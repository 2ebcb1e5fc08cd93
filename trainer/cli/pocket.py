"""`apl pocket`: prefixes for pocket models, and whole worlds from other seeds."""

from __future__ import annotations

from . import pocket_evaluate, pocket_train
from .bench import from_clone
from .common import Verbs


def add(verbs: Verbs) -> None:
    """Add `pocket` with its own verbs; `build` and `card` where this is a clone."""
    pocket = verbs.add_parser("pocket", help="train and evaluate on pocket models, and build them")
    inner = pocket.add_subparsers(metavar="VERB", required=True)
    pocket_train.add(inner)
    pocket_evaluate.add(inner)
    if build := from_clone("benchmarks.pocket_build.cli"):
        build.add(inner)
