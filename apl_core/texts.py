"""Text files as people's programs save them: with a mark in front, and with any line end."""

from __future__ import annotations

from pathlib import Path

_MARK = b"\xef\xbb\xbf"
_OTHERS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def read_text(path: Path) -> str:
    """A UTF-8 file without the mark (BOM) in front, its lines ended by "\\n".

    Raises OSError, and a ValueError whose text says what the file is instead.
    """
    return one_line_end(decoded(path.read_bytes()))


def decoded(data: bytes) -> str:
    """UTF-8 as text, without the mark in front; a ValueError says what it is instead."""
    for mark, name in _OTHERS.items():
        if data.startswith(mark):
            raise ValueError(f"it is {name}, not UTF-8: save it as UTF-8")
    if data.count(0) * 4 > len(data):
        raise ValueError("it looks like UTF-16 without a mark: save it as UTF-8")
    body = data.removeprefix(_MARK)
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        line = one_line_end(body[: error.start].decode("utf-8")).count("\n") + 1
        raise ValueError(f"line {line} is not UTF-8: save it as UTF-8") from error


def one_line_end(text: str) -> str:
    """The text with "\\n" for "\\r\\n", and for "\\r" where only that ends lines (old Macs)."""
    text = text.replace("\r\n", "\n")
    return text if "\n" in text else text.replace("\r", "\n")
