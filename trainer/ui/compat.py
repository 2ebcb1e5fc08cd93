"""What Gradio 3.41, 4.40 and 6 call by different names; the page itself uses what they share."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

from apl_core.errors import AplError

FONT = ["system-ui", "sans-serif"]
"""Fonts of the reader's own machine: Gradio's default theme asks a font server in some versions."""


def gradio() -> Any:
    """The module, with its statistics switched off; AplError if it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise AplError(
            "open the trainer's page",
            f"Gradio cannot be imported ({error})",
            'pip install "apl-prefix[ui]", or from a clone: pip install -e ".[ui]"',
        ) from error
    return gradio


def known(function: Callable[..., Any], **options: Any) -> dict[str, Any]:
    """Those options that a function names among its parameters."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in names}


def looks(gr: Any) -> dict[str, Any]:
    """Options of a page of our own, for its Blocks or its launch, whichever takes them."""
    return {"theme": gr.themes.Default(font=FONT, font_mono=["ui-monospace", "monospace"])}


def closed(gr: Any) -> list[str]:
    """Folders that must not be served: Gradio 3 would give out all files of the current one."""
    return [os.getcwd()] if str(gr.__version__).startswith("3.") else []


def queue(blocks: Any) -> None:
    """Let many pages be served at once."""
    options = known(blocks.queue, default_concurrency_limit=16)  # from Gradio 4 on
    blocks.queue(**(options or {"concurrency_count": 16}))
