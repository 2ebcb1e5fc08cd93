"""Which place of a neutral prompt means the same as a place of the prompt that gets the prefix."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeVar

from .prefix import Rows
from .tokens import LENGTH

Token = TypeVar("Token", bound=int | None)


def same_words(prompt: Sequence[object], neutral: Sequence[object]) -> list[int]:
    """For each token of a prompt, the place of one of the neutral prompt's tokens.

    The tokens that both begin and end with are the same words; what differs between is the name.
    Where nothing stands in its place, it is the token behind.
    """
    most = min(len(prompt), len(neutral))
    before = next((i for i in range(most) if prompt[i] != neutral[i]), most)
    after = next(
        (i for i in range(most - before) if prompt[-1 - i] != neutral[-1 - i]), most - before
    )
    name, words = len(prompt) - before - after, len(neutral) - before - after
    return [
        *range(before),
        *(before + min(i * words // name, words - 1) if words else before for i in range(name)),
        *range(before + words, len(neutral)),
    ]


def token_places(
    prompt: Sequence[int | None], neutral: Sequence[int], rows: Rows, pads: Collection[int]
) -> list[int]:
    """For each token of a prompt with rows (None in their places), that of the neutral one without.

    Whatever template both stand in. Rows in front are what stands before the text, those behind
    what stands after it; padding is padding.
    """
    said, rest = _unpadded(prompt, pads), _unpadded(neutral, pads)
    last, front = len(neutral) - 1, rows.n - rows.behind
    words = iter(same_words([one for one in said if one is not None], rest))
    found, seen = [next(words) if one is not None else -1 for one in said], 0
    for place, one in enumerate(said):
        if one is None and seen < front:
            found[place] = max(found[place - 1], 0) if place else 0
        seen += one is None
    for place in reversed(range(len(said))):
        if found[place] < 0:
            found[place] = found[place + 1] if place + 1 < len(said) else len(rest)
    found += range(len(rest), len(rest) + len(prompt) - len(said))
    return [min(place, last) for place in found]


def _unpadded(tokens: Sequence[Token], pads: Collection[int]) -> Sequence[Token]:
    end = len(tokens)
    while end and tokens[end - 1] in pads:
        end -= 1
    return tokens[:end]


def chunk_places(prompt: Sequence[str], neutral: Sequence[str], rows: Rows) -> list[int]:
    """For each of a CLIP chunk's 77 places with the prefix, the place in the neutral one's chunk.

    Rows in front are BOS, those behind EOS; padding is padding.
    """
    text = same_words(prompt, neutral)
    end = min(1 + len(neutral), LENGTH - 1)
    front, behind = [0] * (rows.n - rows.behind), [end] * rows.behind
    places = [0, *front, *(min(1 + i, LENGTH - 1) for i in text), *behind, end]
    pads = range(end + 1, end + 1 + LENGTH)
    return [*places, *(min(pad, LENGTH - 1) for pad in pads)][:LENGTH]
