"""Where everything stands in a chunk: BOS | front | text | behind | EOS | pad."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from .errors import PromptError

CHUNK = 75
"""Rows of a chunk between BOS and EOS."""

MAX_ROWS = CHUNK - 1
"""Rows that a prefix may have: it has to leave a place for text."""

NO_ROOM = f"a chunk has {CHUNK} places, so no text fits"
FEWER = f"use a prefix of at most {MAX_ROWS} vectors (10 are usual)"

LENGTH = 77
"""Rows of a whole chunk."""

T = TypeVar("T")


@dataclass(frozen=True)
class Cut(Generic[T]):
    """What of a text goes into one chunk, and what falls off its end."""

    kept: tuple[T, ...]
    fell_off: tuple[T, ...]

    @property
    def sentence(self) -> str:
        """One line for a user; empty when nothing fell off."""
        if not self.fell_off:
            return ""
        return (
            f"The text is {len(self.kept) + len(self.fell_off)} tokens long and one chunk has room "
            f"for {len(self.kept)} beside the prefix: the last {len(self.fell_off)} fell off."
        )


def room(n: int) -> int:
    """Text tokens that go into a chunk beside `n` prefix rows; PromptError if there are none."""
    if n < 0:
        raise ValueError(f"a prefix cannot have {n} rows")
    if n > MAX_ROWS:
        raise PromptError(f"put a text beside a prefix of {n} vectors", NO_ROOM, FEWER)
    return CHUNK - n


def split(ids: Sequence[T], room: int) -> list[list[T]]:
    """The text in chunks of at most `room` tokens, in order; an empty text is one empty chunk."""
    if room < 1:
        raise ValueError(f"a chunk needs room for at least one token, not {room}")
    return [list(ids[start : start + room]) for start in range(0, max(len(ids), 1), room)]


def refuse_marks(ids: Iterable[object], bos: int, eos: int) -> None:
    """PromptError if a text's own tokens hold BOS or EOS: an encoder would stop reading there.

    Items that are not token ids, such as rows of an embedding, are passed over.
    """
    if any(isinstance(one, int) and one in (bos, eos) for one in ids):
        raise PromptError(
            "apply the prefix to this prompt",
            "the prompt spells out the token <|startoftext|> or <|endoftext|>, at which the text "
            "encoder would stop reading before the prefix's last vectors",
            "remove it from the prompt",
        )


def fits(text_tokens: Sequence[T], n: int) -> Cut[T]:
    """What of the text stays in a single chunk beside `n` prefix rows, and what falls off."""
    space = room(n)
    return Cut(tuple(text_tokens[:space]), tuple(text_tokens[space:]))


def arrange(
    text: Sequence[T],
    *,
    bos: T,
    eos: T,
    pad: T,
    front: Sequence[T],
    behind: Sequence[T],
    length: int = LENGTH,
) -> list[T]:
    """One chunk of exactly `length` items, EOS always in it; PromptError if it does not fit."""
    items = [bos, *front, *text, *behind, eos]
    if len(items) > length:
        raise PromptError(
            f"put {len(text)} text tokens and {len(front) + len(behind)} prefix vectors "
            "into one chunk",
            f"that needs {len(items)} places and a chunk has {length}",
            "split the text into more chunks, or shorten it",
        )
    return items + [pad] * (length - len(items))
