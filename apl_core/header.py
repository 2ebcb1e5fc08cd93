"""The header of a safetensors file, parsed and checked before any tensor is loaded."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, cast

from .limits import (
    DIMENSIONS,
    ESCAPES,
    FOREIGN_BYTES,
    HEADER_BYTES,
    HEADER_PARTS,
    NUMBER_DIGITS,
    SAMPLE_BYTES,
    STRINGS,
    VALUE_BYTES,
)
from .metadata import CARD_KEYS, printable, unique_keys

LENGTH_BYTES = 8
_DTYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
_LONG_NUMBER = re.compile(rb"(?<![0-9])[0-9]{%d}" % NUMBER_DIGITS)  # linear: tries once a run


_NAME = re.compile(rb'"([^"\\]{1,200})"\s*:\s*\{\s*"(?:dtype|shape|data_offsets)"')
_TOO_LARGE = "its header is larger than that of any model"
PASSED_OVER = b" bytes passed over"


class HeaderFault(ValueError):
    """What is wrong with a header, in plain words."""


@dataclass(frozen=True)
class Entry:
    """One tensor as the header announces it; `start` and `end` count from the first data byte."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape)) or 'scalar'} {self.dtype}"


@dataclass(frozen=True)
class Header:
    """All tensors of a file by name, and its metadata."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]


def header_length(start: bytes, file_bytes: int) -> int:
    """Bytes of the JSON header from the first bytes of a file; HeaderFault."""
    if len(start) < LENGTH_BYTES:
        raise HeaderFault("it is too short for a safetensors file")
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if length > file_bytes - LENGTH_BYTES:
        raise HeaderFault("it is not a safetensors file, or it is cut off in its header")
    return length


def pass_over(text: bytes) -> bytes:
    """A header's JSON with long foreign values of its metadata replaced by their length in words.

    What is not valid JSON stays so. HeaderFault if it has more strings than any model's.
    """
    if len(text) <= FOREIGN_BYTES:
        return text
    masked, escapes = text, text.count(b"\\")
    if escapes > ESCAPES:
        raise HeaderFault(_TOO_LARGE)
    if escapes:  # every quotation mark that is left opens or closes a string
        masked = text.replace(b"\\\\", b"..").replace(b'\\"', b"..")
    if masked.count(b'"') + escapes * STRINGS // (2 * ESCAPES) > STRINGS:
        raise HeaderFault(_TOO_LARGE)
    pieces = masked.split(b'"')  # by turns: structure, the inside of a string
    ends = list(accumulate(map(len, pieces)))
    long = [i for i in range(3, len(pieces) - 1, 2) if len(pieces[i]) > FOREIGN_BYTES]
    kept: list[bytes] = []
    copied = 0
    for i in long:
        if pieces[i - 1].strip() == b":" and not _ours(pieces[i - 2], len(pieces[i])):
            kept += [text[copied : ends[i - 1] + i], b"%d%b" % (len(pieces[i]), PASSED_OVER)]
            copied = ends[i] + i
    return b"".join([*kept, text[copied:]])


def tensor_names(text: bytes) -> list[str]:
    """Names of tensors that are seen at either end of a header, sound or broken."""
    ends = [text[:SAMPLE_BYTES], text[max(SAMPLE_BYTES, len(text) - SAMPLE_BYTES) :]]
    return [match[1].decode("utf-8", "replace") for end in ends for match in _NAME.finditer(end)]


def parse_header(text: bytes, data_bytes: int) -> Header:
    """The header from its JSON bytes, for a file with that many bytes of data; HeaderFault."""
    if len(text) > HEADER_BYTES:
        raise HeaderFault(f"its header has {len(text):,} bytes, at most {HEADER_BYTES:,} are read")
    table = _json(text)
    metadata = _metadata(table.pop("__metadata__", {}))
    entries = {name: _entry(name, fields, data_bytes) for name, fields in table.items()}
    place = 0
    for entry in sorted(entries.values(), key=lambda e: (e.start, e.end)):
        if entry.start != place:
            raise HeaderFault("its tensors overlap or leave gaps")
        place = entry.end
    if place != data_bytes:
        raise HeaderFault(f"it has {data_bytes:,} bytes of data, its header announces {place:,}")
    return Header(entries, metadata)


def with_metadata(blob: bytes, metadata: Mapping[str, str]) -> bytes:
    """A safetensors file's bytes with other metadata; the same bytes every time.

    safetensors itself writes metadata in an order that changes from call to call.
    """
    data = LENGTH_BYTES + int.from_bytes(blob[:LENGTH_BYTES], "little")
    table = json.loads(blob[LENGTH_BYTES:data])
    table = {"__metadata__": dict(metadata), **table}
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format asks for data that begins at a multiple of 8
    return len(text).to_bytes(LENGTH_BYTES, "little") + text + blob[data:]


def _ours(key: bytes, size: int) -> bool:
    """Whether a value of metadata is one that a prefix is made or told of."""
    name = key.decode("ascii", "replace")
    return name.startswith("apl.") or (size <= VALUE_BYTES and name in CARD_KEYS)


def _json(text: bytes) -> dict[str, object]:
    if sum(map(text.count, (b"{", b"[", b":"))) > HEADER_PARTS or _LONG_NUMBER.search(text):
        raise HeaderFault(_TOO_LARGE)
    try:
        table: Any = json.loads(text.decode("utf-8"), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise HeaderFault(f"its header is not valid JSON ({printable(str(error), 80)})") from error
    if not text.startswith(b"{") or not isinstance(table, dict):
        raise HeaderFault("its header is not a table")
    return cast("dict[str, object]", table)


def _metadata(values: object) -> dict[str, str]:
    if not isinstance(values, dict):
        raise HeaderFault("its metadata is not a table")
    for key, value in cast("dict[str, object]", values).items():
        if not isinstance(value, str):
            raise HeaderFault(f"its metadata {printable(key, 40)!r} is not text")
        if max(_bytes_in(key), _bytes_in(value)) > VALUE_BYTES:
            raise HeaderFault(
                f"its metadata {printable(key, 40)!r} is longer than {VALUE_BYTES:,} bytes"
            )
    return cast("dict[str, str]", values)


def _entry(name: str, fields: object, data_bytes: int) -> Entry:
    described = cast("dict[str, object]", fields) if isinstance(fields, dict) else {}
    dtype = described.get("dtype")
    shape, offsets = _numbers(described.get("shape")), _numbers(described.get("data_offsets"))
    if (
        len(described) != 3
        or not isinstance(dtype, str)
        or shape is None
        or offsets is None
        or len(offsets) != 2
    ):
        raise HeaderFault(f"its header entry {printable(name, 40)!r} is broken")
    if dtype not in _DTYPE_BYTES:
        raise HeaderFault(
            f"its tensor {printable(name, 40)!r} has the dtype {printable(dtype, 20)!r}"
        )
    start, end = offsets
    if not start <= end <= data_bytes or end - start != math.prod(shape) * _DTYPE_BYTES[dtype]:
        raise HeaderFault(
            f"its tensor {printable(name, 40)!r} does not lie in the file as announced (cut off?)"
        )
    return Entry(dtype, shape, start, end)


def _numbers(values: object) -> tuple[int, ...] | None:
    if not isinstance(values, list) or len(cast("list[object]", values)) > DIMENSIONS:
        return None
    numbers: list[int] = []
    for value in cast("list[object]", values):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            return None
        numbers.append(value)
    return tuple(numbers)


def _bytes_in(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
