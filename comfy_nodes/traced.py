# pyright: reportMissingImports=false
"""The signed trace in ComfyUI: one line for every chunk that its CLIP encoders embed.

Nothing here is imported unless the operator asks for a trace (docs/operators.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from numbers import Integral
from typing import Any

from comfy import sd1_clip
from comfy_execution.utils import get_executing_context

from apl_core.errors import AplError
from apl_core.prefix import Prefix
from apl_core.trace import NEGATIVE, POSITIVE, UNKNOWN, TraceWriter, chunk_facts, describe

from .enforce import LOAD, Catalogue, Graph, side_is_negative
from .files import library

EOS = 49407
"""CLIP's end token."""

Running = Callable[[str], Graph | None]
"""Gives the graph that runs under a prompt id."""


def install(trace: TraceWriter, running: Running, catalogue: Catalogue, enforced: str) -> None:
    """Watch the method that turns tokens into embeddings; once per process."""
    original = sd1_clip.SDClipModel.process_tokens

    @wraps(original)
    def process_tokens(self: Any, tokens: Any, device: Any) -> Any:
        result = original(self, tokens, device)
        embedded = result[0] if isinstance(result, tuple) else result
        request, side, prefixes = _circumstances(running, catalogue, enforced)
        for chunk, rows in zip(tokens, embedded, strict=True):
            seen = describe(rows, _end(chunk, len(rows)), prefixes)
            trace.write("chunk", chunk_facts(seen, request, side))
        return result

    sd1_clip.SDClipModel.process_tokens = process_tokens


def _circumstances(
    running: Running, catalogue: Catalogue, enforced: str
) -> tuple[str, str, list[Prefix]]:
    """(prompt id, side, prefixes to look for) of the node that is being executed."""
    context = get_executing_context()
    graph = running(context.prompt_id) if context is not None else None
    names = {enforced} if enforced else set[str]()
    side = UNKNOWN
    if context is not None and graph is not None:
        names |= {
            entry["inputs"]["file"]
            for entry in graph.values()
            if entry.get("class_type") == LOAD and isinstance(entry["inputs"].get("file"), str)
        }
        if context.node_id in graph:
            negative = side_is_negative(context.node_id, graph, catalogue)
            side = NEGATIVE if negative else POSITIVE
    prefixes: list[Prefix] = []
    for name in sorted(names):
        try:
            prefixes.append(library().load(name))
        except AplError:  # then no chunk can be shown to carry it
            continue
    return (context.prompt_id if context is not None else ""), side, prefixes


def _end(chunk: Sequence[Any], places: int) -> int:
    """The place of the first end token behind BOS."""
    for place, token in enumerate(chunk[1:], 1):
        if isinstance(token, Integral) and token == EOS:
            return place
    return places
