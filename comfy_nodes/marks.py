"""Which prefix the values of a run were made with: from the encoder to the picture that is saved.

The gate says which prefix an encoder read while a node ran; everything that the node gives carries
that, and so does everything that is made of it. So a picture's metadata can name what was read for
this very picture, also where ComfyUI takes a conditioning out of its cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_MARK = "apl_read"
_DEPTH = 8

_reading: ContextVar[tuple[set[str], ...]] = ContextVar("apl_reading", default=())


@contextmanager
def reading() -> Iterator[set[str]]:
    """Collect the digests that encoders read inside, in this task and those that it starts."""
    found: set[str] = set()
    token = _reading.set((*_reading.get(), found))
    try:
        yield found
    finally:
        _reading.reset(token)


def read(digest: str) -> None:
    """Say that an encoder has read the rows of this prefix."""
    for found in _reading.get():
        found.add(digest)


def of(value: Any) -> set[str]:
    """The digests that a value, or a part of it, was made with."""
    return {digest for part in _parts(value, _DEPTH) for digest in vars(part).get(_MARK, ())}


def put(value: Any, digests: set[str]) -> None:
    """Have a value and its parts carry these digests beside those that they have."""
    if digests:
        for part in _parts(value, _DEPTH):
            vars(part)[_MARK] = frozenset(digests.union(vars(part).get(_MARK, ())))


def _parts(value: Any, depth: int) -> Iterator[Any]:
    """Everything in lists, tuples and dictionaries that can carry an attribute."""
    if depth == 0 or isinstance(value, type):
        return
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _parts(one, depth - 1)
    elif isinstance(getattr(value, "__dict__", None), dict):
        yield value
