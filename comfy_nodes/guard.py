"""The last look in front of an encoder: a chunk of text without its prefix stops the run.

Packs replace tokenizers while they run, and join, mask and mix lists of tokens. Whatever they do,
the encoder gets such a list in the end, so it is looked at there. ComfyUI itself puts the look into
the encoder when it loads the patched CLIP, and takes it out for every other CLIP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from apl_core.errors import HostError
from apl_core.families import Family

from .tokenizers import blank, controls, host_tokenizer, prefixes_of, rows_around, template_tokens

METHOD = "process_tokens"
"""Turns lists of tokens into embeddings, in every text encoder of ComfyUI."""


def guard(clip: Any, key: str, tokenizer: Any) -> None:
    """Have one encoder of a patched CLIP refuse text without the prefixes of its tokenizer.

    HostError where the model has no such encoder; one that was left out of it reads nothing.
    """
    encoder = getattr(clip.cond_stage_model, key, False)
    if encoder is None:
        return
    if not hasattr(encoder, METHOD):
        raise HostError(
            "apply a prefix to this CLIP",
            f"its model has no text encoder {key} that could be looked at",
            "load the text encoders with ComfyUI's own nodes",
        )
    name = f"{key}.{METHOD}"
    embed = clip.patcher.get_model_object(name)
    clip.patcher.add_object_patch(name, _guarded(embed, looked_for(encoder, key, tokenizer)))


def looked_for(encoder: Any, key: str, tokenizer: Any) -> Frame | Turn:
    """What has to stand in the chunks of an encoder whose tokenizer applies prefixes."""
    around = rows_around(prefixes_of(tokenizer), key)
    front, behind = ([entry[0] for entry in entries] for entries in around)
    if key.startswith("clip_"):
        return Frame(front, behind, tokenizer.end_token)
    pads = pads_of(encoder, tokenizer)
    return Turn(front, behind, host_tokenizer(tokenizer), tokenizer.apl_family, pads)


def pads_of(encoder: Any, tokenizer: Any) -> frozenset[int]:
    """What fills a chunk up, by its tokenizer and by its encoder."""
    said = tokenizer.pad_token
    return frozenset({said, encoder.special_tokens.get("pad", said)})


def _guarded(embed: Callable[..., Any], rows: Frame | Turn) -> Callable[..., Any]:
    def process_tokens(tokens: Any, *args: Any, **options: Any) -> Any:
        return embed([rows.kept(chunk) for chunk in lists(tokens)], *args, **options)

    return process_tokens


def lists(tokens: Any) -> Sequence[Sequence[Any]]:
    """Chunks of tokens as lists, whether they come so or as one tensor of ids."""
    return tokens.tolist() if isinstance(tokens, Tensor) else tokens


@dataclass(frozen=True)
class Frame:
    """The rows that every text has to have in front of it and behind it, before the token `end`."""

    front: Sequence[Tensor]
    behind: Sequence[Tensor]
    end: int

    def kept(self, chunk: Sequence[Any]) -> Sequence[Any]:
        """The chunk with its rows in place; HostError if they are not there.

        A chunk without text stays as it is. Packs that weigh words encode the text again with some
        of its tokens masked. Where such a mask fell on rows, those are put back: a prefix has no
        part in what is done to words.
        """
        last = self.last(chunk)
        if last <= 1:
            return chunk
        wanted = self.places(chunk)
        if len(self.front) + len(self.behind) < last:
            masks = [chunk[at] for at, row in wanted.items() if not _is(chunk[at], row)]
            if not masks:
                return chunk
            one_mask = all(_is(mask, masks[0]) for mask in masks)
            if one_mask and self._stand_in_part(chunk, last):
                return [wanted.get(at, one) for at, one in enumerate(chunk)]
        raise _lost()

    def last(self, chunk: Sequence[Any]) -> int:
        """The place of the first end token behind BOS; the length where there is none."""
        return next((at for at, one in enumerate(chunk) if at and _is(one, self.end)), len(chunk))

    def places(self, chunk: Sequence[Any]) -> dict[int, Tensor]:
        """Where the rows belong in a chunk: behind BOS, and in front of the first end token."""
        last = self.last(chunk)
        wanted = dict(enumerate(self.front, 1))
        wanted.update(enumerate(self.behind, last - len(self.behind)))
        return wanted

    def _stand_in_part(self, chunk: Sequence[Any], last: int) -> bool:
        """Whether one of the front rows, and one of those behind, is still where it belongs."""
        sides = (self.front, 1), (self.behind, last - len(self.behind))
        return all(
            any(_is(chunk[start + at], row) for at, row in enumerate(rows))
            for rows, start in sides
            if rows
        )


@dataclass(frozen=True)
class Turn:
    """The rows that have to stand directly around the user's text in a family's template."""

    front: Sequence[Any]
    behind: Sequence[Any]
    tokenizer: Any
    family: Family
    pads: frozenset[int]
    everywhere: bool = False
    run: Any = None

    def kept(self, chunk: Sequence[Any]) -> Sequence[Any]:
        """The chunk as it is; HostError for a text without its rows, in any place but its own.

        An empty text needs none, unless they are `everywhere`.
        """
        first, last = self._span(chunk)
        if first == last and not self.everywhere:
            return chunk
        if any(self._holds(list(chunk[first:last]), *around) for around in self._around):
            return chunk
        raise _lost()

    def filled(self, chunk: Sequence[Any]) -> Sequence[Any]:
        """The chunk, with rows in place of padding if it has no text; HostError as in `kept`."""
        first, last = self._span(chunk)
        if first != last:
            return self.kept(chunk)
        rows, cut = [*self.front, *self.behind], len(chunk) - len(self.front) - len(self.behind)
        if cut < last or any(_number(one) not in self.pads for one in chunk[cut:]):
            raise _lost()
        return self.kept([*chunk[:first], *rows, *chunk[first:cut]])

    def places(self, chunk: Sequence[Any]) -> dict[int, Tensor]:
        """Where the rows stand in a chunk that was kept; nowhere in an empty text without them."""
        first, last = self._span(chunk)
        inside = list(chunk[first:last])
        for before, after in self._around:
            if self._holds(inside, before, after):
                start, end = first + len(before), last - len(after) - len(self.behind)
                found = dict(enumerate(map(_row, self.front), start))
                found.update(enumerate(map(_row, self.behind), end))
                return found if all(_is(chunk[at], row) for at, row in found.items()) else {}
        return {}

    def text(self, chunk: Sequence[Any]) -> tuple[int, int]:
        """Where the user's text stands, rows included; everything outside of any template."""
        first, last = self._span(chunk)
        inside = list(chunk[first:last])
        for before, after in self._around:
            end = len(inside) - len(after)
            if len(before) <= end and inside[: len(before)] == before and inside[end:] == after:
                return first + len(before), first + end
        return first, last

    @cached_property
    def _around(self) -> list[tuple[list[int], list[int]]]:
        """Tokens (before, after) of each template."""
        plain, run = self.tokenizer, self.run
        return [
            (template_tokens(plain, before, run), template_tokens(plain, after, run))
            for before, after in self.family.around
        ]

    @cached_property
    def _controls(self) -> frozenset[int]:
        return controls(self.tokenizer, self.family)

    def _span(self, chunk: Sequence[Any]) -> tuple[int, int]:
        """What is left of a chunk without what fills it up and what begins and ends it."""
        start, end = self.tokenizer.start_token, self.tokenizer.end_token
        first, last = 0, len(chunk)
        while first < last and _number(chunk[last - 1]) in self.pads:
            last -= 1
        while first < last and _number(chunk[first]) in self.pads:
            first += 1
        if first < last and start is not None and _number(chunk[first]) == start:
            first += 1
        if first < last and end is not None and _number(chunk[last - 1]) == end:
            last -= 1
        return first, last

    def _holds(self, inside: list[Any], before: list[int], after: list[int]) -> bool:
        """Whether a text stands in this template, with the rows around it or empty."""
        first, last = len(before), len(inside) - len(after)
        if inside[:first] != before or first > last or inside[last:] != after:
            return False
        said = inside[first:last]
        if not self.everywhere and all(blank(one, self.tokenizer) for one in said):
            return True
        cut = len(said) - len(self.behind)
        if cut < len(self.front) or (cut == len(self.front) and not self.everywhere):
            return False
        text = said[len(self.front) : cut]
        return (
            all(map(_is, said[: len(self.front)], self.front))
            and all(map(_is, said[cut:], self.behind))
            and not any(_number(one) in self._controls or _picture(one) for one in text)
        )


def _lost() -> HostError:
    return HostError(
        "encode this text with the prefix",
        "another node pack took the prefix's vectors out of it, or made its tokens past the "
        "connected CLIP (smZNodes does, and CUT of prompt-control can)",
        "encode it with CLIP Text Encode or APL Prefix Conditioning, or leave out the pack's "
        "feature that replaces tokens",
    )


def _number(token: Any) -> int | None:
    return int(token) if isinstance(token, Integral) else None


def _picture(token: Any) -> bool:
    return isinstance(token, Mapping) and token.get("type") != "embedding"


def _row(token: Any) -> Any:
    """What a token is: a number, or a row of numbers."""
    return token.get("data") if isinstance(token, Mapping) else token


def _is(token: Any, other: Any) -> bool:
    """Whether two tokens are the same: a number, or a row of numbers."""
    token, other = _row(token), _row(other)
    if isinstance(token, Tensor) and isinstance(other, Tensor):
        return token is other or torch.equal(token.cpu(), other.cpu())
    return isinstance(token, Integral) and isinstance(other, Integral) and token == other
