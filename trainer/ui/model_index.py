"""The models and runs that a page may name: found by the server, never given to it."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from apl_core.atomic import numbered
from apl_core.errors import ConfigError, LibraryError
from apl_core.metadata import printable

from ..checkpoints.model_files import Piece, kind_of_file, kind_of_folder, needed
from ..run_paths import BUILT_IN
from .run_request import FILE, Kind

POCKET = "Pocket model (built in)"
DEPTH = 3
"""Folders below a root that are looked into."""

_FOLDERS = ("world.json", "model_index.json", "tokenizer_config.json")
"""What stands in a folder that is a pocket model, a diffusers pipeline or a tokenizer."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)


@dataclass(frozen=True)
class Choice:
    """A model that can be learned on."""

    title: str
    kind: Kind
    path: Path


@dataclass(frozen=True)
class ModelIndex:
    """Roots given on the command line, and what lies in them; links that lead out are not taken.

    `looks`: whether pictures can be looked at before a run on a checkpoint learns from them.
    """

    runs_root: Path
    model_roots: tuple[Path, ...] = ()
    apl_dir: Path | None = None
    looks: bool = True
    imports: Path | None = None

    @property
    def imports_root(self) -> Path:
        """Where folders are made of the files of a model."""
        return self.imports or self.runs_root / "models"

    def models(self) -> dict[str, Choice]:
        """Models by title, the built-in one first."""
        found = {POCKET: Choice(POCKET, "pocket", BUILT_IN)}
        for root in (*self.model_roots, self.imports_root):
            for choice in filter(None, (_choice(*one) for one in _found(root))):
                found.setdefault(choice.title, choice)
        return found

    def candidates(self, piece: Piece) -> dict[str, Path]:
        """What can be taken for a piece of a model, by title; files of its usual name first."""
        usual = piece.name.rpartition("/")[2].removesuffix(".safetensors")
        found: dict[str, Path] = {}
        for root in self.model_roots:
            for title, path in _found(root):
                if _kind_of(path) == piece.kind:
                    found.setdefault(title, path)
        return dict(sorted(found.items(), key=lambda one: usual not in one[1].name))

    def pieces(self, model: Choice, titles: Sequence[str]) -> tuple[Path, ...] | None:
        """The files to make a model whole by their titles, None for a model that is whole.

        In the order of `needed`; ConfigError names every one that is missing.
        """
        lone = needed(model.path) if model.path.is_file() else None
        if lone is None:
            return None
        found: list[Path] = []
        problems: list[ConfigError] = []
        for number, piece in enumerate(lone[1]):
            path = self.candidates(piece).get(titles[number] if number < len(titles) else "")
            if path is not None:
                found.append(path)
                continue
            problems.append(
                ConfigError(
                    f"learn on {lone[0]}",
                    f"its {piece.what} is missing",
                    f"choose {piece.name} or one like it",
                )
            )
        if problems:
            raise ConfigError.of(f"make {model.title} whole", problems)
        return tuple(found)

    def model(self, title: object) -> Choice:
        """The model of a title; LibraryError for anything that is not on the list."""
        found = self.models().get(title) if isinstance(title, str) else None
        if found is None:
            raise LibraryError(
                f"find the model {printable(str(title), 80)!r}",
                "it is not on the list",
                "choose one of the list; more folders are given with `apl ui --models FOLDER`",
            )
        return found

    def runs(self) -> list[str]:
        """Names of all runs, the newest first."""
        try:
            entries = list(os.scandir(self.runs_root))
        except OSError:  # not there yet
            return []
        found = [
            (_began(Path(e.path)), e.name)
            for e in entries
            if e.is_dir(follow_symlinks=False) and _is_run(Path(e.path))
        ]
        return [name for _, name in sorted(found, reverse=True)]

    def run(self, name: object) -> Path:
        """The folder of a run; LibraryError for anything that is not on the list."""
        if not isinstance(name, str) or name not in self.runs():
            raise LibraryError(
                f"find the run {printable(str(name), 80)!r}",
                "it is not on the list",
                "choose one of the list",
            )
        return self.runs_root / name

    def new_run(self, name: str) -> Path:
        """A folder for a new run: `name`, or `name-2`, `name-3` ... if that one is taken."""
        if not _NAME.fullmatch(name) or _RESERVED.fullmatch(name):
            raise ConfigError(
                f"call the run {printable(name, 80)!r}",
                "it is not a plain name",
                "use 1 to 60 letters, digits, - and _, beginning with a letter or a digit",
            )
        return numbered(self.runs_root / name, taken=_taken)


def _kind_of(path: Path) -> str:
    """What a file or folder can be taken for; files are read again only once they have changed."""
    try:
        stat = path.stat()
    except OSError:
        return ""
    return _read_kind(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(4096)
def _read_kind(path: Path, size: int, changed: int) -> str:
    return kind_of_folder(path) if path.is_dir() else kind_of_file(path)


def _is_run(folder: Path) -> bool:
    return (folder / FILE).is_file() or (folder / "config.toml").is_file()


def _taken(folder: Path) -> bool:
    """Whether somebody's work is in a folder; a run that never began learning is none."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    return (folder / "config.toml").exists() or not (folder / FILE).is_file()


def _began(folder: Path) -> float:
    for name in (FILE, "config.toml"):
        try:
            return (folder / name).stat().st_mtime
        except OSError:
            continue
    return 0.0


def _walk(root: Path, folder: Path, above: str, depth: int) -> Iterator[tuple[str, Path]]:
    """(title, path) of files with weights, and of folders that are a model or a tokenizer."""
    try:
        entries: Sequence[os.DirEntry[str]] = list(os.scandir(folder))
    except OSError:  # a root that is not there, or a folder that may not be read
        return
    for entry in entries:
        path, title = Path(entry.path), above + entry.name
        if entry.name.startswith(".") or not _inside(root, path):
            continue
        if entry.is_dir():
            marks = [mark for mark in _FOLDERS if (path / mark).is_file()]
            if marks:
                yield title, path.resolve()
            elif depth > 0 and not entry.is_symlink():
                yield from _walk(root, path, f"{title}/", depth - 1)
        elif entry.name.lower().endswith(".safetensors"):
            yield title, path.resolve()


def _found(root: Path) -> list[tuple[str, Path]]:
    return sorted(_walk(root, root, "", DEPTH), key=lambda one: one[0].casefold())


def _choice(title: str, path: Path) -> Choice | None:
    """A model by its file or folder, None for a tokenizer."""
    if path.is_file() or (path / "model_index.json").is_file():
        return Choice(title, "checkpoint", path)
    return Choice(title, "pocket", path) if (path / "world.json").is_file() else None


def _inside(root: Path, path: Path) -> bool:
    """Whether the real file or folder at `path` is in the real `root`, links followed."""
    try:
        return path.resolve(strict=True).is_relative_to(root.resolve(strict=True))
    except (OSError, RuntimeError, ValueError):  # RuntimeError: a loop of links before 3.13
        return False
