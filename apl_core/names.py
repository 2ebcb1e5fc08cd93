"""Names of prefixes as text: which may be used, which are alike, how messages show them."""

from __future__ import annotations

import unicodedata
from pathlib import Path

SUFFIX = ".safetensors"
MAX_DEPTH = 4
"""Folders below a root that are looked into."""

MAX_NAME = 400
_FORBIDDEN = set('\\:<>"|?*')
_RESERVED = {
    *("con", "prn", "aux", "nul", "conin$", "conout$", "clock$"),
    *(f"{device}{number}" for device in ("com", "lpt") for number in range(10)),
}
_JOINERS = {"\u200c", "\u200d"}
"""Without a width, but scripts and emoji need them."""

_IGNORED = ((0x2065, 0x2065), (0xFFF0, 0xFFF8), (0xE0000, 0xE0FFF))
"""Kept by Unicode for characters that are not to be shown."""

_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def name_fault(name: str) -> str | None:
    """What makes this no name of a prefix, or None."""
    if not name or len(name) > MAX_NAME:
        return f"a name has 1 to {MAX_NAME} characters"
    parts = name.split("/")
    if len(parts) > MAX_DEPTH + 1:
        return f"it goes more than {MAX_DEPTH} folders deep"
    return next(filter(None, map(_part_fault, parts)), None)


def same_text(name: str, other: str) -> bool:
    """Whether two names are one text, however their accents are written."""
    return unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", other)


def plain(name: str) -> str:
    """The name as a keyboard would write it: NFKC, without joiners and variation selectors."""
    kept = (c for c in unicodedata.normalize("NFKC", name) if c not in _JOINERS)
    return "".join(c for c in kept if not "\ufe00" <= c <= "\ufe0f")


def spelled(name: str, limit: int = 80) -> str:
    """The name in quotes for a message; what cannot be seen or printed comes as an escape."""
    return repr(name if len(name) <= limit else f"{name[:limit]}…")


def place(path: Path) -> str:
    """A path for a message: as it is if relative, else its last two parts.

    Messages reach users of an API, who are not to learn where a server keeps its files.
    """
    if not path.anchor:
        return path.as_posix()
    return "/".join(part for part in path.parts[-2:] if part != path.anchor) or "/"


def _part_fault(part: str) -> str | None:
    if odd := next((c for c in part if c in _FORBIDDEN or _unseen(c)), ""):
        return f"it holds {odd!r}, which no prefix name may have"
    if not part.strip(".") or part != part.strip() or part.endswith("."):
        return "a part of it is empty, only dots, or has a space or a dot at an end"
    looks = plain(part)
    if looks.split(".")[0].strip().lower() in _RESERVED:
        return "a part of it is a device name on Windows"
    if set(looks) & set("/\\") or not looks.strip(" ."):
        return "it holds characters that look like those of a path, or that nobody sees"
    return None


def _unseen(c: str) -> bool:
    """Whether a character is invisible or none at all; one that is merely newer is neither."""
    category, code = unicodedata.category(c), ord(c)
    if category != "Cn":
        return category in _UNSEEN and c not in _JOINERS
    nothing = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    return nothing or any(low <= code <= high for low, high in _IGNORED)
