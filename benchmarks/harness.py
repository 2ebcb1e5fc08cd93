"""The tests' starters of real hosts, for the benchmarks that need a host."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from apl_core.errors import HostError


def harness(host: str, title: str) -> ModuleType:
    """The module tests/hosts/HOST_host.py, which lies in the clone and in no wheel; HostError."""
    path = Path(__file__).resolve().parents[1] / "tests" / "hosts" / f"{host}_host.py"
    if not path.is_file():
        raise HostError(
            f"measure {title}",
            f"{path} is not there: this is not a clone of the repository",
            "run it from a clone",
        )
    spec = importlib.util.spec_from_file_location(f"apl_bench_{host}_host", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module
