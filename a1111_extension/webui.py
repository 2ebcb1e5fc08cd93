"""The running webui's modules: looked up when used, so nothing here imports a host by itself."""

from __future__ import annotations

import importlib
import importlib.util
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


def tag_words() -> set[str]:
    """Words that the webui or an extension takes for tags, e.g. `lora` of `<lora:name:1>`."""
    networks = module("extra_networks")
    known = {*networks.extra_network_registry, *networks.extra_network_aliases}
    return known | {"lora", "lyco", "hypernet"}  # also where they are switched off
