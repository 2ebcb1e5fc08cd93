"""Lists of names: one name a line in UTF-8, every mistake of a list reported at once."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from apl_core.captions import alike, has_letters
from apl_core.errors import ConfigError
from apl_core.metadata import printable
from apl_core.texts import decoded, one_line_end

MAX_LINE = 200
"""Characters of one line."""

MAX_BYTES = 4 * 1024 * 1024

_JOINERS = "\u200c\u200d"  # letters of Persian and Indic names are written with them
_CONTROL = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def read_names(path: Path) -> tuple[str, ...]:
    """The names in a file, in its order, trimmed and in NFC; "#" begins a comment.

    Raises a ConfigError that tells everything that is wrong with the list.
    """
    asked = f"read the names in {printable(str(path))}"
    return names_in(_text(path, asked), asked)


def names_in(text: str, asked: str = "read the names") -> tuple[str, ...]:
    """The names in a text, as `read_names` reads them out of a file; `asked` begins its errors."""
    problems: list[ConfigError] = []
    lines_of: dict[str, list[int]] = {}
    names: list[str] = []
    for number, line in enumerate(one_line_end(text).split("\n"), 1):
        name = unicodedata.normalize("NFC", line.partition("#")[0].strip())
        fault = _fault(line, name)
        if fault:
            problems.append(ConfigError(f"line {number}", *fault))
        elif name:
            names.append(name)
            lines_of.setdefault(alike(name), []).append(number)
    for name in dict.fromkeys(map(alike, names)):
        if len(lines := lines_of[name]) > 1:
            problems.append(
                ConfigError(
                    f"lines {', '.join(map(str, lines))}",
                    f"{printable(name, MAX_LINE)!r} stands there {len(lines)} times",
                    "keep one of them",
                )
            )
    if problems:
        raise ConfigError.of(asked, [_named(asked, one) for one in problems])
    if not names:
        raise ConfigError(asked, "there is no name in it", "write one name a line")
    return tuple(names)


def check_apart(train: Iterable[str], heldout: Iterable[str]) -> None:
    """Refuse lists that share a name, whatever its case; the ConfigError tells every one."""
    held = {alike(name) for name in heldout}
    shared = sorted({printable(name, MAX_LINE) for name in train if alike(name) in held})
    if shared:
        raise ConfigError(
            "train on some names and measure on others",
            f"{len(shared)} of them are in both lists: {', '.join(map(repr, shared))}",
            "take each of them out of one list; figures on names seen in training say nothing",
        )


def _text(path: Path, asked: str) -> str:
    try:
        if not path.is_file():
            found = "it is a folder" if path.is_dir() else "there is no such file"
            raise ConfigError(asked, found, "give a text file with one name a line")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        found = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ConfigError(asked, found, "check the path and whether you may read it") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(asked, f"it is larger than {MAX_BYTES:,} bytes", "give a list of names")
    try:
        return decoded(data)
    except ValueError as error:
        raise ConfigError(asked, str(error), "save the list as UTF-8 text") from error


def _fault(line: str, name: str) -> tuple[str, str] | None:
    """(found, fix) of a line that cannot be read as a name or a comment."""
    if len(line) > MAX_LINE:
        return f"it has {len(line)} characters, at most {MAX_LINE} are read", "one name a line"
    odd = {c for c in name if unicodedata.category(c) in _CONTROL and c not in _JOINERS}
    if odd:
        codes = ", ".join(sorted(f"U+{ord(c):04X}" for c in odd))
        return f"it holds control or invisible characters ({codes})", "type the name again"
    if name and not has_letters(name):
        return (
            f"{printable(name)!r} holds no letter, so no text can be searched for it",
            "write a name",
        )
    return None


def _named(asked: str, problem: ConfigError) -> ConfigError:
    return ConfigError(f"{asked}, {problem.asked}", problem.found, problem.fix)
