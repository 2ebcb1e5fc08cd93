"""The tests' starters of real hosts, for the benchmarks that need a host."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from apl_core.errors import HostError


def harness(host: str, title: str) -> ModuleType:
    """The module tests/hosts/HOST_host.py, which lies in the clone and in no wheel; HostError."""
    folder = Path(__file__).resolve().parents[1] / "tests" / "hosts"
    if not (folder / f"{host}_host.py").is_file():
        raise HostError(
            f"measure {title}",
            f"{folder} has no {host}_host.py: this is not a clone of the repository",
            "run it from a clone",
        )
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # it imports what the hosts have in common from beside it
    return importlib.import_module(f"{host}_host")
