"""Serves the page alone, on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from apl_core.errors import RunError

from .compat import closed, gradio, known, looks, queue
from .controller import Controller
from .launcher import Launcher
from .model_index import ModelIndex
from .page import build

TITLE = "APL Prefix"


def page(index: ModelIndex) -> Any:
    """The page as Gradio Blocks, not yet served."""
    gr = gradio()
    options = known(gr.Blocks.__init__, analytics_enabled=False, title=TITLE, **looks(gr))
    with gr.Blocks(**options) as blocks:
        build(gr, Controller(index, Launcher()))
    queue(blocks)
    return blocks


def serve(index: ModelIndex, host: str, port: int | None, say: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C; runs that are going on go on. RunError if the port is taken."""
    gr, blocks = gradio(), page(index)
    options = known(
        blocks.launch,
        server_name=host,
        server_port=port,
        share=False,
        inbrowser=False,
        quiet=True,
        show_error=True,
        prevent_thread_lock=True,
        show_api=False,
        ssr_mode=False,
        footer_links=[],
        run_history=False,
        show_tips=False,
        allowed_paths=[],
        blocked_paths=closed(gr),
        **looks(gr),
    )
    try:
        _, url, _ = blocks.launch(**options)
    except OSError as error:
        raise RunError(f"serve the page on {host}", str(error), "give another --port") from error
    say(f"APL Prefix: {url}\nruns: {index.runs_root}\nCtrl-C ends the page, not a run.")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        blocks.close()
