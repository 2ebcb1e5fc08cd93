"""Lists of names: one name a line in UTF-8, every mistake of a list reported at once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from apl_core.captions import alike
from apl_core.errors import ConfigError
from apl_core.metadata import printable
from apl_core.texts import decoded
from apl_core.training.people import MAX_LINE, ListedPerson, people_in

MAX_BYTES = 4 * 1024 * 1024


def read_names(path: Path) -> tuple[str, ...]:
    """The names in a file, as `read_people` reads them."""
    return tuple(person.name for person in read_people(path))


def read_people(path: Path, described: bool = False) -> tuple[ListedPerson, ...]:
    """The people in a text file, as `people_in` reads them; a ConfigError names every fault."""
    asked = f"read the names in {printable(str(path))}"
    return people_in(_text(path, asked), asked, described)


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
