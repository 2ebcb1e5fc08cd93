"""Lists of names, as every learner reads them: `Name` or `Name = description`, one a line."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from ..captions import Names, alike, has_letters
from ..errors import ConfigError
from ..metadata import printable
from ..texts import one_line_end

log = logging.getLogger("apl")

MAX_LINE = 200
"""Characters of one line."""

_JOINERS = "\u200c\u200d"  # letters of Persian and Indic names are written with them
_CONTROL = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


@dataclass(frozen=True)
class ListedPerson:
    """A name to anonymize, and what may stay of its bearer ("" says nothing)."""

    name: str
    description: str = ""

    @property
    def line(self) -> str:
        """The line of a list that this person is read from."""
        return f"{self.name} = {self.description}" if self.description else self.name


def people_in(
    text: str, asked: str = "read the names", described: bool = False
) -> tuple[ListedPerson, ...]:
    """The people in a text, in its order, trimmed and in NFC; "#" begins a comment.

    With `described` everybody needs a description. A ConfigError that begins with `asked` names
    everything that is wrong with the list; a name inside another one is logged.
    """
    problems: list[ConfigError] = []
    lines_of: dict[str, list[int]] = {}
    people: list[ListedPerson] = []
    for number, line in enumerate(one_line_end(text).split("\n"), 1):
        plain = unicodedata.normalize("NFC", line.partition("#")[0])
        name, _, description = (part.strip() for part in plain.partition("="))
        fault = _fault(line, name, description, described)
        if fault:
            problems.append(ConfigError(f"{asked}, line {number}", *fault))
        elif name:
            people.append(ListedPerson(name, description))
            lines_of.setdefault(alike(name), []).append(number)
    for name, lines in lines_of.items():
        if len(lines) > 1:
            found = f"{printable(name, MAX_LINE)!r} stands there {len(lines)} times"
            where = f"{asked}, lines {', '.join(map(str, lines))}"
            problems.append(ConfigError(where, found, "keep one of them"))
    if problems:
        raise ConfigError.of(asked, problems)
    if not people:
        raise ConfigError(asked, "there is no name in it", "write one name a line")
    _log_overlaps([person.name for person in people])
    return tuple(people)


def kept_for_validation(
    people: Sequence[ListedPerson],
) -> tuple[list[ListedPerson], list[ListedPerson]]:
    """Who is learned from, and who decides which step is kept: the first eighth, of five or more.

    Nobody is kept of fewer than five.
    """
    kept = max(len(people) // 8, 1) if len(people) >= 5 else 0
    return list(people[kept:]), list(people[:kept])


def _log_overlaps(names: Sequence[str]) -> None:
    """Tell of names inside others; their spellings are looked up, so that long lists are quick."""
    spelled = {alike(name): name for name in names}
    longest = max(map(len, spelled))
    for key, name in spelled.items():
        parts = {
            key[start:end]
            for start in range(len(key))
            for end in range(start + 1, min(len(key), start + longest) + 1)
        }
        inside = [spelled[part] for part in sorted(parts & spelled.keys() - {key})]
        if found := next((other for other in inside if Names([other]).find(name)), ""):
            log.warning(
                "the name %s stands inside %s: prompts of the longer one count for that one",
                printable(found, 80),
                printable(name, 80),
            )


def _fault(line: str, name: str, description: str, described: bool) -> tuple[str, str] | None:
    """(found, fix) of a line that cannot be read as a person or a comment."""
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
    if description and not name:
        return "there is a description and no name", "write `Name = description`"
    if name and described and not description:
        return (
            f"{printable(name)!r} has no description",
            "write `Name = a woman with short gray hair`, or choose the target `person`",
        )
    return None
