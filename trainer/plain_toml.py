"""The TOML that this project's settings are written in: lines `name = value`, and nothing else.

For Python 3.10, which has no tomllib. Numbers, texts in double quotes, true and false are values.
"""

from __future__ import annotations

import json
import re
from typing import Any

_LINE = re.compile(r"\s*([A-Za-z0-9_-]+)\s*=\s*(.*?)\s*")
_VALUE = re.compile(r"(\"(?:[^\"\\]|\\.)*\"|[^\"#\s]+)\s*(?:#.*)?")


def loads(text: str) -> dict[str, Any]:
    """The settings in a text; ValueError for every line that is not as simple as that."""
    found: dict[str, Any] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        pair = _LINE.fullmatch(line)
        value = _VALUE.fullmatch(pair[2]) if pair else None
        if pair is None or value is None or pair[1] in found:
            raise ValueError(f"line {number} is not `name = value`, or its name was there already")
        try:
            parsed = json.loads(value[1].replace("_", "") if value[1][0] != '"' else value[1])
        except ValueError as error:
            raise ValueError(f"line {number}: {value[1][:40]!r} is not a value") from error
        if not isinstance(parsed, bool | int | float | str):
            raise ValueError(f"line {number}: {value[1][:40]!r} is not a value")
        found[pair[1]] = parsed
    return found
