"""The running webui's modules: looked up when used, so nothing here imports a host by itself."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def module(name: str) -> Any:
    """A module of the webui, e.g. `module("processing")` for its `modules.processing`."""
    return importlib.import_module(f"modules.{name}")


def exists(name: str) -> bool:
    """Whether a module of that full name can be imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def gradio() -> Any:
    """The gradio that the webui runs on (3.41 in A1111, 4.40 in Forge and Neo)."""
    return importlib.import_module("gradio")


def loaded_model() -> Any | None:
    """The loaded checkpoint, or None; never starts loading one."""
    model = module("sd_models").model_data.sd_model
    return None if getattr(model, "sd_checkpoint_info", None) is None else model


def awaited(checkpoint: object = None, modules: object = None) -> str | None:
    """The checkpoint of the next picture, if the loaded one is another or is to be loaded anew.

    `checkpoint` and `modules` (paths or names of text encoders and VAEs) are what the page's lists
    show, which the webui may not have taken over yet; without them its settings are asked.
    """
    models, model = module("sd_models"), loaded_model()
    asked = checkpoint or module("shared").opts.sd_model_checkpoint
    info = models.get_closet_checkpoint_match(asked)
    if model is None or info is None:
        return None
    same = info.filename == model.sd_checkpoint_info.filename
    wanted = getattr(models.model_data, "forge_loading_parameters", None)
    if wanted:
        same = same and models.model_data.forge_hash == str(wanted)
        if isinstance(modules, list):
            held = wanted.get("additional_modules") or []
            same = same and _file_names(held) == _file_names(modules)
    return None if same else info.name_for_extra


def _file_names(paths: Iterable[object]) -> list[str]:
    return sorted(Path(str(one)).name for one in paths)


def tag_words() -> set[str]:
    """Words that the webui or an extension takes for tags, e.g. `lora` of `<lora:name:1>`."""
    networks = module("extra_networks")
    known = {*networks.extra_network_registry, *networks.extra_network_aliases}
    return known | {"lora", "lyco", "hypernet"}  # also where they are switched off
