"""`apl bench`: the benchmarks of a clone; an installed package does not carry them."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from apl_core.errors import HostError

from .common import Verbs

CLONE = Path(__file__).resolve().parents[2]


def add(verbs: Verbs) -> None:
    """Add `bench` with the verbs of `benchmarks/`, or with a sentence where there is none."""
    if benchmarks := from_clone("benchmarks.cli"):
        benchmarks.add(verbs)
        return
    missing = verbs.add_parser("bench", help="benchmarks (in a clone of the repository)")
    missing.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    missing.set_defaults(run=run_missing)


def from_clone(name: str) -> Any:
    """A module of `benchmarks/`; None where this is not a clone of the repository."""
    if not (CLONE / "benchmarks" / "cli.py").is_file():
        return None
    if str(CLONE) not in sys.path:
        sys.path.insert(0, str(CLONE))  # worker processes look the benchmarks up by name
    return importlib.import_module(name)


def run_missing(given: argparse.Namespace) -> int:
    """HostError: there are no benchmarks here."""
    raise HostError(
        "run a benchmark",
        f"{CLONE} is not a clone of the repository, and the package does not carry benchmarks/",
        "clone the repository, `pip install -e .` in it, and run `apl bench` again",
    )
