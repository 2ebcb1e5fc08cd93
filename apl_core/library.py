"""Names of prefixes to files, confined to given folders."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import LibraryError, PrefixFileError
from .formats import read_prefix
from .metadata import printable
from .names import MAX_DEPTH, SUFFIX, name_fault, place, plain, same_text, spelled
from .prefix import Prefix

_PICKLES = (".pt", ".bin", ".ckpt", ".pth")
_PICKLE = "a pickle is never opened here: make a prefix of it once with `apl convert`"
_LINK = "links to folders are not followed: add the folder itself to the folders of prefixes"
_told: set[tuple[Path, str]] = set()


@dataclass(frozen=True)
class _Entry:
    """A prefix by its name and real file; or a file by its file name, and why it is left out."""

    name: str
    path: Path
    fault: str = ""


class Library:
    """Prefix files under some root folders, by name; the first root that has a name wins.

    A name is the file's real one below its root, with "/" and without the suffix. `tell` gets one
    sentence for each file that is left out of the list, once a process. `add` tells a user how a
    prefix gets into the folders.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        tell: Callable[[str], object] | None = None,
        *,
        add: str = "put its file there, or learn one with `apl train`",
    ) -> None:
        self.roots: tuple[Path, ...] = tuple(Path(root) for root in roots)
        self._tell, self._add = tell, add

    @property
    def folders(self) -> str:
        """The folders in words, e.g. "models/apl"; never where they lie on this machine."""
        return ", ".join(dict.fromkeys(map(place, self.roots))) or "no folder at all"

    def names(self) -> list[str]:
        """All names that can be resolved, sorted."""
        found, tell = self._found(), self._tell
        for entry in found if tell else ():
            if tell and entry.fault and (entry.path, entry.fault) not in _told:
                _told.add((entry.path, entry.fault))
                tell(f"{spelled(entry.name)} is not in the list of prefixes: {entry.fault}.")
        return _listed(found)

    def left_out(self) -> list[tuple[str, str]]:
        """(file, reason) for everything that may be meant as a prefix and is not listed, sorted."""
        return _left_out(self._found())

    def resolve(self, name: str) -> Path:
        """The real file of a name, always inside a root; LibraryError for anything else.

        A file of exactly this name comes first, then the only one that is written like it.
        """
        if fault := name and name_fault(name):
            raise _error(name, fault, "use a name from the list of prefixes")
        seen: list[list[_Entry]] = []
        for root in self.roots:
            exact = _inside(root, root.joinpath(*f"{name}{SUFFIX}".split("/"))) if name else None
            if exact is not None:
                return exact
            seen.append(list(_walk(root, root, "", MAX_DEPTH)))
            for entry in seen[-1]:
                if entry.name == name and not entry.fault:
                    return entry.path
        entries = _merged(seen)
        alike = {e.name: e.path for e in entries if not e.fault and _alike(name, e.name)}
        if len(alike) > 1:
            spellings = " and ".join(map(ascii, sorted(alike)[:3]))
            found = f"{len(alike)} files have a name that is written like that: {spellings}"
            raise _error(name, found, "give the exact name, or rename one of them")
        for path in alike.values():
            return path
        raise self._unknown(name, entries)

    def load(self, name: str) -> Prefix:
        """The prefix of a name; LibraryError or PrefixFileError."""
        path = self.resolve(name)
        try:
            return read_prefix(path)
        except PrefixFileError as error:
            asked = f"read the prefix file {printable(name, 80)}{SUFFIX}"
            raise PrefixFileError(asked, error.found, error.fix) from error

    def _found(self) -> list[_Entry]:
        return _merged([list(_walk(root, root, "", MAX_DEPTH)) for root in self.roots])

    def _unknown(self, name: str, found: Sequence[_Entry]) -> LibraryError:
        names, left_out = _listed(found), _left_out(found)
        bare = name.removesuffix(SUFFIX)
        for file, why in left_out if name else ():
            if file == name or _alike(bare, os.path.splitext(file)[0]):
                said = f"{spelled(file)} is there, but left out: {why}"
                return _error(name, said, "fix that, or choose another prefix")
        gone = ", ".join(f"{spelled(file)} ({why})" for file, why in left_out[:2])
        more = f"; left out there: {gone}" + ", ..." * (len(left_out) > 2) if gone else ""
        if not names:
            return _error(name, f"there is no prefix yet in {self.folders}{more}", self._add)
        near = difflib.get_close_matches(bare, names, n=3, cutoff=0.4)
        fix = f"choose one that is there, e.g. {spelled(names[0])}"
        if near:
            fix = f"did you mean {' or '.join(map(spelled, near))}? If not, {self._add}"
        elif name:
            fix = f"{fix}; or {self._add}"
        said = f"there is none in {self.folders}{more}" if name else "no name is given"
        return _error(name, said, fix)


def _merged(roots: Sequence[Sequence[_Entry]]) -> list[_Entry]:
    """What lies in all roots, the first root first; a second file of one name is left out."""
    found: list[_Entry] = []
    first: dict[str, Path] = {}
    for entry in (entry for root in roots for entry in root):
        if not entry.fault and first.setdefault(entry.name, entry.path) != entry.path:
            why = "another file has this name and comes first: rename one of them"
            entry = _Entry(entry.name + entry.path.suffix, entry.path, why)
        found.append(entry)
    return found


def _error(name: str, found: str, fix: str) -> LibraryError:
    asked = f"find the prefix {spelled(name)}" if name else "find a prefix"
    return LibraryError(asked, found, fix)


def _listed(found: Sequence[_Entry]) -> list[str]:
    return sorted({entry.name for entry in found if not entry.fault})


def _left_out(found: Sequence[_Entry]) -> list[tuple[str, str]]:
    return sorted({(entry.name, entry.fault) for entry in found if entry.fault})


def _alike(asked: str, name: str) -> bool:
    """Whether what is asked for is this name with accents, widths or joiners written otherwise.

    Odd characters may be those of a real file: nobody reaches it by yet other odd ones.
    """
    return same_text(asked, name) or same_text(asked, plain(name))


def _inside(root: Path, path: Path) -> Path | None:
    """The real regular file at `path` if it is in the real `root`, links followed; else None."""
    try:
        home, real = root.resolve(strict=True), path.resolve(strict=True)
        return real if real.is_relative_to(home) and real.is_file() else None
    except (OSError, RuntimeError, ValueError):  # RuntimeError: a loop of links before 3.13
        return None


def _walk(root: Path, folder: Path, above: str, depth: int) -> Iterator[_Entry]:
    try:
        entries = sorted(os.scandir(folder), key=lambda e: (not e.name.endswith(SUFFIX), e.name))
    except FileNotFoundError:  # a root that is not there (yet)
        return
    except OSError as error:
        why = f"the folder cannot be read ({error.strerror})"
        yield _Entry(above or place(root), folder, why)
        return
    for entry in entries:
        name, path = above + entry.name, Path(entry.path)
        if entry.is_dir(follow_symlinks=False) and depth > 0:
            yield from _walk(root, path, f"{name}/", depth - 1)
        elif os.path.isdir(path):
            deep = f"folders more than {MAX_DEPTH} deep are not looked into"
            yield _Entry(f"{name}/", path, _LINK if entry.is_symlink() else deep)
        elif name.lower().endswith(_PICKLES):
            yield _Entry(name, path, _PICKLE)
        elif name.lower().endswith(SUFFIX):
            yield _file(root, path, name)


def _file(root: Path, path: Path, name: str) -> _Entry:
    bare = name[: -len(SUFFIX)]
    if fault := name_fault(bare):
        return _Entry(name, path, fault)
    real = _inside(root, path)
    if real is not None:
        return _Entry(bare, real)
    if not os.path.exists(path):
        return _Entry(name, path, "it is a link that leads nowhere")
    if not os.path.isfile(path):
        return _Entry(name, path, "it is not a regular file")
    return _Entry(name, path, "it leads to a file outside the folder: put the file itself there")
