"""A prefix inside ComfyUI's tokenizers: in every chunk, out of the reach of instance attributes.

ComfyUI tokenizes a text per encoder into chunks of (token, weight, word id); a token may be a row
of numbers instead. So a prefix needs no hook in the model: it is a row per entry, weight 1, word id
0 ("not a word", which packs that re-weight words leave alone).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from apl_core.errors import HostError
from apl_core.prefix import Prefix, Rows
from apl_core.tokens import arrange, refuse_marks, room

METHOD = "tokenize_with_weights"

Entry = tuple[Any, float, int]
Stack = Prefix | Rows
"""A finished prefix, or live rows while one is learned."""

Chunks = list[list[Entry]]


def prefixed_tokenizer(tokenizer: Any, key: str, prefix: Stack) -> Any:
    """A copy of one encoder's tokenizer that puts `prefix` (after those it has) into each chunk."""
    taken = _taken(tokenizer)
    stack = (*getattr(taken, "apl_prefixes", ()), prefix)
    room(sum(one.n for one in stack))
    taken.apl_prefixes = stack
    taken.apl_key = key
    return taken


def held_tokenizer(tokenizer: Any) -> Any:
    """A copy of the tokenizer over all encoders whose method nobody can replace unnoticed."""
    return _taken(tokenizer)


def prefixes_of(tokenizer: Any) -> tuple[Stack, ...]:
    """The prefixes that one encoder's tokenizer applies, in the order of their application."""
    return getattr(tokenizer, "apl_prefixes", ())


class _Held:
    """Takes the host's tokenizing method over, in the class and not in the instance.

    Some packs set the method as an attribute of the instance while they run, which would make the
    prefix vanish. A data descriptor of the class wins over such an attribute and hears of it; the
    text is refused then, and not the attribute, so that the pack can undo what else it replaced.
    """

    apl_base: type
    apl_key: str = ""
    apl_prefixes: tuple[Stack, ...] = ()
    apl_replaced: bool = False

    @property
    def tokenize_with_weights(self) -> Any:
        """The host's method name; a property, so that an instance attribute cannot shadow it."""
        return self._apl_tokenize

    @tokenize_with_weights.setter
    def tokenize_with_weights(self, _: object) -> None:
        self.apl_replaced = True

    @tokenize_with_weights.deleter
    def tokenize_with_weights(self) -> None:
        self.apl_replaced = False

    def _apl_tokenize(
        self, text: str, return_word_ids: bool = False, *args: Any, **options: Any
    ) -> Any:
        if self.apl_replaced:
            raise _replaced()
        if not self.apl_prefixes:
            return self._apl_plain(0).tokenize_with_weights(text, return_word_ids, *args, **options)
        rows = sum(prefix.n for prefix in self.apl_prefixes)
        chunks: Chunks = self._apl_plain(rows).tokenize_with_weights(text, True, *args, **options)
        if not any(_is_text(entry) for chunk in chunks for entry in chunk):  # nothing to anonymize
            return self._apl_plain(0).tokenize_with_weights(text, return_word_ids, *args, **options)
        front, behind = rows_around(self.apl_prefixes, self.apl_key)
        special: Any = self
        return framed(chunks, front, behind, special, return_word_ids)

    def _apl_plain(self, taken: int) -> Any:
        """The host's own tokenizer with `taken` places less in every chunk."""
        plain: Any = copy.copy(self)
        plain.__class__ = self.apl_base
        vars(plain).pop(METHOD, None)  # put into the instance's dictionary behind our back
        narrow(plain, taken)
        return plain


def narrow(tokenizer: Any, taken: int) -> None:
    """Leave `taken` places less to the text in every chunk of this very tokenizer."""
    if taken:
        tokenizer.max_length -= taken
        # A word stays whole below this length, and one that is wider than a chunk never fits.
        tokenizer.max_word_length = min(tokenizer.max_word_length, tokenizer.max_length - 1)


def framed(
    chunks: Chunks,
    front: Sequence[Entry],
    behind: Sequence[Entry],
    tokenizer: Any,
    return_word_ids: bool,
) -> Any:
    """Every chunk with rows around its text, as the host's own method gives chunks."""
    start, end = tokenizer.start_token, tokenizer.end_token
    found = [frame(chunk, front, behind, start=start, end=end) for chunk in chunks]
    return found if return_word_ids else [[entry[:2] for entry in one] for one in found]


def rows_around(prefixes: Sequence[Stack], key: str) -> tuple[list[Entry], list[Entry]]:
    """The entries in front of and behind a text, a later prefix inside the earlier ones."""
    front = [_entry(row) for prefix in prefixes for row in prefix.front(key)]
    behind = [_entry(row) for prefix in reversed(prefixes) for row in prefix.back(key)]
    return front, behind


def frame(
    chunk: Sequence[Entry], front: Sequence[Entry], behind: Sequence[Entry], *, start: int, end: int
) -> list[Entry]:
    """One of the host's chunks with rows around its text, longer by the number of rows.

    Raises PromptError if the text itself holds a start or end token: an encoder would stop there.
    """
    text = [entry for entry in chunk if _is_text(entry)]
    refuse_marks((entry[0] for entry in text), start, end)
    bos, eos, *padding = [entry for entry in chunk if not _is_text(entry)]
    pad = padding[0] if padding else eos
    length = len(chunk) + len(front) + len(behind)
    return arrange(text, bos=bos, eos=eos, pad=pad, front=front, behind=behind, length=length)


def _taken(tokenizer: Any) -> Any:
    """A shallow copy of `tokenizer` in a subclass of its class that holds the method."""
    if METHOD in vars(tokenizer) or getattr(tokenizer, "apl_replaced", False):
        raise _replaced()
    taken = copy.copy(tokenizer)
    if not isinstance(taken, _Held):
        base = type(tokenizer)
        taken.__class__ = type(f"Prefixed{base.__name__}", (_Held, base), {"apl_base": base})
    return taken


def _is_text(entry: Entry) -> bool:
    return entry[2] != 0


def _entry(row: Any) -> Entry:
    return row, 1.0, 0


def _replaced() -> HostError:
    return HostError(
        "apply the prefix to this CLIP",
        "another node pack replaces the tokenizer of the text encoder while it runs "
        "(smZNodes does), so the prefix would be lost",
        "encode this text with CLIPTextEncode or APL Prefix Conditioning, not with that pack",
    )
