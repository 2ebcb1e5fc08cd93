"""What the trainer's page is given in a webui: checkpoints, a folder for runs, who does them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apl_core.errors import HostError

from .. import config
from ..hosts import Host
from ..webui import loaded_model, module
from .loaded import OnLoaded

LOADED = "The loaded checkpoint"
_NEEDED = ("diffusers", "transformers", "jinja2", "tqdm")
"""Packages of the trainer that Forge brings; it is asked for them before a run begins."""


def desk_of(host: Host) -> Any:
    """The trainer's controller for this webui."""
    from apl_trainer.ui.controller import Controller
    from apl_trainer.ui.model_index import ModelIndex

    class Here(ModelIndex):
        def models(self) -> dict[str, Any]:
            return _loaded() if host.lends_its_model else {**_listed(), **super().models()}

    runs = Path(module("paths").data_path) / "apl-runs"
    index = Here(runs, apl_dir=config.roots()[0], looks=not host.lends_its_model)
    return Controller(index, OnLoaded(host) if host.lends_its_model else _on_a_copy())


def _loaded() -> dict[str, Any]:
    from apl_trainer.ui.model_index import Choice

    model = loaded_model()
    path = Path() if model is None else Path(model.sd_checkpoint_info.filename)
    return {LOADED: Choice(LOADED, "checkpoint", path)}


def _listed() -> dict[str, Any]:
    """The webui's own list of checkpoints, the chosen one first; pickles are not offered."""
    from apl_trainer.ui.model_index import Choice

    chosen = module("shared").opts.data.get("sd_model_checkpoint")
    known: Mapping[str, Any] = module("sd_models").checkpoints_list
    found = {info.name: info for info in known.values() if info.is_safetensors}
    names = sorted(found, key=lambda name: (chosen not in (name, found[name].title), name))
    return {name: Choice(name, "checkpoint", Path(found[name].filename)) for name in names}


def _on_a_copy() -> Any:
    """Runs as processes of their own, which load the checkpoint once more."""
    from apl_trainer.ui.launcher import Launcher

    class OnACopy(Launcher):
        def start(self, folder: Path) -> int:
            missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
            if missing:
                raise HostError(
                    "train on a copy of the checkpoint",
                    f"this webui has no {' and no '.join(missing)}",
                    "update it: Forge brings what is needed since 2024",
                )
            return super().start(folder)

    return OnACopy([sys.executable, str(Path(__file__).with_name("child.py"))])
