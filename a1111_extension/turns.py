"""Put a prefix around the texts that a language model or T5 reads (Forge Neo).

An engine turns a line into chunks of tokens with a multiplier each. The tokens of the user's text
are marked when they are made, so that the rows can stand directly around them, whatever the engine
writes before and behind. Rows are written over the embeddings that the table gives.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, cast

import torch
from torch import Tensor

from apl_core.errors import HostError

from .insertion import PrefixRows, Run, weighted
from .language import Reader

_reading: ContextVar[Reader | None] = ContextVar("apl_reading", default=None)
_writing: ContextVar[bool] = ContextVar("apl_writing", default=False)


class Word(int):
    """A token of a user's text."""


class Gap(int):
    """Where a text is that has no tokens."""


class Mark(int):
    """A token in whose place the row `at` of a prefix is read, as a part of a block of rows."""

    at: int
    block: PrefixRows


def reader_of(run: Run, engine: Any) -> Reader:
    """How an engine reads texts in a run; HostError for one that is not the checkpoint's."""
    found = run.readers.get(id(engine))
    if found is None:
        raise bare()
    return found


def tokenized(original: Callable[..., Any], engine: Any, texts: Sequence[str], *more: Any) -> Any:
    """The engine's own `tokenize`; inside `lines` with the tokens of each text marked.

    HostError where pictures are read beside the text; PromptError.
    """
    reader = _reading.get()
    if reader is None or reader.engine is not engine:
        return original(engine, texts, *more)
    if any(more):
        raise HostError(
            f"put a prefix around this text for {reader.family.name}",
            "the text encoder reads pictures beside it, in a template for editing",
            "draw without reference pictures; no prefix reaches a face in a picture",
        )
    return [_turn(reader, text) for text in texts]


def marking(_holder: object, original: Callable[..., Any]) -> Callable[..., Any]:
    """What stands in for an engine's `tokenize`, whoever holds it: `tokenized`."""

    @wraps(original)
    def tokenize(engine: Any, texts: Any, *more: Any) -> Any:
        return tokenized(original, engine, texts, *more)

    return tokenize


def _turn(reader: Reader, text: str) -> list[int]:
    words: list[int] = [Word(one) for one in reader.text(text)]
    return [*reader.head, *(words or [Gap(reader.place)]), *reader.tail]


def lines(run: Run, reader: Reader, line: str, original: Callable[..., Any], *more: Any) -> Any:
    """The engine's own `tokenize_line` with rows around the texts of every chunk; AplErrors.

    A line of white space stays as it is unless the run covers every text.
    """
    run.engines.add(reader.key)
    before, inside = reader.parts(line)
    if not (run.every_text or inside.strip()):
        return original(reader.engine, line, *more)
    token = _reading.set(reader)
    try:
        said = original(reader.engine, inside, *more)
    finally:
        _reading.reset(token)
    head = reader.ids(before) if before else []
    for chunk in said[0] if isinstance(said, tuple) else said:
        _dress(run, reader, chunk, head)
        head = []  # the host writes it once
    return said


def _dress(run: Run, reader: Reader, chunk: Any, head: list[int]) -> None:
    """Put rows around every text of a chunk, and take as much of its padding away."""
    pairs = list(zip(chunk.tokens, chunk.multipliers, strict=True))
    texts = list(_marked([one for one, _ in pairs]))
    if not texts and run.every_text:
        first = int(bool(pairs) and pairs[0][0] in reader.marks and pairs[0][0] not in reader.tail)
        texts = [(first, first)]
    for first, last in reversed(texts):
        front, back = _marks(run, reader)
        words = [pair for pair in pairs[first:last] if not isinstance(pair[0], Gap)]
        pairs[first:last] = [*_even(front), *words, *_even(back)]
    if texts and head:
        pairs[texts[0][0] : texts[0][0]] = _even(head)
    spare = len(pairs) - len(chunk.tokens)
    while spare > 0 and pairs[-1][0] in reader.pads:
        pairs.pop()
        spare -= 1
    chunk.tokens = [one for one, _ in pairs]
    chunk.multipliers = [one for _, one in pairs]


def _marked(tokens: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, last) of every run of tokens that are of a text."""
    first = None
    for at, one in enumerate([*tokens, 0]):
        inside = at < len(tokens) and isinstance(one, (Word, Gap))
        if inside and first is None:
            first = at
        elif not inside and first is not None:
            yield first, at
            first = None


def _even(tokens: Sequence[int]) -> list[tuple[int, float]]:
    return [(one, 1.0) for one in tokens]


def _marks(run: Run, reader: Reader) -> tuple[list[Mark], list[Mark]]:
    """Marks for the rows in front of a text and behind it."""
    cut, made = run.rows.n - run.rows.behind, list[Mark]()
    sides = run.rows.front(reader.key), run.rows.back(reader.key)
    for block in (PrefixRows(run.title, side) for side in sides if len(side)):
        run.inserted.append(block)
        for _ in range(block.vectors):
            mark = Mark(reader.place)
            mark.at, mark.block = len(made), block
            made.append(mark)
    return made[:cut], made[cut:]


def processed(
    run: Run,
    reader: Reader,
    tokens: Sequence[Sequence[int]],
    multipliers: Sequence[Sequence[float]],
    original: Callable[..., Any],
) -> Any:
    """The engine's own `process_tokens` with rows where their marks are; HostError.

    What a user's emphasis does to a text, also to its mean, is done to the text alone.
    """
    for chunk in tokens:
        _require(reader, chunk, run)
    engine = reader.engine
    if any(one != 1 for chunk in multipliers for one in chunk):
        engine = _weighing(engine, torch.tensor([[not _is_row(x) for x in y] for y in tokens]))
    with _written(reader, tokens, run.rows.vectors[reader.key]):
        return original(engine, tokens, multipliers)


def _is_row(token: int) -> bool:
    return isinstance(token, Mark)


def _require(reader: Reader, chunk: Sequence[int], run: Run) -> None:
    """HostError unless each text of a chunk has the whole prefix around it, or says nothing."""
    n, cut = run.rows.n, run.rows.n - run.rows.behind
    said = [one for one in chunk if _is_row(one) or one not in reader.pads | reader.marks]
    if not (run.every_text or any(map(_is_row, said))) and reader.is_blank(said):
        return  # an empty text has no template in some families
    for first, last in spans(reader, chunk):
        text = chunk[first:last]
        rows = [one.at if isinstance(one, Mark) else None for one in text]
        if rows == [*range(cut), *[None] * (len(text) - n), *range(cut, n)]:
            continue
        if run.every_text or any(map(_is_row, text)) or not reader.is_blank(text):
            raise bare()


def spans(reader: Reader, chunk: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first place, place behind the last) of each of the user's texts in a chunk, with its rows.

    HostError where another template stands.
    """
    last, first = len(chunk), 0
    while last and chunk[last - 1] in reader.pads and not _is_row(chunk[last - 1]):
        last -= 1
    if not reader.own and last and chunk[0] in reader.marks and chunk[0] not in reader.pads:
        first = int(chunk[0] == getattr(reader.engine, "id_start", None))
    rest = list(chunk[first:last])
    while rest and rest[-1] in reader.marks and not _is_row(rest[-1]):
        rest.pop()
    at = 0
    while True:
        at = _after(rest, at, reader.head)
        if not reader.own:
            opened = [one for one in reader.heads if one == rest[at : at + len(one)]]
            at += max(map(len, opened), default=0)
        end = at
        while end < len(rest) and (_is_row(rest[end]) or rest[end] not in reader.controls):
            end += 1
        yield first + at, first + end
        if end == len(rest):
            return
        at = _after(rest, end, reader.tail)
        if at == len(rest):
            return
        if not reader.own:
            raise bare()


def _after(rest: list[int], at: int, wanted: Sequence[int]) -> int:
    """The place behind what the engine writes around texts; HostError if it is not there."""
    found = rest[at : at + len(wanted)]
    if found != list(wanted[: len(found)]) or any(map(_is_row, found)):
        raise bare()
    return at + len(found)


@contextmanager
def _written(reader: Reader, tokens: Sequence[Sequence[int]], rows: Tensor) -> Iterator[None]:
    """While the table looks these tokens up, rows are written at their marks; HostError if not."""
    done: list[bool] = []

    def write(_layer: Any, given: tuple[Tensor, ...], found: Tensor) -> Tensor:
        if given[0].tolist() != [list(map(int, chunk)) for chunk in tokens]:
            raise bare()
        written = found.clone()
        for line, chunk in enumerate(tokens):
            for place, one in enumerate(chunk):
                if isinstance(one, Mark):
                    one.block.was_read = True
                    row = rows[one.at].to(written.device, torch.float32)
                    written[line, place] = (row / reader.scale).to(written.dtype)
        done.append(True)
        return written

    # before all other hooks: whoever watches the table shall see the rows
    handle = reader.layer.register_forward_hook(write, prepend=True)
    token = _writing.set(True)
    try:
        yield
    finally:
        _writing.reset(token)
        handle.remove()
    if done != [True]:
        raise bare()


def require_covered() -> None:
    """HostError for a lookup of tokens that nobody covers with rows."""
    if not _writing.get():
        raise bare()


class _TextAlone:
    """Weighs the rows (B, T, width) of a text as the host's emphasis does, and no others."""

    def __init__(self, emphasis: Any, text: Tensor) -> None:
        self._emphasis, self._text = emphasis, text
        self.name = getattr(emphasis, "name", "")
        self.tokens: Any = None
        self.multipliers: Any = None
        self.z: Any = None

    def after_transformers(self) -> None:
        self.z = self(self.z, self.multipliers)

    def __call__(self, z: Tensor, multipliers: Tensor) -> Tensor:
        text = self._text.to(z.device)
        weights = multipliers.reshape(text.shape).to(z)
        rows = weighted(self._emphasis, self.tokens, z[text][None], weights[text][None])
        found = z.clone()
        found[text] = rows[0].to(z.dtype)
        return found


def _weighing(engine: Any, text: Tensor) -> Any:
    """A copy of an engine whose emphasis leaves prefix rows alone."""
    other = copy.copy(engine)
    vars(other).pop("emphasis", None)
    emphasis = _TextAlone(copy.copy(engine.emphasis), text)
    other.__class__ = type(type(engine).__name__, (type(engine),), {"emphasis": emphasis})
    return cast("Any", other)


def bare() -> HostError:
    """The error for a text that would reach a language model without its rows."""
    return HostError(
        "anonymize this image",
        "a text would reach the text encoder without the prefix, or in a template that is not its "
        "family's; another extension stands in the way",
        "switch that extension off",
    )
