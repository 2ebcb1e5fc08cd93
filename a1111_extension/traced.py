"""The signed trace in a webui: one line for every text that the text encoders embed.

Nothing here is imported unless the operator asks for a trace (docs/operators.md). It knows nothing
of sides, requests and settings: what is embedded is what is written. Of CLIP that is a chunk; of a
language model, where its template stands is told by the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial, wraps
from typing import Any

from torch import Tensor

from apl_core.enforced import Enforced
from apl_core.errors import AplError
from apl_core.prefix import Prefix
from apl_core.trace import Chunk, TraceWriter, chunk_facts, describe

from . import turns
from .hosts import Host
from .language import Reader, table_of
from .webui import loaded_model, module

_OWNER = "apl-prefix-trace"
_EOS = 49407
"""CLIP's end token, in every family that a prefix can be for."""


def install(host: Host, trace: TraceWriter, enforced: Sequence[Enforced]) -> Callable[[], None]:
    """Watch what is embedded; returns what takes it back."""
    patches = module("patches")
    watch = _Watch(host, trace, [one.prefix for one in enforced])
    places = [(host.embedding_class(), "forward", watch.chunks)]
    places += [(one, "__init__", watch.made) for one in host.readers()]
    for owner, name, wrap in places:
        if patches.original(_OWNER, owner, name) is None:
            patches.patch(_OWNER, owner, name, wrap(getattr(owner, name)))
    model = loaded_model()
    with suppress(AplError):  # a checkpoint that nothing is known of is refused where it reads
        for one in host.reading(model).values() if model is not None else ():
            watch.engine(one.engine)
    one = enforced[0] if enforced else None
    facts = {"enforced": one and one.name, "digest": one and one.digest}
    trace.write("start", {"host": host.name, **facts})

    def remove() -> None:
        for owner, name, _ in places:
            if patches.original(_OWNER, owner, name) is not None:
                patches.undo(_OWNER, owner, name)
        watch.end()

    return remove


class _Watch:
    """Writes down what tables of embeddings give."""

    def __init__(self, host: Host, trace: TraceWriter, prefixes: Sequence[Prefix]) -> None:
        self._host, self._trace, self._prefixes = host, trace, prefixes
        self._handles: list[Any] = []

    def chunks(self, original: Any) -> Any:
        """What stands in for CLIP's layer of embeddings."""

        @wraps(original)
        def forward(layer: Any, input_ids: Tensor) -> Any:
            embedded = original(layer, input_ids)
            for ids, rows in zip(input_ids.tolist(), embedded, strict=True):
                end = ids.index(_EOS) if _EOS in ids else len(ids)
                self._write([describe(rows, end, self._prefixes)])
            return embedded

        return forward

    def made(self, original: Any) -> Any:
        """What stands in for the making of an engine that reads with a language model."""

        @wraps(original)
        def __init__(engine: Any, *args: Any, **more: Any) -> None:
            original(engine, *args, **more)
            self.engine(engine)

        return __init__

    def engine(self, engine: Any) -> None:
        """Watch the table of such an engine."""
        with suppress(AplError):
            hook = partial(self._turns, engine)
            self._handles.append(table_of(engine).register_forward_hook(hook))

    def end(self) -> None:
        """Watch no table anymore."""
        for one in self._handles:
            one.remove()
        self._handles.clear()

    def _turns(self, engine: Any, _layer: Any, given: tuple[Tensor, ...], found: Tensor) -> None:
        reader = self._reader(engine)
        family, key = ("", "") if reader is None else (reader.family.name, reader.key)
        scale = 1.0 if reader is None else reader.scale
        for ids, rows in zip(given[0].tolist(), found, strict=True):
            texts = _texts(reader, ids)
            about = (
                describe(rows, last, self._prefixes, first, key, scale) for first, last in texts
            )
            self._write(about, family)

    def _reader(self, engine: Any) -> Reader | None:
        try:
            return self._host.reading(loaded_model()).get(id(engine))
        except AplError:
            return None

    def _write(self, chunks: Iterable[Chunk], family: str = "") -> None:
        task = str(module("progress").current_task or "")
        for one in chunks:
            self._trace.write("chunk", chunk_facts(one, task, family))


def _texts(reader: Reader | None, ids: list[int]) -> list[tuple[int, int]]:
    """Where users' texts stand among tokens; in a template that nobody knows all is text."""
    try:
        if reader is not None:
            return list(turns.spans(reader, ids))
    except AplError:
        pass
    return [(0, len(ids))]
