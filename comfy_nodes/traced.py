# pyright: reportMissingImports=false
"""The signed trace in ComfyUI: one line for every chunk that a text encoder embeds.

Nothing here is imported unless the operator asks for a trace (docs/operators.md). It sees what the
encoder sees, behind every hook of ours. Where the template of a language model stands is told by
its tokens; whether a prefix stands around the text in it, by the embeddings alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from numbers import Integral
from typing import Any

from comfy import sd, sd1_clip
from comfy_execution.utils import get_executing_context

from apl_core.enforced import find
from apl_core.errors import AplError
from apl_core.prefix import Prefix
from apl_core.trace import TraceWriter, chunk_facts, describe

from .families import family_of, tokenizers
from .files import library
from .guard import Turn, lists, pads_of
from .tokenizers import host_tokenizer
from .used import Graph, loaded_files

EOS = 49407
"""CLIP's end token."""

ENCODES = ("encode_from_tokens", "encode_from_tokens_scheduled", "generate")
"""Methods by which a CLIP has its encoders read tokens."""

Running = Callable[[str], Graph | None]
"""Gives the graph that runs under a prompt id."""

_asked: ContextVar[Any] = ContextVar("apl_traced", default=None)
"""The CLIP that is asked to read tokens."""


def install(trace: TraceWriter, running: Running, enforced: str) -> None:
    """Watch the method that turns tokens into embeddings; once per process."""
    original = sd1_clip.SDClipModel.process_tokens
    known = [one.prefix for one in find(library(), enforced).values()] if enforced else []
    places = _Places(sd1_clip.SDTokenizer.tokenize_with_weights)

    @wraps(original)
    def process_tokens(self: Any, tokens: Any, *args: Any, **options: Any) -> Any:
        result = original(self, tokens, *args, **options)
        embedded = result[0] if isinstance(result, tuple) else result
        context = get_executing_context()
        request = context.prompt_id if context is not None else ""
        prefixes = known or _load(loaded_files(running(request)))
        for chunk, rows in zip(lists(tokens), embedded, strict=True):
            family, encoder, first, last = places.of(self, chunk, len(rows))
            seen = describe(rows, last, prefixes, first, encoder)
            trace.write("chunk", chunk_facts(seen, request, family))
        return result

    sd1_clip.SDClipModel.process_tokens = process_tokens
    for name in ENCODES:
        if hasattr(sd.CLIP, name):
            setattr(sd.CLIP, name, _asking(getattr(sd.CLIP, name)))


@dataclass
class _Places:
    """Where in a chunk the user's text stands; `tokenize` is the host's own method."""

    tokenize: Any
    _turns: dict[tuple[str, str], Turn] = field(default_factory=dict)

    def of(self, encoder: Any, chunk: Sequence[Any], count: int) -> tuple[str, str, int, int]:
        """(family, encoder's name, first place, place behind the last) of a chunk's text.

        Of an encoder that nobody knows everything is text, in `count` places.
        """
        clip = _asked.get()
        family, (key, tokenizer) = _family(clip), _tokenizer(clip, encoder)
        name = "" if family is None else family.name
        if encoder.special_tokens.get("end") == EOS:
            return name, key, 1, _end(chunk, count)
        if family is None or tokenizer is None or len(chunk) != count:
            return name, key, 0, count
        if (name, key) not in self._turns:
            plain, pads = host_tokenizer(tokenizer), pads_of(encoder, tokenizer)
            self._turns[name, key] = Turn((), (), plain, family, pads, run=self.tokenize)
        return name, key, *self._turns[name, key].text(chunk)


def _asking(original: Any) -> Any:
    @wraps(original)
    def encode(clip: Any, *args: Any, **options: Any) -> Any:
        token = _asked.set(clip)
        try:
            return original(clip, *args, **options)
        finally:
            _asked.reset(token)

    return encode


def _family(clip: Any) -> Any:
    """The family of a CLIP; None of none, and of one without prefixes."""
    try:
        return None if clip is None else family_of(clip)
    except AplError:
        return None


def _tokenizer(clip: Any, encoder: Any) -> tuple[str, Any]:
    """(name, tokenizer) of one of a CLIP's encoders; ("", None) for an encoder of another."""
    for key, tokenizer in tokenizers(clip.tokenizer) if clip is not None else ():
        if getattr(clip.cond_stage_model, key, None) is encoder:
            return key, tokenizer
    return "", None


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
