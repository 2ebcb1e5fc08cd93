"""The signed trace in a webui: one line for every chunk that the text encoders embed.

Nothing here is imported unless the operator asks for a trace (docs/operators.md). It knows nothing
of sides, requests and settings: what is embedded is what is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from torch import Tensor

from apl_core.enforced import Enforced
from apl_core.prefix import Prefix
from apl_core.trace import TraceWriter, chunk_facts, describe

from .hosts import Host
from .webui import module

_OWNER = "apl-prefix-trace"
_EOS = 49407
"""CLIP's end token, in every family that a prefix can be for."""


def install(host: Host, trace: TraceWriter, enforced: Sequence[Enforced]) -> Callable[[], None]:
    """Watch what is embedded; returns what takes it back."""
    patches, embeddings = module("patches"), host.embedding_class()
    if patches.original(_OWNER, embeddings, "forward") is None:
        watched = _watched(embeddings.forward, trace, [one.prefix for one in enforced])
        patches.patch(_OWNER, embeddings, "forward", watched)
    one = enforced[0] if enforced else None
    facts = {"enforced": one and one.name, "digest": one and one.digest}
    trace.write("start", {"host": host.name, **facts})

    def remove() -> None:
        if patches.original(_OWNER, embeddings, "forward") is not None:
            patches.undo(_OWNER, embeddings, "forward")

    return remove


def _watched(original: Any, trace: TraceWriter, prefixes: list[Prefix]) -> Any:
    @wraps(original)
    def forward(layer: Any, input_ids: Tensor) -> Any:
        embedded = original(layer, input_ids)
        task = str(module("progress").current_task or "")
        for ids, rows in zip(input_ids.tolist(), embedded, strict=True):
            end = ids.index(_EOS) if _EOS in ids else len(ids)
            trace.write("chunk", chunk_facts(describe(rows, end, prefixes), task))
        return embedded

    return forward
