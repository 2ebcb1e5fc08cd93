# pyright: reportMissingImports=false
"""The signed trace in ComfyUI: one line for every chunk that its CLIP encoders embed.

Nothing here is imported unless the operator asks for a trace (docs/operators.md). It sees what the
encoder sees, behind every hook of ours, and knows nothing of what the gate believes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from numbers import Integral
from typing import Any

from comfy import sd1_clip
from comfy_execution.utils import get_executing_context

from apl_core.enforced import find
from apl_core.errors import AplError
from apl_core.prefix import Prefix
from apl_core.trace import TraceWriter, chunk_facts, describe

from .files import library
from .used import Graph, loaded_files

EOS = 49407
"""CLIP's end token."""

Running = Callable[[str], Graph | None]
"""Gives the graph that runs under a prompt id."""


def install(trace: TraceWriter, running: Running, enforced: str) -> None:
    """Watch the method that turns tokens into embeddings; once per process."""
    original = sd1_clip.SDClipModel.process_tokens
    known = [one.prefix for one in find(library(), enforced).values()] if enforced else []

    @wraps(original)
    def process_tokens(self: Any, tokens: Any, device: Any) -> Any:
        result = original(self, tokens, device)
        embedded = result[0] if isinstance(result, tuple) else result
        context = get_executing_context()
        request = context.prompt_id if context is not None else ""
        prefixes = known or _load(loaded_files(running(request)))
        for chunk, rows in zip(tokens, embedded, strict=True):
            seen = describe(rows, _end(chunk, len(rows)), prefixes)
            trace.write("chunk", chunk_facts(seen, request))
        return result

    sd1_clip.SDClipModel.process_tokens = process_tokens


def _load(names: Sequence[str]) -> list[Prefix]:
    """The prefixes of these names that can be read; no chunk can be shown to carry another."""
    found: list[Prefix] = []
    for name in names:
        try:
            found.append(library().load(name))
        except AplError:
            continue
    return found


def _end(chunk: Sequence[Any], places: int) -> int:
    """The place of the first end token behind BOS."""
    for place, token in enumerate(chunk[1:], 1):
        if isinstance(token, Integral) and token == EOS:
            return place
    return places
