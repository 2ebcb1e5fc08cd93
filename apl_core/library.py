"""Names of prefixes to files, confined to given folders."""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from .errors import LibraryError
from .formats import read_prefix
from .metadata import shown
from .prefix import Prefix

SUFFIX = ".safetensors"
MAX_DEPTH = 4
"""Folders below a root that are looked into."""

MAX_NAME = 400
_FORBIDDEN = set('\\:<>"|?*')
_RESERVED = {
    *("con", "prn", "aux", "nul", "conin$", "conout$", "clock$"),
    *(f"{device}{number}" for device in ("com", "lpt") for number in range(10)),
}


class Library:
    """Prefix files under some root folders, by name; the first root that has a name wins."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots: tuple[Path, ...] = tuple(Path(root) for root in roots)

    def names(self) -> list[str]:
        """All names that can be resolved, sorted: relative, with "/", without the suffix."""
        return sorted({name for root in self.roots for name in _walk(root, root, "", MAX_DEPTH)})

    def resolve(self, name: str) -> Path:
        """The real file of a name, always inside a root; LibraryError for anything else."""
        fault = _fault(name)
        if fault:
            raise LibraryError(
                f"find the prefix {shown(name, 80)!r}",
                fault,
                "use a name from the list of prefixes",
            )
        for root in self.roots:
            found = _inside(root, root.joinpath(*f"{name}{SUFFIX}".split("/")))
            if found is not None:
                return found
        raise self._unknown(name)

    def load(self, name: str) -> Prefix:
        """The prefix of a name; LibraryError or PrefixFileError."""
        return read_prefix(self.resolve(name))

    def _unknown(self, name: str) -> LibraryError:
        names = self.names()
        near = difflib.get_close_matches(name.removesuffix(SUFFIX), names, n=3, cutoff=0.4)
        folders = ", ".join(str(root) for root in self.roots) or "no folder at all"
        if near:
            fix = "did you mean " + " or ".join(repr(one) for one in near) + "?"
        elif names:
            fix = f"choose one that is there, e.g. {names[0]!r}"
        else:
            fix = "train one, or put a prefix file into one of these folders"
        return LibraryError(
            f"find the prefix {shown(name, 80)!r}", f"there is none in {folders}", fix
        )


def _fault(name: str) -> str | None:
    """What makes this no name of a prefix, or None."""
    if not name or len(name) > MAX_NAME:
        return f"a name has 1 to {MAX_NAME} characters"
    if unicodedata.normalize("NFKC", name) != name:
        return "it holds characters that only look like others"
    if any(c in _FORBIDDEN or unicodedata.category(c) in _UNSEEN for c in name):
        return "it holds characters that no prefix name may have"
    parts = name.split("/")
    if len(parts) > MAX_DEPTH + 1:
        return f"it goes more than {MAX_DEPTH} folders deep"
    for part in parts:
        if part in ("", ".", "..") or part != part.strip() or part.endswith("."):
            return "a part of it is empty, only dots, or has a space or a dot at an end"
        if part.split(".")[0].strip().lower() in _RESERVED:
            return "a part of it is a device name on Windows"
    return None


_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def _inside(root: Path, path: Path) -> Path | None:
    """The real regular file at `path` if it is in the real `root`, links followed; else None."""
    try:
        home, real = root.resolve(strict=True), path.resolve(strict=True)
        return real if real.is_relative_to(home) and real.is_file() else None
    except (OSError, RuntimeError, ValueError):  # RuntimeError: a loop of links before 3.13
        return None


def _walk(root: Path, folder: Path, above: str, depth: int) -> Iterator[str]:
    try:
        entries = list(os.scandir(folder))
    except OSError:  # a root that is not there (yet), or a folder that may not be read
        return
    for entry in entries:
        name = above + entry.name.removesuffix(SUFFIX)
        if entry.is_dir(follow_symlinks=False):
            if depth > 0:
                yield from _walk(root, Path(entry.path), f"{above}{entry.name}/", depth - 1)
        elif entry.name.endswith(SUFFIX) and not _fault(name) and _inside(root, Path(entry.path)):
            yield name
