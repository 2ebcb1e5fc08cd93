"""Which place of a neutral prompt means the same as a place of the prompt that gets the prefix."""

from __future__ import annotations

from collections.abc import Sequence

from .prefix import Rows
from .tokens import LENGTH


def same_words(prompt: Sequence[str], neutral: Sequence[str]) -> list[int]:
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
