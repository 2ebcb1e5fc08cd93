"""The signed trace in a webui: one line for every chunk that the text encoders embed.

Nothing here is imported unless the operator asks for a trace (docs/operators.md).
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any

from torch import Tensor

from apl_core.errors import AplError
from apl_core.prefix import Prefix
from apl_core.trace import NEGATIVE, POSITIVE, UNKNOWN, TraceWriter, chunk_facts, describe

from . import config, request
from .hosts import Host
from .refusal import Refused
from .webui import module

_OWNER = "apl-prefix-trace"
_EOS = 49407
"""CLIP's end token, in every family that a prefix can be for."""


@dataclass(frozen=True)
class _Circumstances:
    side: str
    prefix: Prefix | None


_current: ContextVar[_Circumstances | None] = ContextVar("apl_trace", default=None)


def install(host: Host, trace: TraceWriter) -> Callable[[], None]:
    """Watch conditioning and embedding; returns what takes it back."""
    patches = module("patches")
    owner, embeddings = module("processing").StableDiffusionProcessing, host.embedding_class()
    places: list[tuple[Any, str, Any]] = [
        (owner, "get_conds_with_caching", _sided(owner.get_conds_with_caching)),
        (embeddings, "forward", _watched(embeddings.forward, trace)),
    ]
    for place, name, wrapper in places:
        if patches.original(_OWNER, place, name) is None:
            patches.patch(_OWNER, place, name, wrapper)
    trace.write("start", {"host": host.name, "enforced": config.enforced(), "digest": _digest()})

    def remove() -> None:
        for place, name, _ in places:
            if patches.original(_OWNER, place, name) is not None:
                patches.undo(_OWNER, place, name)

    return remove


def _sided(original: Any) -> Any:
    @wraps(original)
    def get_conds_with_caching(p: Any, function: Any, prompts: Any, *args: Any, **more: Any) -> Any:
        negative = getattr(prompts, "is_negative_prompt", False)
        try:
            asked = None if negative else request.of(p)
        except Refused:  # the hook inside says so
            asked = None
        circumstances = _Circumstances(
            NEGATIVE if negative else POSITIVE, None if asked is None else asked.prefix
        )
        token = _current.set(circumstances)
        try:
            return original(p, function, prompts, *args, **more)
        finally:
            _current.reset(token)

    return get_conds_with_caching


def _watched(original: Any, trace: TraceWriter) -> Any:
    @wraps(original)
    def forward(layer: Any, input_ids: Tensor) -> Any:
        embedded = original(layer, input_ids)
        now = _current.get() or _Circumstances(UNKNOWN, None)
        prefix = now.prefix or _enforced()
        prefixes = [prefix] if prefix is not None else []
        task = str(module("progress").current_task or "")
        for ids, rows in zip(input_ids.tolist(), embedded, strict=True):
            end = ids.index(_EOS) if _EOS in ids else len(ids)
            trace.write("chunk", chunk_facts(describe(rows, end, prefixes), task, now.side))
        return embedded

    return forward


def _enforced() -> Prefix | None:
    name = config.enforced()
    try:
        return config.library().load(name) if name else None
    except AplError:  # then no chunk can be shown to carry it
        return None


def _digest() -> str | None:
    prefix = _enforced()
    return None if prefix is None else prefix.digest
