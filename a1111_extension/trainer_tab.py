"""The tab "APL Trainer": the trainer's own page inside the webui, with the webui's checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apl_hosting

from .hosts import Host
from .webui import gradio, module

TITLE, ELEMENT = "APL Trainer", "apl_trainer"


def build(host: Host) -> list[tuple[Any, str, str]]:
    """The tab, or none where extensions may not be changed from the page."""
    if module("shared").cmd_opts.disable_extension_access:
        return []
    apl_hosting.load(Path(__file__).resolve().parent.parent / "trainer", "apl_trainer")
    from apl_trainer.ui import page

    from .training.controller import desk_of

    gr = gradio()
    with gr.Blocks(analytics_enabled=False) as tab:
        page.build(gr, desk_of(host))
    for component in tab.blocks.values():
        component.do_not_save_to_config = True
    return [(tab, TITLE, ELEMENT)]
