"""The operator's prefixes by family: `APL_ENFORCE=studio` finds studio, studio-sdxl, studio-zimage.

Every family that the server may draw with has one; a family without one is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .errors import LibraryError
from .families import TABLE
from .library import Library
from .prefix import FAMILIES, Prefix


@dataclass(frozen=True)
class Enforced:
    """A prefix, read once when the server starts, and the family whose texts it stands in."""

    name: str
    family: str
    prefix: Prefix
    digest: str


def find(library: Library, name: str) -> Mapping[str, Enforced]:
    """The prefixes of this name, or of this name, a hyphen and anything, by their families.

    Raises AplError if there is none, one cannot be read or does not say its family, or two are for
    the same: where one has the very name, that one counts.
    """
    names = [one for one in library.names() if one.startswith(f"{name}-")]
    try:
        library.resolve(name)
        names.insert(0, name)
    except LibraryError:
        if not names:
            raise
    found: dict[str, Enforced] = {}
    for one in names:
        prefix = library.load(one)
        family = _family(prefix, one)
        if family not in found:
            found[family] = Enforced(one, family, prefix, prefix.digest)
        elif found[family].name != name:
            both = f"{found[family].name!r} and {one!r} are both for {family}"
            raise LibraryError(f"enforce the prefixes {name!r}", both, "rename one of them")
    return found


def _family(prefix: Prefix, name: str) -> str:
    if all(key.startswith("clip_") for key in prefix.keys):
        return FAMILIES.get(frozenset(prefix.keys), "")
    if prefix.card.family in {one.name for one in TABLE}:
        return prefix.card.family
    raise LibraryError(
        f"enforce the prefix {name!r}",
        f"its file does not say which family it was learned through ({prefix.described})",
        "use a prefix that says it, or name it otherwise",
    )
