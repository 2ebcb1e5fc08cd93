"""Load one package folder of this clone under a chosen module name, without touching sys.path."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load(folder: Path, name: str) -> ModuleType:
    """The package in `folder` as module `name`; ImportError if another clone holds that name."""
    folder = Path(folder).resolve()
    held = sys.modules.get(name)
    if held is not None:
        if _home(held) == folder:
            return held
        raise ImportError(
            f"load {folder} as {name}: this name is already held by "
            f"{_home(held) or 'a module without a file'}. Fix: keep one copy of APL Prefix "
            "(remove the other clone or `pip uninstall apl-prefix`) and restart."
        )
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(
            f"load {folder} as {name}: Python finds no loader for it. Fix: clone anew."
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _home(module: ModuleType) -> Path | None:
    file: str | None = getattr(module, "__file__", None)
    return Path(file).resolve().parent if file else None
