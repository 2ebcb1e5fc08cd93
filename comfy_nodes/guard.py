"""The last look in front of an encoder: a chunk of text without its prefix stops the run.

Packs replace tokenizers while they run, and join, mask and mix lists of tokens. Whatever they do,
the encoder gets such a list in the end, so it is looked at there. ComfyUI itself puts the look into
the encoder when it loads the patched CLIP, and takes it out for every other CLIP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from apl_core.errors import HostError

from .tokenizers import prefixes_of, rows_around

METHOD = "process_tokens"
"""Turns lists of tokens into embeddings, in every text encoder of ComfyUI."""


def guard(clip: Any, key: str, tokenizer: Any) -> None:
    """Have one encoder of a patched CLIP refuse text without the prefixes of its tokenizer."""
    if not hasattr(getattr(clip.cond_stage_model, key, None), METHOD):
        return
    name = f"{key}.{METHOD}"
    front, behind = rows_around(prefixes_of(tokenizer), key)
    rows = Frame([entry[0] for entry in front], [entry[0] for entry in behind], tokenizer.end_token)
    embed = clip.patcher.get_model_object(name)
    clip.patcher.add_object_patch(name, _guarded(embed, rows))


def _guarded(embed: Callable[..., Any], rows: Frame) -> Callable[..., Any]:
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
        wanted = self.places(last)
        if len(self.front) + len(self.behind) < last:
            masks = [chunk[at] for at, row in wanted.items() if not _is(chunk[at], row)]
            if not masks:
                return chunk
            one_mask = all(_is(mask, masks[0]) for mask in masks)
            if one_mask and self._stand_in_part(chunk, last):
                return [wanted.get(at, one) for at, one in enumerate(chunk)]
        raise HostError(
            "encode this text with the prefix",
            "another node pack took the prefix's vectors out of it, or made its tokens past the "
            "connected CLIP (smZNodes does, and CUT of prompt-control can)",
            "encode it with CLIP Text Encode or APL Prefix Conditioning, or leave out the pack's "
            "feature that replaces tokens",
        )

    def last(self, chunk: Sequence[Any]) -> int:
        """The place of the first end token behind BOS; the length where there is none."""
        return next((at for at, one in enumerate(chunk) if at and _is(one, self.end)), len(chunk))

    def places(self, last: int) -> dict[int, Tensor]:
        """Where the rows belong in a chunk whose first end token is at `last`."""
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


def _is(token: Any, other: Any) -> bool:
    """Whether two tokens are the same: a number, or a row of numbers."""
    if isinstance(token, Tensor) and isinstance(other, Tensor):
        return token is other or torch.equal(token.cpu(), other.cpu())
    return isinstance(token, Integral) and isinstance(other, Integral) and token == other
