"""A prefix inside ComfyUI's tokenizers: in every chunk, out of the reach of instance attributes.

ComfyUI tokenizes a text per encoder into chunks of (token, weight, word id); a token may be a row
of numbers instead. So a prefix needs no hook in the model: it is a row per entry, weight 1, word id
0 ("not a word", which packs that re-weight words leave alone). A language model reads a text inside
a template (families.py): the rows stand around the user's text, and the template around them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from apl_core.errors import HostError, PromptError
from apl_core.families import Family
from apl_core.prefix import Prefix, Rows
from apl_core.tokens import refuse_marks, room

from .families import METHOD, host_class

Entry = tuple[Any, float, int]
Stack = Prefix | Rows
"""A finished prefix, or live rows while one is learned."""

Chunks = list[list[Entry]]


CLIP = Family("CLIP")


def prefixed_tokenizer(tokenizer: Any, key: str, prefix: Stack, family: Family = CLIP) -> Any:
    """A copy of one encoder's tokenizer that puts `prefix` (after those it has) into each chunk."""
    taken = _taken(tokenizer)
    stack = (*getattr(taken, "apl_prefixes", ()), prefix)
    room(sum(one.n for one in stack))
    taken.apl_prefixes = stack
    taken.apl_key = key
    taken.apl_family = CLIP if key.startswith("clip_") else family
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
    apl_family: Family = CLIP
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
        plain = host_tokenizer(self)
        if self.apl_prefixes:
            family, key = self.apl_family, self.apl_key
            front, behind = rows_around(self.apl_prefixes, key)
            chunks = covered(plain, text, front, behind, family, *args, **options)
            if chunks is not None:
                return given(chunks, return_word_ids)
        return plain.tokenize_with_weights(text, return_word_ids, *args, **options)


def host_tokenizer(tokenizer: Any) -> Any:
    """The host's own tokenizer below our hold on it."""
    plain: Any = copy.copy(tokenizer)
    plain.__class__ = host_class(tokenizer)
    vars(plain).pop(METHOD, None)  # put into the instance's dictionary behind our back
    return plain


def given(chunks: Chunks, word_ids: bool) -> Any:
    """Chunks as the host's method gives them: without word ids unless they were asked for."""
    return chunks if word_ids else [[entry[:2] for entry in chunk] for chunk in chunks]


def template_tokens(plain: Any, part: str, run: Any = None, **options: Any) -> list[int]:
    """The tokens of a part of a template, by the host's own tokenizer or its method `run`."""
    if not part:
        return []
    run = run or type(plain).tokenize_with_weights
    return [entry[0] for chunk in run(plain, part, True, **options) for entry in words(chunk)]


def covered(
    plain: Any,
    text: str,
    front: Sequence[Entry],
    behind: Sequence[Entry],
    family: Family,
    *args: Any,
    tokenize: Any = None,
    everywhere: bool = False,
    **options: Any,
) -> Chunks | None:
    """A text in its template with rows around it in every chunk; None for an empty text.

    With `everywhere` an empty text has rows too.

    `plain` is the host's own tokenizer, or `tokenize` its method. PromptError if the text spells a
    token that ends it or begins a turn: an encoder would stop there, or take it for the template's.
    """
    run = tokenize or type(plain).tokenize_with_weights
    before, inside, after = family.parts(text)
    head, tail = (template_tokens(plain, part, run, **options) for part in (before, after))
    taken = len(head) + len(front) + len(behind) + len(tail)
    lowered = _lowered(options, plain, taken)
    chunks: Chunks = run(narrowed(plain, taken), inside, True, *args, **lowered)
    tokens = [entry[0] for chunk in chunks for entry in words(chunk)]
    refuse(tokens, plain, family)
    if not everywhere and all(blank(token, plain) for token in tokens):
        return None
    ahead = [*((token, 1.0, 0) for token in head), *front]
    past = [*behind, *((token, 1.0, 0) for token in tail)]
    return [frame(one, ahead, past, plain.start_token) for one in chunks]


def narrowed(tokenizer: Any, taken: int) -> Any:
    """A copy of the host's tokenizer with `taken` places less for the text in every chunk."""
    narrow = copy.copy(tokenizer)
    narrow.max_length -= taken
    # A word stays whole below this length, and one that is wider than a chunk never fits.
    narrow.max_word_length = min(narrow.max_word_length, narrow.max_length - 1)
    if getattr(narrow, "min_length", None) is not None:
        narrow.min_length = max(narrow.min_length - taken, 0)
    return narrow


def _lowered(options: dict[str, Any], tokenizer: Any, taken: int) -> dict[str, Any]:
    """The options of a call, with `taken` places less where they say how long a text is at least.

    What is filled up stands there without the rows; with them it is as long as without.
    """
    name = f"{getattr(tokenizer, 'embedding_key', '')}_min_length"
    lowered = dict(options)
    if isinstance(least := options.get("min_length"), int):
        lowered["min_length"] = max(least - taken, 0)
    chosen = options.get("tokenizer_options") or {}
    if isinstance(least := chosen.get(name), int):
        lowered["tokenizer_options"] = {**chosen, name: max(least - taken, 0)}
    return lowered


def frame(
    chunk: Sequence[Entry], front: Sequence[Entry], behind: Sequence[Entry], start: int | None
) -> list[Entry]:
    """One of the host's chunks with entries around its text, longer by their number."""
    places = [at for at, entry in enumerate(chunk) if _is_text(entry)]
    first = places[0] if places else int(start is not None)
    last = places[-1] + 1 if places else first
    return [*chunk[:first], *front, *chunk[first:last], *behind, *chunk[last:]]


def refuse(tokens: Sequence[Any], tokenizer: Any, family: Family) -> None:
    """PromptError for tokens of a text that only a template may have."""
    if not family.controls:
        return refuse_marks(tokens, tokenizer.start_token, tokenizer.end_token)
    found = controls(tokenizer, family).intersection(one for one in tokens if isinstance(one, int))
    if found:
        spelled = " and ".join(sorted(str(tokenizer.inv_vocab.get(one, one)) for one in found))
        raise PromptError(
            f"apply the prefix to this prompt for {family.name}",
            f"it spells out {spelled}, at which the text encoder ends a text or begins a turn",
            "remove it from the prompt",
        )
    return None


def controls(tokenizer: Any, family: Family) -> frozenset[int]:
    """The tokens that no text may have: a family's own, and what begins and ends a chunk."""
    spelled = set(family.controls.split())
    known = {token for token, piece in tokenizer.inv_vocab.items() if piece in spelled}
    known.update(getattr(tokenizer.tokenizer, "_special_ids", ()))
    marks = (tokenizer.start_token, tokenizer.end_token)
    return frozenset(known.union(one for one in marks if one is not None))


def blank(token: Any, tokenizer: Any) -> bool:
    """Whether a token is nothing but white space, by its piece of the vocabulary."""
    piece = getattr(tokenizer, "inv_vocab", {}).get(token) if isinstance(token, int) else None
    return isinstance(piece, str) and piece != "" and not piece.strip("ĠĊĉč▁ \t\r\n")


def words(chunk: Sequence[Entry]) -> list[Entry]:
    """The entries of a chunk that are of the text."""
    return [entry for entry in chunk if _is_text(entry)]


def rows_around(prefixes: Sequence[Stack], key: str) -> tuple[list[Entry], list[Entry]]:
    """The entries in front of and behind a text, a later prefix inside the earlier ones."""
    front = [entry(key, row) for prefix in prefixes for row in prefix.front(key)]
    behind = [entry(key, row) for prefix in reversed(prefixes) for row in prefix.back(key)]
    return front, behind


def entry(key: str, row: Any) -> Entry:
    """A row as an entry; outer tokenizers of language models compare entries with ids."""
    return row if key.startswith("clip_") else {"type": "embedding", "data": row}, 1.0, 0


def _taken(tokenizer: Any) -> Any:
    """A shallow copy of `tokenizer` in a subclass of its class that holds the method."""
    if METHOD in vars(tokenizer) or getattr(tokenizer, "apl_replaced", False):
        raise _replaced()
    taken = copy.copy(tokenizer)
    if not isinstance(taken, _Held):
        base = host_class(tokenizer)
        taken.__class__ = type(f"Prefixed{base.__name__}", (_Held, base), {"apl_base": base})
    return taken


def _is_text(entry: Entry) -> bool:
    return entry[2] != 0


def _replaced() -> HostError:
    return HostError(
        "apply the prefix to this CLIP",
        "another node pack replaces the tokenizer of the text encoder while it runs "
        "(smZNodes does), so the prefix would be lost",
        "encode this text with CLIPTextEncode or APL Prefix Conditioning, not with that pack",
    )
