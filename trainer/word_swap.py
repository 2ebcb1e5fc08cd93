"""One word swapped for another: what a prefix must leave meaning what it means."""

from __future__ import annotations

import re

_PAIRS = (("man", "woman"), ("men", "women"), ("boy", "girl"), ("boys", "girls"))
_SWAP = {one: other for pair in _PAIRS for one, other in (pair, pair[::-1])}
_WORDS = re.compile(rf"\b({'|'.join(_SWAP)})\b", re.IGNORECASE)


def other_gender(text: str) -> str:
    """The text with "woman" for "man" and the other way round, so for men, boys and girls."""
    return _WORDS.sub(lambda found: _like(found[0], _SWAP[found[0].lower()]), text)


def _like(given: str, word: str) -> str:
    """The word in the letters of the given one: as it is, with a capital, or all capitals."""
    if given.isupper():
        return word.upper()
    return word.capitalize() if given[0].isupper() else word
