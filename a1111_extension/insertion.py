"""Put a prefix into the token chunks of a webui's text engine.

A1111 and Forge share the shapes used here: an engine turns a text into chunks of
BOS + `chunk_length` tokens + EOS with one multiplier a token, and `fixes` name the places where
the embedding layer writes vectors over the looked-up rows (that is how textual inversion works).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from apl_core.errors import HostError
from apl_core.prefix import Rows
from apl_core.tokens import arrange, room

_END = -1
"""Stands for EOS while the engine splits a text, so that padding differs from text."""

_PLACE = 0
"""Token id at a place whose looked-up row is overwritten."""


class PrefixRows:
    """Rows that the engine's embedding layer reads as if they were a textual inversion."""

    shorthash = ""  # nothing for the webui's "TI hashes": the request writes its own

    def __init__(self, name: str, rows: Tensor) -> None:
        self.name = name
        self.vectors = rows.shape[0]
        self.was_read = False
        self._rows = rows

    @property
    def vec(self) -> Tensor:
        """The rows (n, width); reading them is the proof that they reached the encoder."""
        self.was_read = True
        return self._rows


class Fix(NamedTuple):
    """Rows to write from place `offset` behind BOS on."""

    offset: int
    embedding: Any


def title(name: str) -> str:
    """What hosts that list embeddings are told of a prefix."""
    return f"apl {name}"


@dataclass
class Run:
    """One encoding with a prefix in place, and the record of what happened."""

    name: str
    rows: Rows
    every_text: bool = False
    """Whether empty texts get the prefix too."""
    readers: Mapping[int, Any] = field(default_factory=dict[int, Any])
    """How the checkpoint's language models read texts, by the id of their engine."""
    engines: set[str] = field(default_factory=set[str])
    inserted: list[PrefixRows] = field(default_factory=list[PrefixRows])

    @property
    def title(self) -> str:
        """What hosts that list embeddings are told."""
        return title(self.name)

    def verify(self) -> None:
        """HostError unless every engine was reached and read every inserted row."""
        missed = sorted(set(self.rows.vectors) - self.engines)
        if missed:
            raise _taken_over(f"the text encoder {', '.join(missed)} was never asked")
        if not all(one.was_read for one in self.inserted):
            raise _taken_over("the encoder ran without the prefix's rows")


_current: ContextVar[Run | None] = ContextVar("apl_run", default=None)


def current() -> Run | None:
    """The encoding that is under way in this thread with a prefix, if any."""
    return _current.get()


@contextmanager
def running(run: Run | None) -> Iterator[None]:
    """Encode inside with `run` in place, or bare inside with None."""
    token = _current.set(run)
    try:
        yield
    finally:
        _current.reset(token)


def prefixed_chunks(
    run: Run,
    engine: Any,
    key: str,
    texts: Sequence[str],
    process_texts: Callable[[Any, Sequence[str]], tuple[list[list[Any]], int]],
) -> tuple[list[list[Any]], int]:
    """What the engine's own `process_texts` gives, with the prefix in every chunk of every text.

    Empty texts stay as they are unless the run covers every text. HostError or PromptError.
    """
    if key not in run.rows.vectors:
        raise _taken_over(f"the text encoder {key} has no rows in this prefix")
    run.engines.add(key)
    narrow = copy.copy(engine)  # the engine itself stays untouched: other threads count tokens
    narrow.chunk_length = room(run.rows.n)
    narrow.id_end = _END
    split, token_count = process_texts(narrow, texts)
    most = max(map(len, split))
    batch: list[list[Any]] = []
    for text, chunks in zip(texts, split, strict=True):
        if run.every_text or text.strip():
            padding = [narrow.empty_chunk() for _ in range(most - len(chunks))]
            batch.append([_dressed(run, engine, key, chunk) for chunk in chunks + padding])
        else:
            batch.append(process_texts(engine, [text])[0][0])
    return batch, token_count


def emphasised(
    engine: Any,
    tokens: list[list[int]],
    multipliers: list[list[float]],
    fixes: Sequence[Sequence[Any]],
    process_tokens: Callable[[Any, list[list[int]], list[list[float]]], Any],
    emphasis: Any,
) -> Any:
    """The engine's own `process_tokens` (B, T, width), user emphasis on the text's rows alone.

    The host re-normalizes a whole chunk after weighting it; the prefix has no part in that.
    """
    weights = torch.tensor(multipliers)
    if bool((weights == 1).all()):
        return process_tokens(engine, tokens, multipliers)
    text = torch.ones_like(weights, dtype=torch.bool)
    for row, chunk_fixes in enumerate(fixes):
        for offset, embedding in chunk_fixes:
            if isinstance(embedding, PrefixRows):
                text[row, offset + 1 : offset + 1 + embedding.vectors] = False
    plain = process_tokens(engine, tokens, torch.ones_like(weights).tolist())
    text = text.to(plain.device)
    rows = weighted(emphasis, tokens, plain[text][None], weights.to(plain.device)[text][None])
    result: Any = plain.clone()
    result[text] = rows[0].to(plain.dtype)
    if hasattr(plain, "pooled"):
        result.pooled = plain.pooled  # the host hands SDXL's second output on as an attribute
    return result


def weighted(emphasis: Any, tokens: Any, rows: Tensor, weights: Tensor) -> Tensor:
    """Rows (1, n, width) with weights (1, n) as the host's emphasis puts them on."""
    if not hasattr(emphasis, "after_transformers"):  # Forge Neo since autumn 2026
        return emphasis(rows, weights)
    emphasis.tokens, emphasis.z, emphasis.multipliers = tokens, rows, weights
    emphasis.after_transformers()
    return emphasis.z


def _dressed(run: Run, engine: Any, key: str, chunk: Any) -> Any:
    """A chunk that was split with `_END` for EOS, with the prefix and the real EOS in place."""
    expected = room(run.rows.n) + 2
    if len(chunk.tokens) != expected or len(chunk.multipliers) != expected:
        raise HostError(
            f"put a prefix of {run.rows.n} vectors into the prompt",
            f"a chunk has {len(chunk.tokens)} places instead of {expected}: an embedding in the "
            f"prompt has more than the {room(run.rows.n)} vectors that fit, or another extension "
            "splits the prompt",
            "use a smaller embedding, or switch the other extension off",
        )
    text = chunk.tokens[1 : chunk.tokens.index(_END)]
    if engine.id_end in text:
        raise HostError(
            "anonymize this prompt",
            "the prompt spells the end-of-text token, which would end a chunk before the prefix",
            "remove it from the prompt",
        )
    front, back = run.rows.front(key), run.rows.back(key)
    dressed = copy.copy(chunk)
    dressed.tokens = arrange(
        text,
        bos=chunk.tokens[0],
        eos=engine.id_end,
        pad=engine.id_end,  # the host itself changes it where an encoder pads differently
        front=[_PLACE] * len(front),
        behind=[_PLACE] * len(back),
    )
    dressed.multipliers = arrange(
        chunk.multipliers[1 : 1 + len(text)],
        bos=1.0,
        eos=1.0,
        pad=1.0,
        front=[1.0] * len(front),
        behind=[1.0] * len(back),
    )
    dressed.fixes = [Fix(offset + len(front), embedding) for offset, embedding in chunk.fixes]
    for offset, rows in ((0, front), (len(front) + len(text), back)):
        if len(rows):
            embedding = PrefixRows(run.title, rows)
            run.inserted.append(embedding)
            dressed.fixes.append(Fix(offset, embedding))
    return dressed


def _taken_over(found: str) -> HostError:
    return HostError(
        "anonymize this image",
        f"{found}; another extension or an unsupported model stands in the way",
        "switch the other extension off, or use a checkpoint that docs/a1111.md lists",
    )
