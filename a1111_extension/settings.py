"""The page "APL Prefix" in the webui's settings."""

from __future__ import annotations

from . import config
from .webui import gradio, module

_CATEGORY = "sd"
"""The webui's own heading "Stable Diffusion"; without one it says Uncategorized."""


def register() -> None:
    """Add the options."""
    shared, gr = module("shared"), gradio()

    def add(key: str, default: object, label: str, component: object, args: object = None) -> None:
        info = shared.OptionInfo(default, label, component, args, section=config.SECTION)
        info.category_id = _CATEGORY
        info.restrict_api = key == config.FOLDERS  # whoever may call the API may not open folders
        shared.opts.add_option(key, info)

    add(config.ON_BY_DEFAULT, False, "Anonymize faces: on by default (reload the UI)", gr.Checkbox)
    add(
        config.DEFAULT_PREFIX,
        "",
        "Prefix that is chosen by default (reload the UI)",
        gr.Dropdown,
        lambda: {"choices": _choices()},
    )
    add(config.FOLDERS, "", "More folders with prefix files, one a line", gr.Textbox, {"lines": 3})


def _choices() -> list[str]:
    """All prefixes, and the chosen one also when it is gone: the page does not drop it silently."""
    names, chosen = config.library().names(), config.default_prefix()
    return ["", *names] if chosen in names or not chosen else ["", *names, chosen]
