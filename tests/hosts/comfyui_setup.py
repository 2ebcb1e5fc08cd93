"""Shared by the probes that run inside the host's own Python: ComfyUI on the CPU, our package."""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def start(host: Path, models: Path) -> None:
    """Make ComfyUI's modules importable on the CPU, and load our packages as the entry does."""
    sys.path.insert(0, str(host))
    sys.argv = [sys.argv[0], "--cpu"]
    options: Any = importlib.import_module("comfy.options")
    options.enable_args_parsing()
    importlib.import_module("utils.extra_config")  # as main.py, before nodes.py hides `utils`
    folder_paths: Any = importlib.import_module("folder_paths")
    for kind in ("checkpoints", "diffusion_models", "text_encoders", "vae"):
        folder_paths.add_model_folder_path(kind, str(models / kind), is_default=True)
    sys.path.insert(0, str(REPOSITORY))
    hosting = importlib.import_module("apl_hosting")
    sys.path.remove(str(REPOSITORY))
    hosting.load(REPOSITORY / "apl_core", "apl_core")
    hosting.load(REPOSITORY / "comfy_nodes", "apl_comfy")
    importlib.import_module("apl_comfy.files").register()


@contextmanager
def raises(kind: type[BaseException], said: str = "") -> Iterator[None]:
    """AssertionError unless the block fails with this error and these words."""
    try:
        yield
    except kind as error:
        assert said in str(error), str(error)
    else:
        raise AssertionError(f"nothing failed: {kind.__name__} {said}")


def report(checks: Mapping[str, Callable[[], None]], out: Path) -> None:
    """Run every check and write what each said: an empty text, or its traceback."""
    said: dict[str, str] = {}
    for name, check in checks.items():
        try:
            check()
            said[name] = ""
        except Exception:  # one failed check must not hide the others
            said[name] = traceback.format_exc()
    out.write_text(json.dumps(said), encoding="utf-8")


def checks_in(module: ModuleType) -> dict[str, Callable[[], None]]:
    """The functions named check_* of a module, in their order."""
    return {name: value for name, value in vars(module).items() if name.startswith("check_")}


def chosen(module: ModuleType, work: Path) -> dict[str, Callable[[], None]]:
    """The checks that WORK/only.txt names, or all where there is no such file."""
    only = work / "only.txt"
    names = set(only.read_text(encoding="utf-8").split()) if only.exists() else None
    return {k: check for k, check in checks_in(module).items() if names is None or k in names}
