"""The last look in front of an encoder: a chunk of text without its prefix stops the run.

Packs replace tokenizers while they run, and join, mask and mix lists of tokens. Whatever they do,
the encoder gets such a list in the end, so it is looked at there. ComfyUI itself puts the look into
the encoder when it loads the patched CLIP, and takes it out for every other CLIP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    embed = clip.patcher.get_model_object(name)
    rows = [entry[0] for entry in front], [entry[0] for entry in behind]
    clip.patcher.add_object_patch(name, _guarded(embed, *rows, tokenizer.end_token))


def _guarded(
    embed: Callable[..., Any], front: Sequence[Tensor], behind: Sequence[Tensor], end: int
) -> Callable[..., Any]:
    def process_tokens(tokens: Any, *args: Any, **options: Any) -> Any:
        for chunk in tokens.tolist() if isinstance(tokens, Tensor) else tokens:
            if not covered(chunk, front, behind, end):
                raise HostError(
                    "encode this text with the prefix",
                    "another node pack took the prefix's vectors out of it, or made its tokens "
                    "past the connected CLIP (smZNodes does, and CUT of prompt-control can)",
                    "encode it with CLIP Text Encode or APL Prefix Conditioning, or leave out the "
                    "pack's feature that replaces tokens",
                )
        return embed(tokens, *args, **options)

    return process_tokens


def covered(
    chunk: Sequence[Any], front: Sequence[Tensor], behind: Sequence[Tensor], end: int
) -> bool:
    """Whether rows stand around all that is between the first token and the first end token."""
    inside = list(chunk[1:])
    for place, token in enumerate(inside):
        if isinstance(token, int) and token == end:
            inside = inside[:place]
            break
    if not inside:
        return True
    first, last = inside[: len(front)], inside[len(inside) - len(behind) :]
    whole = len(inside) >= len(front) + len(behind)
    return whole and _same(first, front) and _same(last, behind)


def _same(tokens: Sequence[Any], rows: Sequence[Tensor]) -> bool:
    return all(
        isinstance(token, Tensor) and (token is row or torch.equal(token.cpu(), row.cpu()))
        for token, row in zip(tokens, rows, strict=True)
    )
