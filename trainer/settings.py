"""Settings in a TOML file and texts in JSON, from whoever wrote them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from apl_core.errors import ConfigError
from apl_core.metadata import printable
from apl_core.texts import decoded, one_line_end

if sys.version_info >= (3, 11):
    import tomllib
else:
    from . import plain_toml as tomllib

MAX_BYTES = 32 * 1024
"""All settings together take less than 2 KiB."""

MAX_NUMBER = 1e15
"""No number in a run's files is larger, unless somebody broke them."""

_MANY_DOTS = re.compile(r"(?:\.[^.=\n]{0,40}){50}")  # a key of n parts takes n * n time to read


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says; ValueError for whatever is none, also if it is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def is_number(value: object) -> bool:
    """Whether a value out of a file can be shown or drawn."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -MAX_NUMBER < value < MAX_NUMBER


def read_toml(path: Path) -> dict[str, Any]:
    """The settings in a file; ConfigError if it is not readable TOML."""
    asked = f"read the settings in {printable(str(path))}"
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigError(
                asked, f"it is larger than {MAX_BYTES:,} bytes", "give a file of settings"
            )
        text = one_line_end(decoded(data))
        if _MANY_DOTS.search(text):
            raise ConfigError(asked, "a name in it has too many dots", "give a file of settings")
        return tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        # ValueError: no UTF-8, no TOML, a NUL in the path, a number of thousands of digits
        raise ConfigError(asked, printable(str(error), 200), "give a readable TOML file") from error
